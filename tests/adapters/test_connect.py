"""PEFT and this package find each other, whichever is imported first. Each case is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("peft")

USE = """
import torch
model = torch.nn.ModuleDict({"q": eckart.LowRankLinear(4, 4, 2), "lm": torch.nn.Linear(4, 4)})
tuned = peft.get_peft_model(model, config)
assert type(tuned.base_model.model["q"]).__name__ == "CompressedLoraLinear"
"""
CONFIG = "config = peft.LoraConfig(target_modules=['q'])\n"


def run(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-W", "error::UserWarning", "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize(
    "imports",
    [
        f"import peft\n{CONFIG}import eckart\n",
        f"import eckart\nfrom peft.tuners.lora import LoraConfig\nimport peft\n{CONFIG}",
        f"import eckart\nfrom transformers.utils import is_peft_available\nis_peft_available()\nimport peft\n{CONFIG}",
    ],
    ids=["after a config", "by a part", "looked for before"],
)
def test_any_order(imports: str) -> None:
    run(imports + USE)


def test_another_version_works_as_it_did() -> None:
    code = (
        "import sys, eckart, warnings\nsys.modules['eckart.adapters.model'] = None\n"
        "with warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n    import peft\n"
        "print([str(w.message) for w in seen if type(w.message).__name__ == 'EckartWarning'])\n"
        "print(peft.PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType.LORA].__name__)"
    )
    said, name = run(code).splitlines()
    assert "is not known here" in said
    assert "pip install 'eckart[peft]'" in said
    assert name == "LoraModel"
