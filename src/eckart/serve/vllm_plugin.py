"""The entry point that vLLM calls in each of its processes: it makes the format known."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eckart.checkpoint.guard import METHOD

OLDEST = "0.32"  # that was tried


def register() -> None:
    """Tell vLLM of the quantization method; harmless when called again.

    Models that Eckart did not write must go on being served. So a vLLM that lacks what is needed is only told of here,
    and raises when a compressed model is loaded.
    """
    try:
        from vllm.model_executor.layers.quantization import register_quantization_config

        register_quantization_config(METHOD)(_config())
    except ImportError as error:
        logging.getLogger(__name__).warning(lacks(error))


def _config() -> type[Any]:
    try:
        from eckart.serve.vllm_config import VllmConfig
    except ImportError as error:
        from eckart.serve.vllm_stub import config_without

        return config_without(lacks(error))
    return VllmConfig


def lacks(error: ImportError) -> str:
    """Return a sentence on a vLLM in which a hook is missing."""
    try:
        found = version("vllm")
    except PackageNotFoundError:
        found = _version_of_module()
    return (
        f"vLLM {found} lacks a hook that eckart needs to serve compressed models: {error}. Expected vLLM {OLDEST} or "
        "newer: install that, or a version of eckart that was made for it."
    )


def _version_of_module() -> str:
    import vllm

    return str(getattr(vllm, "__version__", "of unknown version"))
