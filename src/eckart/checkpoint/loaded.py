"""Which files a model in memory was loaded from: its tensors stay in a map of these files until they are used."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from eckart.checkpoint.unchanged import SourceFiles

_FILES: WeakKeyDictionary[nn.Module, SourceFiles] = WeakKeyDictionary()


def remember_files(model: nn.Module, files: SourceFiles) -> None:
    """Note that ``model`` was loaded from ``files``."""
    _FILES[model] = files


def check_unchanged(*models: nn.Module) -> None:
    """Raise if a file that a model was loaded from has changed: what was computed may be of two models.

    To be called when numbers are there, before they are told or stored. A model that was not loaded by
    :func:`eckart.load_model` is taken as it is.

    Raises:
        CheckpointError: names the file.
    """
    for model in models:
        if model in _FILES:
            _FILES[model].check()
