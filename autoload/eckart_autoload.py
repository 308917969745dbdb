"""Called by PyTorch at the end of its import: from then on transformers loads models that eckart compressed.

Eckart itself is not imported here, and neither is transformers. Where eckart is not installed nothing happens.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def install() -> None:
    """Make transformers import eckart when it is asked for a model of that format."""
    package = find_spec("eckart")  # of a package that is in no other, this imports nothing
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder, "startup", "eckart_on_demand.py")
        spec = spec_from_file_location("eckart_on_demand", path)
        if path.is_file() and spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            module.install()
            return
