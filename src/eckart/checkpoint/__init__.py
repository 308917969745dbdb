"""Compressed models as Hugging Face folders: written atomically, loaded by plain ``from_pretrained``.

The plug-in of transformers lies here beside what writes folders. Importing it must not import the compressor, so that
the names below are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eckart.lazy import importer

if TYPE_CHECKING:
    from eckart.checkpoint.load import load_model
    from eckart.checkpoint.registration import register
    from eckart.checkpoint.tokenizer import load_tokenizer

__all__ = ["load_model", "load_tokenizer", "register"]

__getattr__ = importer(
    __name__,
    {
        "load_model": "eckart.checkpoint.load:load_model",
        "load_tokenizer": "eckart.checkpoint.tokenizer:load_tokenizer",
        "register": "eckart.checkpoint.registration:register",
    },
)
