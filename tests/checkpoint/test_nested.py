"""Folders that serve several sizes: each size is the model that was compressed to it, and what is damaged is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.conftest import Stop, contents, make_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint.nested import KEY, NESTED_NAME, is_of, ranks_for, read_nested
from eckart.checkpoint.records import read_records
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError, EckartError, EckartWarning
from eckart.layers import LowRankLinear

RECIPES = {
    "weight": ("svd", ["allocation.multiple=1"]),
    "original-inputs": ("svd-llm", []),
    "metric": ("io-svd", ["allocation.floor=0.3"]),
}


def made(recipe: str, folder: Path, kind: str = "llama", keep: float = 0.6) -> CompressionResult:
    """Write a folder with nested ranks."""
    name, overrides = RECIPES[recipe]
    model, tokens = make_model(kind), calibration()
    report = eckart.compress(model, name, keep, tokens, overrides=overrides, nested=True)
    eckart.save(model, report, folder)
    return report


def calibration() -> torch.Tensor:
    return torch.randint(256, (12, 24), generator=torch.Generator().manual_seed(1))


def factors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if ".first." in name or ".second." in name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nested") / "small"
    made("original-inputs", place)
    return place


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.mark.parametrize(("recipe", "kind"), [*((recipe, "llama") for recipe in RECIPES), ("weight", "gpt2")])
def test_a_size_is_the_model_that_was_compressed_to_its_ranks(recipe: str, kind: str, tmp_path: Path) -> None:
    report = made(recipe, tmp_path / "small", kind)
    assert report.nested is not None
    keep = (report.keep + report.nested.least) / 2
    smaller = eckart.load_model(tmp_path / "small", keep=keep)
    ranks = smaller.config.quantization_config.ranks
    assert sum(ranks.values()) < sum(report.ranks.values())
    name, overrides = RECIPES[recipe]
    # Of the same statistics: these objectives look at the original model's inputs.
    direct = make_model(kind)
    own = [f"targets.{layer.path}.rank={ranks.get(layer.path, 10**6)}" for layer in report.layers]
    found = eckart.compress(direct, name, report.requested_keep, calibration(), overrides=[*overrides, *own])
    assert found.ranks == ranks
    torch.testing.assert_close(factors(smaller), factors(direct), rtol=1e-5, atol=1e-6)
    assert report.nested.bytes_of(ranks) == sum(layer.bytes for layer in found.layers)
    assert found.keep <= keep


def test_layers_of_one_basis_have_sizes_too(tmp_path: Path) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.6, calibration(), overrides=["sharing=shared"], nested=True)
    eckart.save(model, report, tmp_path / "small")
    smaller = eckart.load_model(tmp_path / "small", keep=0.4)
    ranks = smaller.config.quantization_config.ranks
    assert any(path.endswith(".joint") for path in ranks)
    for path, rank in ranks.items():
        whole = model.get_submodule(path)
        assert isinstance(whole, LowRankLinear)
        assert rank <= whole.rank
        expected = whole.second.weight[:, :rank] @ whole.first.weight[:rank]
        torch.testing.assert_close(smaller.get_submodule(path).weight, expected)


def test_all_ways_to_a_size_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    loaded = eckart.load_model(folder, keep=0.3)
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config["keep"] = 0.3
    plain = AutoModelForCausalLM.from_pretrained(folder, config=config)
    eckart.save(loaded, tmp_path / "smaller")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "smaller")
    for model in (plain, written):
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
        )
    described = json.loads((tmp_path / "smaller" / "config.json").read_text())["quantization_config"]
    assert "keep" not in described
    assert described["ranks"] == loaded.config.quantization_config.ranks
    assert described["provenance"]["keep"] == 0.3
    # A size of a size is that size of the whole.
    small, whole = (eckart.load_model(place, keep=0.2) for place in (tmp_path / "smaller", folder))
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), whole.state_dict().values(), strict=True))
    assert small.config.quantization_config.ranks == whole.config.quantization_config.ranks
    report = read_records(tmp_path / "smaller")
    assert report.ranks == described["ranks"]
    assert report.keep <= 0.3 == report.requested_keep
    assert "Errors of layers and by depth are those of the larger model" in report.warnings[-1]
    in_files = sum(t.numel() * 2 for t in factors(written).values())
    assert in_files == sum(layer.bytes for layer in report.layers if layer.rank)


def test_without_keep_all_is_there(folder: Path) -> None:
    ranks = read_records(folder).ranks
    for model in (eckart.load_model(folder), eckart.load_model(folder, keep=1.0)):
        assert {n: m.rank for n, m in model.named_modules() if isinstance(m, LowRankLinear)} == ranks


def test_a_run_on_disk_says_the_same_and_is_resumed(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "recipe": "svd-llm",
        "keep": 0.6,
        "calibration": str(text_file),
        "samples": 4,
        "length": 24,
    }
    whole = eckart.compress_checkpoint(model_folder, tmp_path / "whole", nested=True, **options)
    assert whole.nested is not None
    stop = Stop(2, EckartError("stop"))
    with pytest.raises(EckartError, match="stop"):
        eckart.compress_checkpoint(model_folder, tmp_path / "again", nested=True, callback=stop, **options)
    with pytest.raises(CheckpointError, match="nested"):
        eckart.compress_checkpoint(model_folder, tmp_path / "again", resume=True, **options)
    eckart.compress_checkpoint(model_folder, tmp_path / "again", nested=True, resume=True, **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "again")
    order = read_nested(tmp_path / "whole")
    assert order.ranks == whole.ranks
    assert is_of(eckart.load_model(tmp_path / "whole"), order)
    plain = eckart.compress_checkpoint(model_folder, tmp_path / "plain", **options)
    assert plain.nested is None
    with_order, without = (contents(tmp_path / name) for name in ("whole", "plain"))
    assert with_order.pop(NESTED_NAME)
    assert with_order.pop("eckart/files.json") != without.pop("eckart/files.json")  # which lists it
    assert with_order == without
    assert eckart.load_model(tmp_path / "whole", keep=0.3).config.quantization_config.ranks == order.ranks_within(0.3)


def test_other_dtypes_are_the_same_components(folder: Path) -> None:
    ranks = eckart.load_model(folder, keep=0.4).config.quantization_config.ranks
    for dtype in (torch.bfloat16, torch.float16):
        assert eckart.load_model(folder, keep=0.4, dtype=dtype).config.quantization_config.ranks == ranks


@pytest.mark.parametrize("keep", [0, -0.1, 1.1, float("nan"), True, "half"])
def test_no_share(folder: Path, keep: float) -> None:
    with pytest.raises(EckartError, match="keep is the share of the bytes to load"):
        eckart.load_model(folder, keep=keep)


def test_sizes_that_are_not_there(folder: Path, model_folder: Path, tmp_path: Path) -> None:
    least = read_nested(folder).least
    eckart.load_model(folder, keep=least)
    with pytest.raises(CheckpointError, match=f"holds sizes from {least:.4f} to"):
        eckart.load_model(folder, keep=least - 1e-3)
    with pytest.raises(CheckpointError, match="not compressed by eckart"):
        eckart.load_model(model_folder, keep=0.5)
    model = make_model("llama")
    eckart.save(model, eckart.compress(model, "svd", 0.6), tmp_path / "plain")
    with pytest.raises(CheckpointError, match="does not say in which order"):
        eckart.load_model(tmp_path / "plain", keep=0.5)
    with pytest.raises(CheckpointError, match="not in memory"):
        eckart.load_model(folder, keep=0.3, offload=tmp_path / "offload")


def test_a_model_that_was_trained_since_has_no_order(copied: Path, tmp_path: Path) -> None:
    model = eckart.load_model(copied)
    layer = next(module for module in model.modules() if isinstance(module, LowRankLinear))
    with torch.no_grad():
        layer.first.weight.add_(0.01 * torch.randn_like(layer.first.weight))
    with pytest.warns(EckartWarning, match="no order any more"):
        eckart.save(model, tmp_path / "trained")
    assert not (tmp_path / "trained" / NESTED_NAME).exists()
    eckart.load_model(tmp_path / "trained")
    shutil.copyfile(copied / NESTED_NAME, tmp_path / "trained" / NESTED_NAME)
    with pytest.raises(CheckpointError, match="trained or changed since"):
        eckart.load_model(tmp_path / "trained", keep=0.3)


def test_training_in_16_bits_is_seen_if_it_moved_one_number_by_its_last_bit(folder: Path, tmp_path: Path) -> None:
    model = eckart.load_model(folder, dtype=torch.bfloat16)
    eckart.save(model, tmp_path / "rounded")
    order = read_nested(tmp_path / "rounded")
    assert order.dtype == "bfloat16"
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert is_of(eckart.load_model(tmp_path / "rounded", dtype=dtype), order)
    again = eckart.load_model(tmp_path / "rounded", dtype=torch.bfloat16)
    layer = next(module for module in again.modules() if isinstance(module, LowRankLinear))
    with torch.no_grad():
        row = layer.first.weight[0]
        row[row.abs().argmax()] *= 1 + torch.finfo(torch.bfloat16).eps
    assert not is_of(again, order)
    assert is_of(again, replace(order, dtype=None))  # of a folder that does not say it: norms alone are too coarse


def test_an_order_of_another_model(copied: Path, tmp_path: Path) -> None:
    made("weight", tmp_path / "other", keep=0.5)
    shutil.copyfile(tmp_path / "other" / NESTED_NAME, copied / NESTED_NAME)
    with pytest.raises(CheckpointError, match=r"other layers or ranks than config\.json"):
        eckart.load_model(copied, keep=0.3)


def stored_ranks(folder: Path) -> dict[str, int | None]:
    ranks: dict[str, int | None] = json.loads((folder / "config.json").read_text())["quantization_config"]["ranks"]
    return ranks


def parts_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    with safe_open(folder / NESTED_NAME, framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()[KEY])


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"unit": "bits"},
        {"dense_bytes": 0},
        {"unfactored_bytes": -1},
        {"multiple": 0},
        {"lost": -1.0},
        {"bytes": {"x": 1}},
        {"bytes": {"x": 0}},
        {"more": 1},
        "[1]",
        "{",
    ],
    ids=str,
)
def test_damaged_numbers(damage: dict[str, object] | str, copied: Path) -> None:
    tensors, numbers = parts_of(copied)
    text = damage if isinstance(damage, str) else json.dumps({**numbers, **damage})
    save_file(tensors, copied / NESTED_NAME, {KEY: text})
    with pytest.raises(CheckpointError, match=r"nested\.safetensors"):
        ranks_for(copied, 0.3, stored_ranks(copied))


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensor: tensor.double(),
        lambda tensor: tensor[:-1],
        lambda tensor: tensor[None],
        lambda tensor: -tensor,
        lambda tensor: tensor * float("nan"),
        lambda tensor: tensor[:0],
        lambda tensor: None,
    ],
    ids=["dtype", "length", "shape", "sign", "nan", "empty", "none"],
)
@pytest.mark.parametrize("kind", ["losses", "sizes"])
def test_damaged_tensors(damage: object, kind: str, copied: Path) -> None:
    assert callable(damage)
    tensors, numbers = parts_of(copied)
    name = next(name for name in tensors if name.startswith(kind))
    changed = {**tensors, name: damage(tensors[name])}
    save_file(
        {n: t.contiguous() for n, t in changed.items() if t is not None},
        copied / NESTED_NAME,
        {KEY: json.dumps(numbers)},
    )
    with pytest.raises(CheckpointError, match=r"holds no|other layers or ranks"):
        ranks_for(copied, 0.3, stored_ranks(copied))


def test_no_such_file_at_all(copied: Path) -> None:
    (copied / NESTED_NAME).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        eckart.load_model(copied, keep=0.3)
    eckart.load_model(copied)  # which does not look at it
