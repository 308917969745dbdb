"""Does something once a package or module has been imported, before or later. It never imports it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import dropwhile
from types import ModuleType


def after_import(package: str, then: Callable[[], object]) -> None:
    """Call ``then`` when ``package`` has been imported: now if it has, or right after it is.

    Args:
        package: name of a package or module, that may not be installed.
        then: what to do; once.
    """
    if _is_imported(package):
        then()
    else:
        sys.meta_path.insert(0, _Finder(package, then))


class _Finder(MetaPathFinder):
    """Finds the package where others find it, and is told when it has been run."""

    def __init__(self, package: str, then: Callable[[], object]) -> None:
        self.package, self.then = package, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the package with a loader around its own; None for all else."""
        # Where its import was under way when this was put here, it is over at one of the next imports.
        if _is_imported(self.package):
            self.done()
            return None
        if fullname != self.package:
            return None
        # Many ask for a spec only to see whether there is one: this stays until the package is run.
        # Only those that come later are asked: another one of this class asks this one.
        for finder in [*dropwhile(lambda finder: finder is not self, sys.meta_path)][1:]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def done(self) -> None:
        """Do what was to be done, if that was not done yet."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self.then()


class _Loader(Loader):
    """A loader that says when another one has run a module."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the other one makes."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module as if this loader had never been, then say so."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.finder.done()


def _is_imported(package: str) -> bool:
    """Return whether a package has been imported to its end."""
    module = sys.modules.get(package)
    # What the import system itself looks at where a module is imported by two at a time.
    return module is not None and not getattr(module.__spec__, "_initializing", False)
