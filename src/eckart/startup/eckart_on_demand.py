"""Imports eckart when transformers is asked for a model of its format, and not before.

This file is found by a path, in processes that may never need eckart: it imports nothing but the standard library.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

METHOD = PACKAGE = "eckart"
TABLES = "transformers.quantizers.auto"  # the module that holds them
NAMES = ("AUTO_QUANTIZATION_CONFIG_MAPPING", "AUTO_QUANTIZER_MAPPING")


class OnDemand(dict[str, Any]):
    """A table of transformers by the name of a format. Who looks for ours makes this package register it."""

    def __contains__(self, name: object) -> bool:
        register(name)
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        register(name)
        return super().__getitem__(name)


class Finder(MetaPathFinder):
    """Puts such tables into transformers when it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that others find for the module with the tables, with a loader around its own."""
        # Where the import of that module was under way already, its tables are there at one of the next imports.
        if change_tables(sys.modules.get(TABLES)):
            sys.meta_path.remove(self)
        elif fullname == TABLES:
            sys.meta_path.remove(self)
            spec = find_spec(fullname)
            if spec is not None and spec.loader is not None:
                spec.loader = Around(spec.loader)
            return spec
        return None


class Around(Loader):
    """A loader that changes a module when another one has loaded it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the other one makes."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then change it."""
        self.loader.exec_module(module)
        change_tables(module)


def change_tables(module: ModuleType | None) -> bool:
    """Put tables that ask us in the place of those by which transformers finds a format, if they are there."""
    tables = {name: table for name, table in vars(module or sys).items() if name in NAMES}
    if len(tables) < len(NAMES):
        return False
    for name, table in tables.items():
        if not isinstance(table, OnDemand):
            setattr(module, name, OnDemand(table))
    return True


def register(name: object) -> None:
    """Import eckart, which registers its format, if that is the format that is looked for."""
    # It is in `sys.modules` from the start of its own import, which looks into these tables too.
    if name == METHOD and PACKAGE not in sys.modules:
        import_module(PACKAGE)


def install() -> None:
    """Make transformers ask us, whether it is imported already or not."""
    known = any(type(finder).__name__ == Finder.__name__ for finder in sys.meta_path)
    if not change_tables(sys.modules.get(TABLES)) and not known:
        sys.meta_path.insert(0, Finder())
