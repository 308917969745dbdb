"""Tiny random models of all classes in transformers' mappings, and inputs for each."""

from tiny_models.builder import build, tiny_config
from tiny_models.classes import KINDS, Entry, entries
from tiny_models.errors import TinyModelError
from tiny_models.inputs import sample_for

__all__ = ["KINDS", "Entry", "TinyModelError", "build", "entries", "sample_for", "tiny_config"]
