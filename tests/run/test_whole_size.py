"""Sizes of whole models, against the bytes of the files that come of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.blocks.onload import ResidentWeights
from eckart.errors import EckartError, EckartWarning, ModelFitsError
from eckart.methods.recipes.loader import load_recipe
from eckart.run.whole_size import recipe_within_size, within_size


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def wide(folder: Path) -> PreTrainedModel:
    """Return a model of the kind that is in a folder, with larger layers."""
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


@pytest.fixture
def dense(model_folder: Path) -> Path:
    """A model of 16 bits on disk, the most of which is in its linear layers."""
    wide(model_folder).bfloat16().save_pretrained(model_folder)
    return model_folder


@pytest.mark.parametrize(("recipe", "size"), [("auto", 130_000), ("eckart-q", 180_000), ("svd-llm", 250_000)])
def test_files_are_at_most_so_large_and_hardly_smaller(
    recipe: str, size: int, dense: Path, text_file: Path, tmp_path: Path
) -> None:
    assert size < size_of(dense)
    report = eckart.compress_checkpoint(
        dense, tmp_path / "out", recipe, None, str(text_file), size=size, samples=8, length=24
    )
    assert 0.8 * size < size_of(tmp_path / "out") <= size
    assert report.keep <= report.requested_keep


def test_a_model_in_float32_is_written_in_16_bits(dense: Path, text_file: Path, tmp_path: Path) -> None:
    wide(dense).float().save_pretrained(dense)
    options: dict[str, Any] = {"size": 200_000, "samples": 8, "length": 24}
    with pytest.warns(EckartWarning, match="what is no code is written in bfloat16"):
        eckart.compress_checkpoint(dense, tmp_path / "out", "auto", None, str(text_file), **options)
    assert size_of(tmp_path / "out") <= 200_000
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype is torch.bfloat16
    with pytest.raises(EckartError, match=r"dtype asks for torch\.float32\. Use bfloat16"):
        eckart.compress_checkpoint(
            dense, tmp_path / "other", "auto", None, str(text_file), dtype=torch.float32, **options
        )


def test_sizes_that_cannot_be(dense: Path, text_file: Path, tmp_path: Path) -> None:
    for size, error, message in (
        (
            20_000,
            EckartError,
            r"'auto' the model cannot take less than [0-9.]+ KB, of them [0-9.]+ KB for all that is no linear",
        ),
        (10**9, ModelFitsError, r"which is within 1e\+03 MB: there is nothing to compress"),
    ):
        with pytest.raises(error, match=message):
            eckart.compress_checkpoint(
                dense, tmp_path / "out", "auto", None, str(text_file), size=size, samples=8, length=24
            )
        assert not (tmp_path / "out").exists()
    with pytest.raises(EckartError, match="found both"):
        eckart.compress_checkpoint(dense, tmp_path / "out", "auto", 0.5, str(text_file), size=10**5)


def test_the_model_stays_as_it_is_and_own_sizes_count() -> None:
    model = make_model("llama").bfloat16()
    before = [type(module) for module in model.modules()]
    recipe = load_recipe("svd-llm", ["sharing=shared"])
    whole = 2 * sum(parameter.numel() for parameter in model.parameters())
    keep = within_size(model, recipe, int(0.9 * whole), ResidentWeights(), None).keep
    assert [type(module) for module in model.modules()] == before
    less = load_recipe("svd-llm", ["targets.*.mlp.*.keep=0.3"])
    assert within_size(model, less, int(0.9 * whole), ResidentWeights(), None).keep > keep


def test_a_precision_of_the_embedding_leaves_more_for_the_rest() -> None:
    model = make_model("llama").bfloat16()
    whole = 2 * sum(parameter.numel() for parameter in model.parameters())
    keeps = [
        within_size(model, load_recipe("svd-llm", overrides), int(0.9 * whole), ResidentWeights(), None)
        for overrides in ([], ["embedding=8-bit"], ["embedding=4-bit"])
    ]
    assert keeps[0].keep < keeps[1].keep < keeps[2].keep
    assert not any(room.shares for room in keeps)


def test_an_allocation_has_a_share_for_each_precision_that_fits() -> None:
    model = make_model("llama").bfloat16()
    whole = 2 * sum(parameter.numel() for parameter in model.parameters())
    recipe = load_recipe("auto")
    rooms = [within_size(model, recipe, int(share * whole), ResidentWeights(), None) for share in (0.6, 0.95)]
    names = [[precision.name for precision, _ in room.shares] for room in rooms]
    assert names[1] == ["16-bit", "8-bit", "6-bit", "5-bit", "4-bit", "3-bit"]
    assert names[0] == names[1][-len(names[0]) :]
    for room in rooms:
        shares = [share for _, share in room.shares]
        assert shares == sorted(shares)
        assert room.keep == shares[0]
    said = load_recipe("auto", ["embedding=8-bit"])
    assert not within_size(model, said, int(0.95 * whole), ResidentWeights(), None).shares


@pytest.mark.parametrize("size", ["150KB", 1.5e5, float("nan"), True, 0, -5])
def test_a_size_is_a_number_of_bytes(size: Any, tmp_path: Path) -> None:
    with pytest.raises(EckartError, match=r"A size is a whole number of bytes, such as 80_000_000; found"):
        eckart.compress_checkpoint(tmp_path / "none", tmp_path / "out", size=size)


def test_the_least_size_that_is_named_can_be_had(dense: Path, text_file: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calibration": str(text_file), "samples": 8, "length": 24}
    with pytest.raises(EckartError, match="cannot take less than") as caught:
        eckart.compress_checkpoint(dense, tmp_path / "out", size=20_000, **options)
    least = re.search(r"less than ([0-9.]+) KB", str(caught.value))
    assert least is not None
    size = round(1000 * float(least.group(1)))
    eckart.compress_checkpoint(dense, tmp_path / "out", size=size, **options)
    assert size_of(tmp_path / "out") <= size


def test_a_recipe_that_depends_on_the_share_is_the_one_of_the_share_that_is_left(dense: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense)
    for size in (150_000, 180_000, 240_000):
        recipe, room = recipe_within_size(
            model, lambda share: load_recipe("eckart-q", keep=share), size, ResidentWeights(), None
        )
        assert recipe == load_recipe("eckart-q", keep=room.keep)


def test_what_others_shall_read_keeps_its_embedding(dense: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense)
    assert not within_size(model, load_recipe("auto-speed"), 200_000, ResidentWeights(), None).shares


def test_a_finished_run_is_known_by_its_size(dense: Path, text_file: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calibration": str(text_file), "samples": 8, "length": 24, "resume": True}
    first = eckart.compress_checkpoint(dense, tmp_path / "out", size=150_000, **options)
    before = (tmp_path / "out" / "eckart" / "timings.json").stat().st_mtime_ns
    again = eckart.compress_checkpoint(dense, tmp_path / "out", size=150_000, **options)
    assert again.layers == first.layers
    assert (tmp_path / "out" / "eckart" / "timings.json").stat().st_mtime_ns == before
    with pytest.raises(EckartError, match="size was 150000 and is 160000"):
        eckart.compress_checkpoint(dense, tmp_path / "out", size=160_000, **options)
