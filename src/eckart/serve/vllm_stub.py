"""What is the same of every quantization config of ours in vLLM, and the one for a vLLM that lacks a hook."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from eckart.checkpoint.guard import METHOD
from eckart.errors import ServingError


class MethodConfig(QuantizationConfig):  # type: ignore[misc]
    """What vLLM asks of a method before it reads a model."""

    def get_name(self) -> str:
        """Return what the method is called in config.json."""
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """Return the dtypes that a model can be served in."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Return that every accelerator will do: no kernel of ours runs on one."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Return none: everything is in config.json."""
        return []


def config_without(reason: str) -> type[MethodConfig]:
    """Return a config that raises with ``reason`` when that of a compressed model is read."""

    class Refusing(MethodConfig):
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            raise ServingError(reason)

        def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
            raise ServingError(reason)

    return Refusing
