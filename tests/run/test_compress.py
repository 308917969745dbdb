from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.compression.records import LayerRecord
from eckart.data.text import read_text
from eckart.errors import CalibrationError, EckartError, EckartWarning
from eckart.methods.objectives import InputAware
from eckart.run.compress import unresolved_warnings


def test_the_readme_lines(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    model = eckart.load_model(model_folder)
    tokenizer = eckart.load_tokenizer(model_folder)
    report = eckart.compress(
        model, "saes-svd", 0.6, calibration=str(text_file), tokenizer=tokenizer, samples=4, length=64, seed=1
    )
    eckart.save(model, report, tmp_path / "small", tokenizer=tokenizer)
    assert report.calibration is not None
    assert report.calibration.tokens == 256
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").num_parameters() * 2 == report.whole_bytes_after


def test_the_tokenizer_is_found_beside_the_model(model_folder: Path, text_file: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    report = eckart.compress(model, keep=0.6, calibration=str(text_file), samples=2, length=64)
    assert report.calibration is not None
    # The way to a local folder is nobody's business.
    assert model.config.quantization_config.provenance["source"] == "dense"


def test_no_tokenizer_is_said(llama: PreTrainedModel) -> None:
    with pytest.raises(CalibrationError, match="needs the model's tokenizer"):
        eckart.compress(llama, keep=0.6, samples=2, length=16)


def test_a_recipe_without_data_reads_none(llama: PreTrainedModel) -> None:
    report = eckart.compress(llama, "svd", 0.6, calibration="nowhere.txt")
    assert report.calibration is None
    assert llama.config.quantization_config.calibration is None


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_keep_out_of_range(keep: float, llama: PreTrainedModel) -> None:
    with pytest.raises(EckartError, match="above 0 and at most 1"):
        eckart.compress(llama, "svd", keep)


def test_what_is_left_after_a_refusal_is_the_model_as_it_was(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tokens: torch.Tensor
) -> None:
    before = {name: t.clone() for name, t in llama.state_dict().items()}
    with pytest.raises(EckartError):
        eckart.compress(llama, "svd-llm", 0.6, "nowhere.txt", tokenizer=tokenizer)
    assert getattr(llama, "hf_quantizer", None) is None
    assert llama.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in llama.state_dict().items())


def test_overrides_are_written_into_the_result(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=["objective.shrinkage=0.1"])
    assert report.recipe.objective == InputAware(shrinkage=0.1)
    assert llama.config.quantization_config.recipe["objective"]["shrinkage"] == 0.1


def test_records_arrive_in_order_of_execution(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    seen: list[str] = []

    class Listener(eckart.Callback):
        def on_layer(self, record: LayerRecord) -> None:
            seen.append(record.path)

    report = eckart.compress(llama, "aa-svd-layer", 0.6, tokens, callback=Listener())
    assert seen == [layer.path for layer in report.layers]
    assert [name.split(".")[-1] for name in seen[:7]] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ]  # fmt: skip


@pytest.mark.parametrize("keep", [None, "0.6", [0.6], {}, 0.6j, torch.tensor([0.6])])
def test_keep_that_is_no_number(keep: Any, llama: PreTrainedModel) -> None:
    with pytest.raises(EckartError, match=f"a number above 0 and at most 1; found {type(keep).__name__}"):
        eckart.compress(llama, "svd", keep)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "name of a text, .* found NoneType"),
        ([[1, 2]], "Calibration sample 0 is no mapping of names to tensors, .* found list"),
        ([{"input_ids": [1, 2]}], "Calibration sample 0 is no mapping of names to tensors"),
        ([], "There are no calibration samples"),
        ({"input_ids": [1, 2]}, "name of a text, .* found dict"),
        (7, "name of a text, .* found int"),
    ],
)
def test_calibration_of_another_type(calibration: Any, message: str, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=message):
        eckart.compress(make_model("llama"), "svd-llm", 0.6, calibration)
    with pytest.raises(CalibrationError, match=message):
        eckart.compress_checkpoint(model_folder, tmp_path / "small", "svd-llm", 0.6, calibration)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "ids",
    [
        torch.ones(4, 16, dtype=torch.bool),
        torch.ones(4, 16, dtype=torch.complex64),
        torch.ones(4, 16, dtype=torch.int64, device="meta"),
        torch.ones(4, 16),
    ],
    ids=["bool", "complex", "meta", "float"],
)
def test_token_ids_that_are_no_integers(ids: torch.Tensor, llama: PreTrainedModel) -> None:
    with pytest.raises(CalibrationError, match=r"must be integers of shape \(samples, length\), found"):
        eckart.compress(llama, "svd-llm", 0.6, ids)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16])
def test_token_ids_of_any_integer_type(dtype: torch.dtype, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens.to(dtype))
    assert report.calibration is not None
    assert report.calibration.tokens == tokens.numel()


def test_warnings_point_at_the_line_of_the_caller(llama: PreTrainedModel, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": null}\n' + '{"text": "some words of a text"}\n' * 40)
    (model_folder / "tokenizer.json").write_text("damaged")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        eckart.compress(llama, "svd-llm", 0.6, torch.ones(1, 16, dtype=torch.int64))  # few tokens
        eckart.compress_checkpoint(model_folder, tmp_path / "small", "svd", 0.6)  # a tokenizer that is copied
        read_text(str(tmp_path / "rows.jsonl"))
    ours = [warning for warning in said if issubclass(warning.category, EckartWarning)]
    assert len(ours) >= 3
    assert {warning.filename for warning in ours} == {__file__}


def test_the_warning_names_the_worst_layer_and_how_much() -> None:
    layers = [
        LayerRecord(path=path, out_features=4, in_features=4, rank=1, bytes=16, error=0.1, unresolved=share)
        for path, share in (("a", 0.0), ("b", 0.02), ("c", 0.4), ("d", 0.001))
    ]
    (message,) = unresolved_warnings(layers)
    assert "2 layers" in message
    assert "40.0% of the outputs of c " in message
    assert not unresolved_warnings(layers[:1])
