"""The guard in the config of a compressed model: without this library transformers stops, and fills nothing at random.

It is put into whatever writes configs, and imports no code for models: who reads configs alone does not wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

METHOD = "eckart"  # what the config of a compressed model calls its quantisation
# What every config.json of ours names as the file of the weights. There is none of that name: transformers without this
# library ends there, with a message that holds the name, instead of filling layers that it does not know with random
# numbers. This library never looks for it.
GUARD = "this-model-needs-import-eckart.safetensors.index.json"


def is_of_compressed_model(config: Any) -> bool:
    """Return whether the config of a model, in memory or as read from a file, is that of a compressed one."""
    found = getattr(config, "quantization_config", None)
    method: object = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return method == METHOD


def with_guard(write: Callable[..., str]) -> Callable[..., str]:
    """Return a function that gives a config as JSON, with the guard against a load without this library.

    Args:
        write: gives a config as JSON. On its way to a file it leaves ``transformers_weights`` out, whatever that is.
    """

    @wraps(write)
    def to_json_string(config: PreTrainedConfig, *args: Any, **kwargs: Any) -> str:
        text = write(config, *args, **kwargs)
        if not is_of_compressed_model(config):
            return text
        return json.dumps({**json.loads(text), "transformers_weights": GUARD}, indent=2, sort_keys=True) + "\n"

    return to_json_string


PreTrainedConfig.to_json_string = with_guard(PreTrainedConfig.to_json_string)  # once: at the import of this module
