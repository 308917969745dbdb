"""Makes transformers load what this package wrote, as soon as its code for models is imported.

That code takes seconds to import. Who asks for help, or reads a record, does not wait for it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from eckart.after_import import after_import


def register() -> None:
    """Tell transformers about our format, when it can be told; harmless when called again."""
    after_import("transformers.configuration_utils", _register_config)
    after_import("transformers.modeling_utils", _register_quantizer)


@cache  # once, however often it is asked for
def _register_config() -> None:
    import_module("eckart.checkpoint.guard").wrap_configs()


@cache
def _register_quantizer() -> None:
    import_module("eckart.checkpoint.quantizer").register_quantizer_classes()
