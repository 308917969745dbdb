"""Makes PEFT know the layers of compressed models, so that a user's code of PEFT works on them as it is."""

from __future__ import annotations

from importlib.metadata import version

from eckart.after_import import after_import
from eckart.errors import warn


def connect() -> None:
    """Make PEFT's LoRA know our layers as soon as PEFT is imported; harmless when called again."""
    after_import("peft", _register)


def _register() -> None:
    """Put our model class for LoRA in the place of PEFT's own, in PEFT's table of classes."""
    try:
        from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftType

        from eckart.adapters.model import CompressedLoraModel

        PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = CompressedLoraModel
    except (ImportError, AttributeError) as error:  # PEFT goes on working for all other models
        warn(
            f"peft {version('peft')} is not known here ({error}): it finds the layers inside compressed ones only. "
            "Install the version that the extra names: pip install 'eckart[peft]'."
        )
