"""The walk that compresses a model block by block, and what it leaves on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eckart.lazy import importer

if TYPE_CHECKING:
    from eckart.compression.callback import Callback
    from eckart.compression.result import CompressionResult

__all__ = ["Callback", "CompressionResult"]

__getattr__ = importer(
    __name__,
    {
        "Callback": "eckart.compression.callback:Callback",
        "CompressionResult": "eckart.compression.result:CompressionResult",
    },
)
