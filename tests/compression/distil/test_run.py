"""Distillation of blocks that an earlier run has finished, in memory and in files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compression.distil.test_training import SETTINGS
from tests.conftest import Stop, make_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.blocks.discovery import find_blocks
from eckart.compression.distil.run import put_layers
from eckart.errors import EckartError, InterruptedRun
from eckart.layers import PivotedLinear
from eckart.run.compress_checkpoint import compress_checkpoint


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("stop", ["before", "during"])
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_an_interrupted_distillation_is_resumed_to_the_same_bytes(
    memory: int | None,
    stop: str,
    model_folder: Path,
    text_file: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    def run(out: str, **options: object) -> eckart.CompressionResult:
        settings: dict[str, Any] = {
            "overrides": [*SETTINGS, "structure=pivoted"],
            "samples": 6,
            "length": 24,
            **options,
        }
        return compress_checkpoint(model_folder, tmp_path / out, "svd-llm", 0.6, str(text_file), **settings)

    expected = run("whole")
    callback = Stop(2, KeyboardInterrupt()) if stop == "before" else StopDistilling()
    with pytest.raises((InterruptedRun, EckartError)):
        run("stopped", memory=memory, callback=callback)
    report = run("stopped", memory=memory, resume=True)
    assert report.distillation == expected.distillation
    ours, theirs = (next((tmp_path / out).glob("*.index.json")).parent for out in ("stopped", "whole"))
    for file in theirs.glob("*.safetensors"):
        assert file.read_bytes() == (ours / file.name).read_bytes()
    assert not (tmp_path / "stopped.unfinished").exists()


class StopDistilling(eckart.Callback):
    """Raises in the second epoch."""

    def on_distillation(self, number: int, record: object) -> None:
        if number == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["structure=pivoted"],
        ["precision=8-bit"],
        ["objective.affine=true"],
        ["structure=dictionary", "allocation=knapsack", "allocation.shares=[0.4,0.7]", "allocation.multiple=1"],
    ],
    ids=str,
)
def test_layers_of_an_earlier_run_take_its_tensors(
    overrides: list[str], llama: PreTrainedModel, tokens: Tensor
) -> None:
    dense = copy.deepcopy(llama)
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=overrides)
    records = {layer.path: layer for layer in report.layers}
    ours, theirs = find_blocks(dense), [llama.get_submodule(f"model.layers.{number}") for number in range(3)]
    for block, compressed in zip(ours, theirs, strict=True):
        put_layers(block, records, report.recipe.layout)
        state = compressed.state_dict()
        assert {name: t.shape for name, t in block.module.state_dict().items()} == {
            n: t.shape for n, t in state.items()
        }
        block.module.load_state_dict(state)
    in_order = [module.index is None for module in dense.modules() if isinstance(module, PivotedLinear)]
    assert sum(in_order) == sum(record.in_order for record in report.layers)
    with torch.no_grad():
        assert torch.equal(dense(tokens).logits, llama(tokens).logits)


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_in_files_it_is_the_same(tokens: Tensor) -> None:
    """Blocks that are in files between uses, and activations that are computed twice."""
    states = []
    for memory in (None, 1):
        model = make_model("llama")
        report = eckart.compress(model, "svd-llm", 0.5, tokens, overrides=SETTINGS, memory=memory)
        assert report.distillation is not None
        states.append((model.state_dict(), report.distillation))
    assert states[0][1] == states[1][1]
    assert all(torch.equal(tensor, states[1][0][name]) for name, tensor in states[0][0].items())
