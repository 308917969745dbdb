"""Functions of transformers that ask no quantizer, and do a little more for compressed models.

What they did for all other models they still do, byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from eckart.checkpoint.config import GUARD, METHOD, EckartConfig
from eckart.errors import warn
from eckart.layers import QuantizedLinear
from eckart.layers.vocabulary import take_tables_back


def is_of_compressed_model(config: Any) -> bool:
    """Return whether the config of a model, in memory or as read from a file, is that of a compressed one."""
    found = getattr(config, "quantization_config", None)
    return isinstance(found, EckartConfig) or (isinstance(found, dict) and found.get("quant_method") == METHOD)


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


def with_note(build: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """Return a function that builds a model from its config alone, and says so if that is not what was compressed.

    Args:
        build: builds it, as a method of its class.
    """

    @wraps(build)
    def _from_config(cls: type[PreTrainedModel], config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        # A model without numbers, as it is while one is loaded, is none that anybody takes for a trained one.
        if is_of_compressed_model(config) and torch.get_default_device().type != "meta":
            warn(
                f"from_config gives a dense {cls.__name__} with random weights: the config of a compressed model says "
                "what was done to it, and its weights are in its folder. Load that by from_pretrained."
            )
        return build(cls, config, **kwargs)

    return _from_config


def with_codes(count: Callable[..., int]) -> Callable[..., int]:
    """Return a function that counts the parameters of a model, with the numbers that it holds in few bits.

    Args:
        count: counts what is a parameter of torch, as a method. Whole numbers cannot be trained, and are none.
    """

    @wraps(count)
    def num_parameters(model: PreTrainedModel, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        found = count(model, only_trainable, exclude_embeddings)
        if only_trainable:
            return found
        layers = (module for module in model.modules() if isinstance(module, QuantizedLinear))
        return found + sum(layer.in_features * layer.out_features for layer in layers)

    return num_parameters


def with_dense_tables(resize: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives a model another number of tokens, with an embedding of codes made dense before.

    Args:
        resize: does so, as a method. Rows that are new have no codes.
    """

    @wraps(resize)
    def resize_token_embeddings(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        config = getattr(model.config, "quantization_config", None)
        if isinstance(config, EckartConfig) and config.embedding is not None and (args or kwargs):
            warn(
                "The embedding is held in few bits, which rows that are new do not have: it is in 16 bits from here "
                "on, and a head over the same tokens too."
            )
            head = config.embedding["head"]
            take_tables_back(model)
            if head is not None and isinstance(own := model.get_output_embeddings(), QuantizedLinear):
                model.set_output_embeddings(own.to_dense())
            config.embedding = None
        return resize(model, *args, **kwargs)

    return resize_token_embeddings


def wrap_library() -> None:
    """Put them into transformers. To be called once."""
    PreTrainedConfig.to_json_string = with_guard(PreTrainedConfig.to_json_string)
    PreTrainedModel._from_config = classmethod(with_note(PreTrainedModel._from_config.__func__))
    PreTrainedModel.num_parameters = with_codes(PreTrainedModel.num_parameters)
    PreTrainedModel.resize_token_embeddings = with_dense_tables(PreTrainedModel.resize_token_embeddings)
