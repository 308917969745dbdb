from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import MAKERS, make, tokenizer, write_image

from eckart.data.images import read_image
from eckart.data.items import Item, ItemError
from eckart.data.processor import Inputs, Processor, check_item, tokens_of
from eckart.errors import CalibrationError

READS = {  # text, images, sound; text alone; a separate decoder
    "llama": (True, False, False, True, False),
    "llava": (True, True, False, True, False),
    "clip": (True, True, False, False, False),
    "vit": (False, True, False, False, False),
    "bert-masked": (True, False, False, True, False),
    "bert-classifier": (True, False, False, True, False),
    "bert": (True, False, False, True, False),
    "t5": (True, False, False, True, True),
    "whisper": (False, False, True, False, True),
    "wav2vec2-ctc": (False, False, True, False, False),
    "wav2vec2-classifier": (False, False, True, False, False),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_model_reads(name: str) -> None:
    inputs = Inputs.of(make(name)[0])
    found = (inputs.text, inputs.images, inputs.sounds, inputs.text_alone, inputs.separate_decoder)
    assert found == READS[name]


def test_only_what_the_forward_pass_takes() -> None:
    given = {"pixel_values": torch.zeros(1), "mystery": torch.zeros(1), "interpolate_pos_encoding": "no tensor"}
    assert list(Inputs.of(make("vit")[0]).sample(given)) == ["pixel_values"]


def test_one_item_has_a_dimension_in_front(tmp_path: Path) -> None:
    image = read_image(write_image(tmp_path / "a.png"), "a")
    processor = Processor.of(make("clip")[1])
    both = processor("hi", [image])
    assert both["input_ids"].shape == (1, 4)
    assert both["pixel_values"].shape == (1, 3, 16, 16)
    assert torch.equal(processor(images=[image])["pixel_values"], both["pixel_values"])
    assert processor("hi", specials=False)["input_ids"].shape == (1, 2)
    sound = Processor.of(make("whisper")[1])
    assert sound.rate == 16000
    assert sound(sounds=[torch.zeros(4000)])["input_features"].shape == (1, 16, 100)


@pytest.mark.parametrize(
    ("part", "message"),
    [("images", r"reads images.*lacks preprocessor_config\.json"), ("sounds", r"reads sound.*preprocessor_config")],
)
def test_a_part_that_is_missing_is_named(part: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Processor.of(tokenizer()).need(part, "images" if part == "images" else "sound")
    with pytest.raises(CalibrationError, match=r"reads text.*lacks tokenizer\.json"):
        Processor.of(make("vit")[1]).need("tokenizer", "text")


def test_parts_without_what_puts_them_together(tmp_path: Path) -> None:
    image = read_image(write_image(tmp_path / "a.png"), "a")
    parts = Processor.of(make("clip")[1])
    loose = Processor(None, parts.tokenizer, parts.images, None)
    with pytest.raises(CalibrationError, match=r"lacks processor_config\.json"):
        loose("hi", [image])
    with pytest.raises(CalibrationError, match=r"lacks preprocessor_config\.json"):
        Processor.of(tokenizer())("hi", [image])


def test_what_a_processor_cannot_take() -> None:
    with pytest.raises(ItemError, match="the processor cannot take it"):
        Processor.of(make("vit")[1])(images=["no image"])


def test_padding_alone_is_refused() -> None:
    item, ids = Item("row 3"), torch.ones(1, 4, dtype=torch.int64)
    assert tokens_of({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0, 0]])}) == 2
    assert (tokens_of({"input_ids": ids}), tokens_of({"pixel_values": torch.zeros(1)})) == (4, 1)
    with pytest.raises(ItemError, match="row 3: all tokens are padding"):
        check_item(item, {"input_ids": ids, "attention_mask": ids * 0})
    with pytest.raises(ItemError, match=r"row 3: the processor gives pixel_values .* not finite"):
        check_item(item, {"pixel_values": torch.tensor([float("nan")])})
