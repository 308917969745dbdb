"""Preparations and refinements in a walk: what is trained, what is factored then, and what the records say."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.conftest import Stop, contents, make_model
from tests.tiny_models import DECODER, blockwise
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

import eckart
from eckart.compression.result import CompressionResult
from eckart.errors import InterruptedRun

SHORT = ("epochs=2", "batch=5", "learning_rate=0.02", "held_out=0.17", "warmup=0", "penalty.weight=0.3")
PREPARED = ["preparation=block", *(f"preparation.{field}" for field in SHORT)]
HELD_OUT = slice(10, 12)

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")


def compressed(
    model: PreTrainedModel, tokens: Tensor, recipe: str = "svd-llm", *overrides: str
) -> tuple[PreTrainedModel, CompressionResult]:
    other = copy.deepcopy(model)
    return other, eckart.compress(other, recipe, 0.6, tokens, overrides=overrides)


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def relative_error(dense: PreTrainedModel, other: PreTrainedModel, tokens: Tensor) -> float:
    """Return the relative error of the first block on the samples that were held out."""
    run = blockwise(dense, tokens)
    (x,) = run.enter()
    call = run.arguments[0].of(x)
    with torch.no_grad():
        y, found = call(run.modules[0], x), call(other.model.layers[0], x)
    return float((found - y)[HELD_OUT].square().sum() / (y - x)[HELD_OUT].square().sum())


def test_the_guard_compares_what_the_layers_will_be(llama: PreTrainedModel, tokens: Tensor) -> None:
    """So that a prepared block loses less on the samples that were held out than one that was not."""
    plain, _ = compressed(llama, tokens)
    prepared, report = compressed(llama, tokens, "svd-llm", *PREPARED)
    record = report.preparations[0]
    assert record.kept_epoch > 0
    assert record.before == pytest.approx(relative_error(llama, plain, tokens), rel=1e-3)
    assert record.after == pytest.approx(relative_error(llama, prepared, tokens), rel=1e-3)
    assert [record.block for record in report.preparations] == [f"model.layers.{number}" for number in range(3)]
    assert all(record.after <= record.before for record in report.preparations)  # type: ignore[operator]
    assert report.costs.timings.preparation > 0


def test_errors_of_layers_count_from_the_original_weights(llama: PreTrainedModel, tokens: Tensor) -> None:
    prepared, report = compressed(llama, tokens, "svd-llm", *PREPARED)
    with torch.no_grad():
        inputs = llama.model.layers[0].input_layernorm(llama.model.embed_tokens(tokens)).flatten(0, 1)
        expected = inputs @ llama.model.layers[0].self_attn.q_proj.weight.T
        found = prepared.model.layers[0].self_attn.q_proj(inputs)
    error = next(layer.error for layer in report.layers if layer.path == "model.layers.0.self_attn.q_proj")
    assert error == pytest.approx(float((found - expected).norm() / expected.norm()), rel=1e-3)


def test_nothing_changes_without_steps_or_without_a_gain(llama: PreTrainedModel, tokens: Tensor) -> None:
    plain, before = compressed(llama, tokens)
    none, report = compressed(llama, tokens, "svd-llm", "preparation=block", "preparation.epochs=0")
    assert same(plain, none)
    assert report.preparations == []
    assert "preparations" not in report.model_dump()
    worse, report = compressed(llama, tokens, "svd-llm", *PREPARED, "preparation.learning_rate=5")
    assert [record.kept_epoch for record in report.preparations] == [0, 0, 0]
    assert same(plain, worse)
    assert report.layers == before.layers
    assert CompressionResult.model_validate_json(report.model_dump_json()).preparations == report.preparations


@pytest.mark.parametrize(
    ("kind", "recipe", "overrides"),
    [
        ("gpt2", "aa-svd-layer", ()),
        ("opt", "dobi-shift", ("structure=pivoted", "refinement=block", "refinement.epochs=1")),
        ("phi3", "io-svd", ("allocation=uniform",)),
        ("qwen2", "zs-svd", ("sharing=shared", "preparation.coordinates=white", "preparation.penalty=stable-rank")),
    ],
)
def test_it_goes_with_other_choices(kind: str, recipe: str, overrides: tuple[str, ...], tokens: Tensor) -> None:
    model, report = compressed(make_model(kind), tokens, recipe, *PREPARED, *overrides)
    assert report.preparations
    for record in report.preparations:
        assert record.before is not None
        assert record.after is not None
        assert record.after <= record.before
        assert record.tails
    assert report.keep <= 0.6 + 1e-9
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point())


def test_only_what_will_be_cut_is_prepared(llama: PreTrainedModel, tokens: Tensor) -> None:
    overrides = [*PREPARED, "targets.*.q_proj=leave", "targets.*.o_proj.rank=7", "targets.*.down_proj.keep=1"]
    _, report = compressed(llama, tokens, "svd-llm", *overrides)
    expected = {f"model.layers.0.{n}" for n in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")}
    expected |= {f"model.layers.0.mlp.{n}" for n in ("gate_proj", "up_proj")}
    assert set(report.preparations[0].tails) == expected


def test_experts_stay_as_they_are(tokens: Tensor) -> None:
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**DECODER, num_local_experts=3, num_experts_per_tok=2)).eval()
    _, report = compressed(model, tokens, "aa-svd-layer", *PREPARED)
    assert report.preparations
    assert all(".self_attn." in path for record in report.preparations for path in record.tails)


def test_a_resumed_run_writes_the_same_bytes(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    def run(out: Path, **options: object) -> CompressionResult:
        return eckart.compress_checkpoint(
            model_folder,
            out,
            "prehab",
            0.6,
            str(text_file),
            samples=6,
            length=24,
            overrides=[*PREPARED, "preparation.held_out=0.3"],
            **options,  # type: ignore[arg-type]
        )

    whole = run(tmp_path / "whole")
    assert any(record.kept_epoch for record in whole.preparations)
    with pytest.raises(InterruptedRun):
        run(tmp_path / "parts", callback=Stop(2, KeyboardInterrupt()))
    assert run(tmp_path / "parts", resume=True).preparations == whole.preparations
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
