"""LoRA adapters of PEFT on the layers of compressed models. Nothing here imports PEFT before the user does."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
