"""Compressed models in engines that serve: the plug-in of vLLM, and the arithmetic of a layer that is cut over devices.

Modules that know vLLM are called ``vllm_*`` and imported by nobody else.
"""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
