"""Makes PEFT know the layers of compressed models, so that a user's code of PEFT works on them as it is."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

from eckart.after_import import after_import
from eckart.errors import warn


def connect() -> None:
    """Make PEFT's LoRA know our layers as soon as PEFT is imported; harmless when called again."""
    after_import("peft", _register)


def _register() -> None:
    """Import what registers itself with PEFT."""
    try:
        import_module("eckart.adapters.model")
    except (ImportError, AttributeError) as error:  # PEFT goes on working for all other models
        warn(
            f"peft {version('peft')} is not known here ({error}): it finds the layers inside compressed ones only. "
            "Install the version that the extra names: pip install 'eckart[peft]'."
        )
