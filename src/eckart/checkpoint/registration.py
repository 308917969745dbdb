"""Makes transformers load what this package wrote, as soon as its code for models is imported.

That code takes seconds to import. Who asks for help, or reads a record, does not wait for it.
"""

from __future__ import annotations

from importlib import import_module

from eckart.after_import import after_import


def register() -> None:
    """Tell transformers about our format, when it can be told; harmless when called again.

    What is imported then tells it at its end. It may be half imported at that moment, by who asked for it first.
    """
    after_import("transformers.configuration_utils", lambda: import_module("eckart.checkpoint.guard"))
    after_import("transformers.modeling_utils", lambda: import_module("eckart.checkpoint.quantizer"))
