from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.tiny import MAKERS, make
from transformers import AutoModelForMaskedLM, BertForMaskedLM, PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

import eckart
from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.load import check_compressible
from eckart.errors import CheckpointError, UnsupportedModelError


def test_a_folder(model_folder: Path, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(load_model(model_folder)(tokens).logits, llama(tokens).logits)
    assert load_model(model_folder, dtype=torch.bfloat16).dtype is torch.bfloat16
    tokenizer = load_tokenizer(model_folder)
    assert tokenizer is not None
    assert tokenizer("ab")["input_ids"]


def test_a_model_without_a_tokenizer(llama: PreTrainedModel, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path / "bare")
    assert load_tokenizer(tmp_path / "bare") is None


@pytest.mark.parametrize("name", ["no/such-model", "nowhere", "./nowhere", "/nowhere/at all", "a/b/c"])
def test_no_such_model(name: str) -> None:
    with pytest.raises(CheckpointError, match="no local folder, and no hub model") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
    assert "http" not in str(caught.value)  # where else was looked is no business of whoever misspelled a path


def test_a_model_in_another_librarys_bits_is_named_by_its_method(llama: PreTrainedModel) -> None:
    method = type("Config", (), {"quant_method": QuantizationMethod.COMPRESSED_TENSORS})
    vars(llama)["hf_quantizer"] = type("Quantizer", (), {"quantization_config": method})
    with pytest.raises(UnsupportedModelError, match=r"is quantized \(compressed-tensors\)"):
        check_compressible(llama)


def test_no_such_gguf(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        load_model(tmp_path / "x.gguf")


def test_a_gguf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="cannot be read as a GGUF model"):
        load_model(tmp_path / "x.gguf")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_file_that_is_no_model(text_file: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        load_model(text_file)


def test_a_damaged_config(model_folder: Path) -> None:
    (model_folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(model_folder)


def test_a_folder_without_weights(model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load_model(model_folder)


def test_truncated_weights(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(model_folder)


def test_weights_that_lack_a_layer(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"lacks 9 weights .*model\.layers\.3"):
        load_model(model_folder)


@pytest.mark.parametrize("name", MAKERS)
def test_the_class_that_the_folder_names(name: str, tmp_path: Path) -> None:
    model, _ = make(name)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_a_compressed_encoder_loads_with_its_own_class(tmp_path: Path) -> None:
    model, _ = make("bert-masked")
    report = eckart.compress(model, "svd", 0.6)
    eckart.save(model, report, tmp_path / "small")
    ids = torch.arange(12)[None]
    expected = model(input_ids=ids).logits
    for loaded in (load_model(tmp_path / "small"), AutoModelForMaskedLM.from_pretrained(tmp_path / "small")):
        assert isinstance(loaded, BertForMaskedLM)
        assert torch.equal(loaded(input_ids=ids).logits, expected)
    assert "import AutoModelForMaskedLM" in (tmp_path / "small" / "README.md").read_text()


def test_a_class_that_nobody_knows_is_refused(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "architectures": ["NonsenseForNothing"]}))
    with pytest.raises(UnsupportedModelError, match=r"NonsenseForNothing model.*AutoModelForImageTextToText"):
        load_model(model_folder)


def test_a_compressed_model_is_not_compressed_again(
    llama: PreTrainedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    check_compressible(llama)
    report = eckart.compress(llama, "svd", 0.6)
    with pytest.raises(UnsupportedModelError, match="already compressed"):
        eckart.compress(llama, "svd", 0.6)
    eckart.save(llama, report, tmp_path / "out")
    with pytest.raises(UnsupportedModelError, match="already compressed"):
        check_compressible(load_model(tmp_path / "out"))


def test_weights_of_another_shape_are_named(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    message = r"9 weights of .* 'model.layers.0.mlp.down_proj.weight': found \(32, 48\), expected \(32, 64\)"
    with pytest.raises(CheckpointError, match=message) as raised:
        load_model(model_folder)
    assert "above" not in str(raised.value)
