"""What a vLLM that lacks a hook is told: that compressed models cannot be loaded, when one is."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from eckart.checkpoint.config import METHOD
from eckart.errors import ServingError


def config_without(reason: str) -> type[QuantizationConfig]:
    """Return a quantization config of vLLM that raises with ``reason`` when a model's is read."""

    class Refusing(QuantizationConfig):  # type: ignore[misc]
        def get_name(self) -> str:
            return METHOD

        def get_supported_act_dtypes(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16, torch.float32]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            raise ServingError(reason)

        def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
            raise ServingError(reason)

    return Refusing
