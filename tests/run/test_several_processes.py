"""Several processes make the model that one makes, and go on after any of them was killed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import contents, make_model
from tests.several import forks, in_processes, values, warns
from tests.tiny_models import DECODER
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

import eckart
from eckart import processes
from eckart.blocks.tensor_cache import TensorCache
from eckart.data import calibration

pytestmark = [forks, warns]

TRAINED = ("refinement.epochs=2", "refinement.batch=2", "refinement.shuffle=true")
DISTILLED = (
    "refinement=block",
    "refinement.epochs=1",
    "distillation=logits",
    "distillation.epochs=2",
    "distillation.batch=3",
)
Cases = dict[str, tuple[str, ...]]
CASES: Cases = {  # every way of a sum, by a recipe that takes it
    "svd-llm": (),
    "asvd": ("allocation.shares=[0.5,0.7]",),
    "adasvd": (),
    "zs-svd-staged": ("allocation.stages=2",),
    "svd-llm-lora": ("distillation.batch=3", "distillation.learning_rate=1e-2"),
    "prehab": (
        "preparation.penalty=tail",
        "preparation.batch=2",
        "preparation.learning_rate=3e-3",
        "preparation.epochs=3",
    ),
    "saes-svd": ("objective.residual_anchoring=1", "objective.affine=true"),
    "aa-svd-anchored": TRAINED,
    "eckart-fast": ("allocation.multiple=1",),
    "dobi-svd": ("allocation.epochs=1",),
    "hybrid-anchored": (),
    "auto": ("allocation.multiple=1", "allocation.bases=['4-bit','2-bit']"),
    "svd": ("objective=input-aware", "sharing=by-loss", *DISTILLED),
}
LENGTH = 24


@pytest.fixture(autouse=True)
def batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BATCH_TOKENS", LENGTH)


def mixture() -> PreTrainedModel:
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**DECODER, num_local_experts=6, num_experts_per_tok=1)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.mul_(20)  # so that a few tokens leave some experts alone
    return model


def compressed(make: Callable[[], PreTrainedModel], cases: Cases, tokens: Any) -> dict[str, Tensor]:
    """Return all weights of a model for each of some recipes."""
    found: dict[str, Tensor] = {}
    for recipe, overrides in cases.items():
        model = make()
        eckart.compress(model, recipe, 0.6, tokens, overrides=overrides, allow_partial=True)
        found |= {f"{recipe}.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    return found


def same_in_all(count: int, work: Callable[[], dict[str, Tensor]], place: Path, near: float = 1e-5) -> None:
    """Compare what one process makes with what each of several does."""
    one = work()

    def several() -> None:
        with processes.together():
            number = processes.rank()
            save_file(work(), place / f"{number}.safetensors")

    values(count, several, place)
    found = [load_file(place / f"{number}.safetensors") for number in range(count)]
    for name, tensor in one.items():
        assert torch.equal(found[0][name], found[-1][name]), name
        expected, other = tensor.double(), found[0][name].double()
        assert (other - expected).norm() <= near * expected.norm(), name


def test_every_recipe_ends_as_in_one_process(tokens: Tensor, tmp_path: Path) -> None:
    same_in_all(2, lambda: compressed(make_model, CASES, tokens[:5]), tmp_path)


def test_a_process_may_have_no_tokens_and_reach_no_expert(tokens: Tensor, tmp_path: Path) -> None:
    cases = {name: CASES[name] for name in ("svd-llm", "saes-svd", "aa-svd-anchored", "eckart-fast")}
    same_in_all(3, lambda: compressed(mixture, cases, tokens[:2]), tmp_path)


def test_samples_of_any_kind_are_dealt_out(tokens: Tensor, tmp_path: Path) -> None:
    samples = [{"input_ids": tokens[None, n, : 9 + 3 * n]} for n in range(5)]
    cases = {"svd": ("objective=input-aware", *DISTILLED), "aa-svd-anchored": TRAINED}
    same_in_all(2, lambda: compressed(make_model, cases, samples), tmp_path, 1e-4)


class Killer(eckart.Callback):
    """Kills a process when so many blocks are done in it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_block(self, finished: int) -> None:
        if finished == 2:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("victim", [0, 1])
def test_any_process_may_be_killed_and_the_run_goes_on_to_the_same_bytes(
    victim: int, model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, **options: Any) -> None:
        eckart.compress_checkpoint(
            model_folder,
            tmp_path / out,
            "aa-svd-anchored",
            0.6,
            str(text_file),
            samples=5,
            length=LENGTH,
            overrides=[*TRAINED, "distillation=logits", "distillation.epochs=1"],
            memory=1,
            **options,
        )

    def die() -> None:
        real, saved = TensorCache.save, []

        def save(cache: TensorCache, path: Path) -> Any:
            saved.append(path)
            if processes.rank() == victim and len(saved) == 5:  # in the middle of what is kept of the second block
                os.kill(os.getpid(), signal.SIGKILL)
            return real(cache, path)

        monkeypatch.setattr(TensorCache, "save", save)
        run("out")

    values(2, lambda: run("whole"), tmp_path)
    ended = in_processes(2, die, tmp_path)
    assert ended[victim].signal == signal.SIGKILL
    error = ended[1 - victim].error
    assert error is not None
    assert "Another process of the run has ended" in error
    assert "1 finished blocks are kept" in error
    refused = in_processes(3, lambda: run("out", resume=True), tmp_path)
    assert refused[0].error is not None
    assert "was made by 2 processes, and this one by 3" in refused[0].error
    assert [one.kind for one in refused[1:]] == ["ToldElsewhereError"] * 2
    values(2, lambda: run("out", resume=True), tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.unfinished").exists()
    values(2, lambda: run("out", resume=True), tmp_path)  # which is finished


def test_processes_that_are_to_do_different_things_are_told_which(
    tokens: Tensor, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    def work() -> None:
        number = int(os.environ["RANK"])
        if kind == "model":
            eckart.compress(make_model(seed=number), "svd-llm", 0.6, tokens[:2])
        elif kind == "text":
            eckart.compress(make_model(), "svd-llm", 0.6, tokens[number : number + 2])
        else:
            out = tmp_path / f"out-{number}"
            eckart.compress_checkpoint(model_folder, out, "svd-llm", 0.6, str(text_file), samples=2, length=LENGTH)

    facts = {"model": "model.files.numbers", "text": "calibration.sha256", "output": "options.output"}
    for kind, what in facts.items():
        first, second = in_processes(2, work, tmp_path)
        assert (first.kind, second.kind) == ("ProcessError", "ToldElsewhereError"), kind
        assert first.error is not None
        assert f"{what} is '" in first.error
        assert "in process 0 and '" in first.error


def test_a_process_whose_disk_is_full_says_so_and_ends_the_others(
    model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        real = TensorCache.append

        def append(cache: TensorCache, tensor: Tensor) -> None:
            if processes.rank() == 1 and cache.path is not None and "00002" in cache.path.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(cache, tensor)

        monkeypatch.setattr(TensorCache, "append", append)
        eckart.compress_checkpoint(
            model_folder, tmp_path / "out", "svd-llm", 0.6, str(text_file), samples=4, length=LENGTH, memory=1
        )

    first, second = in_processes(2, work, tmp_path)
    assert (first.kind, second.kind) == ("ProcessError", "CheckpointError")
    assert second.error is not None
    assert "the disk is full" in second.error
    assert "1 finished blocks are kept" in second.error
