"""llama.cpp's own quantisation, called in its shared library."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

import gguf

from rival_packages.environments import RivalError
from rival_packages.imatrix import Importance

VERSION = "0.5.0"  # the release whose structures these are


class Importances(Structure):
    """``llama_model_imatrix_data``; a list of them ends with one without a name."""

    _fields_ = (("name", c_char_p), ("data", POINTER(c_float)), ("size", c_size_t))


class Parameters(Structure):
    """``llama_model_quantize_params``."""

    _fields_ = (
        ("nthread", c_int32),
        ("ftype", c_int),
        ("output_tensor_type", c_int),
        ("token_embedding_type", c_int),
        ("allow_requantize", c_bool),
        ("quantize_output_tensor", c_bool),
        ("only_copy", c_bool),
        ("pure", c_bool),
        ("keep_split", c_bool),
        ("dry_run", c_bool),
        ("imatrix", POINTER(Importances)),
        ("kv_overrides", c_void_p),
        ("tt_overrides", c_void_p),
        ("prune_layers", c_void_p),
        ("max_buf_size", c_size_t),
        ("reserved", c_size_t * 8),  # fields that a later build may add are left as its defaults are
    )


class Library:
    """The shared library.

    Args:
        path: of ``libllama``; the libraries that it needs lie beside it.

    Raises:
        RivalError: it is of another release: the structures may have other fields.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.llama_version.restype = c_char_p
        self.version: str = self._library.llama_version().decode()
        if not self.version.startswith(VERSION):
            raise RivalError(f"{path} is of llama.cpp {self.version}; expected {VERSION}.")
        self._library.llama_model_quantize_default_params.restype = Parameters
        self._library.llama_model_quantize.argtypes = (c_char_p, c_char_p, POINTER(Parameters))
        self._library.llama_model_quantize.restype = c_uint32

    def quantise(
        self, source: Path, target: Path, kind: str, importance: Importance, embedding: str | None, threads: int
    ) -> None:
        """Write a GGUF file of fewer bits.

        Args:
            source: GGUF file in float32.
            target: to write.
            kind: preset, such as ``IQ3_XXS``.
            importance: of the inputs, by name of the tensor.
            embedding: type of the embedding, such as ``q4_0``; None for the preset's.
            threads: to use.

        Raises:
            RivalError: it did not work.
        """
        values = self._library.llama_model_quantize_default_params()
        values.nthread, values.ftype = threads, preset(kind)
        if embedding is not None:  # a tied embedding is asked for by the one name or by the other
            values.token_embedding_type = values.output_tensor_type = type_of(embedding)
        listed = (Importances * (len(importance) + 1))()
        for place, (name, numbers) in enumerate(importance.items()):
            listed[place] = Importances(name.encode(), numbers.ctypes.data_as(POINTER(c_float)), len(numbers))
        values.imatrix = ctypes.cast(listed, POINTER(Importances))
        if self._library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(values)):
            raise RivalError(f"llama.cpp did not make {kind} of {source}; what it wrote above says why.")


def preset(kind: str) -> int:
    """Return llama.cpp's number of a preset."""
    names = {f"MOSTLY_{kind}", f"MOSTLY_{kind}_M" if kind in ("Q3_K", "Q4_K", "Q5_K") else ""}
    for entry in gguf.LlamaFileType:
        if entry.name in names:
            return int(entry)
    raise RivalError(f"llama.cpp has no preset {kind}.")


def type_of(name: str) -> int:
    """Return the number of a type of tensors."""
    try:
        return int(gguf.GGMLQuantizationType[name.upper()])
    except KeyError:
        raise RivalError(f"llama.cpp has no type {name} of tensors.") from None
