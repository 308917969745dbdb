"""Who loads a compressed model imports what runs it, and not what made it. Each case is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import make_model

import eckart

# What a model is compressed, measured and reported with.
COMPRESSOR = (
    "eckart.maths.lowrank",
    "eckart.maths.moments",
    "eckart.maths.pivoting",
    "eckart.data",
    "eckart.blocks",
    "eckart.methods.allocation",
    "eckart.methods.distillation",
    "eckart.methods.metric",
    "eckart.methods.objectives",
    "eckart.methods.recipe",
    "eckart.methods.recipes",
    "eckart.methods.refinement",
    "eckart.methods.structure.fitting",
    "eckart.methods.training",
    "eckart.evaluate",
    "eckart.compression",
    "eckart.runtimes",
    "eckart.run",
    "eckart.sweep",
    "eckart.draft",
    "eckart.report",
    "eckart.cli",
)
MOST_MODULES = 67  # of this package, packages counted too, and `eckart.serve`
LOAD = """
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({folder!r})
assert any(type(module).__name__ == {layer!r} for module in model.modules())
"""
LOADED = """
import json, sys
print(json.dumps([name for name in sys.modules if name.partition(".")[0] in ("eckart", "peft", "vllm")]))
"""


def modules_after(code: str) -> set[str]:
    """Return the modules of this package, PEFT and vLLM that are imported in a fresh process after some code."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import eckart\n{code}\n{LOADED}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def of_the_compressor(modules: set[str]) -> list[str]:
    return sorted(name for name in modules if any(f"{name}.".startswith(f"{part}.") for part in COMPRESSOR))


def test_the_package_alone() -> None:
    modules = modules_after("import eckart.serve")
    assert not of_the_compressor(modules)
    assert len(modules) <= MOST_MODULES
    # What it works with is not imported for nothing.
    assert not [name for name in modules if name.startswith(("peft", "vllm", "eckart.adapters.model"))]
    # What is asked for is imported then: the list above can be told from one of names that are nowhere.
    assert set(of_the_compressor(modules_after("eckart.compress, eckart.perplexity"))) > {
        "eckart.maths.lowrank",
        "eckart.run.compress",
        "eckart.evaluate",
    }


STRUCTURES = {
    "two-factor": "LowRankLinear",
    "pivoted": "PivotedLinear",
    "hybrid": "HybridLinear",
    "remapped": "RemappedLinear",
    "kept-columns": "KeptColumnsLinear",
    "dictionary": "DictionaryLinear",
}


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_a_model_of_each_structure(tmp_path: Path) -> None:
    code = ""
    for structure, layer in STRUCTURES.items():
        model = make_model("llama")
        base = ["structure.base=8-bit"] if structure == "hybrid" else []
        report = eckart.compress(model, "svd", 0.7, overrides=[f"structure={structure}", *base])
        eckart.save(model, report, tmp_path / structure)
        code += LOAD.format(folder=str(tmp_path / structure), layer=layer)
    modules = modules_after(code)
    assert not of_the_compressor(modules)
    assert len(modules) <= MOST_MODULES


def test_every_public_name_is_there() -> None:
    assert set(eckart.__all__) <= set(dir(eckart))
    assert all(getattr(eckart, name) is not None for name in eckart.__all__)
    assert eckart.Report is eckart.CompressionResult
    assert eckart.Observer is eckart.Callback
    with pytest.raises(AttributeError, match="module 'eckart' has no attribute 'decompress'"):
        eckart.decompress  # noqa: B018
