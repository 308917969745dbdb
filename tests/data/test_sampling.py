from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import NAMES, make, write_image, write_rows

from eckart.data.encoder import Encoder
from eckart.data.samples import Sample
from eckart.data.sampling import read_items, read_samples
from eckart.errors import CalibrationError, EckartWarning


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(6):
        write_image(tmp_path / "images" / NAMES[i % 3] / f"{i}.png", seed=i)
    return tmp_path / "images"


def read(name: str, source: object, samples: int = 3, seed: int = 0, **options: Any) -> list[Sample]:
    model, processor = make(name)
    return read_samples(str(source), processor, model, samples, seed, 24, **options)


def test_images_are_drawn_with_a_seed(images: Path) -> None:
    first = read("vit", images)
    assert len(first) == 3
    for sample, again in zip(first, read("vit", images), strict=True):
        assert torch.equal(sample["pixel_values"], again["pixel_values"])
    others = read("vit", images, seed=1)
    assert not all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(first, others, strict=True))


def test_fewer_than_were_asked_for(images: Path) -> None:
    with pytest.warns(EckartWarning, match="6 items that can be used, fewer than the 9"):
        assert len(read("vit", images, samples=9)) == 6


def test_images_that_cannot_be_read_are_left_out(images: Path) -> None:
    for i in range(4):
        (images / f"broken{i}.png").write_bytes(b"no image")
    with pytest.warns(EckartWarning) as told:
        assert len(read("vit", images, samples=6)) == 6
    text = str(told[0].message)
    assert "items are left out" in text
    assert "cannot be read as an image" in text


def test_no_image_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match=r"broken\.png cannot be read as an image"):
        read("vit", tmp_path)


def test_labels_that_are_no_classes(images: Path) -> None:
    write_image(images / "hexagon" / "9.png")
    with pytest.warns(EckartWarning, match=r"1 items .* 'hexagon'.*circle, square, tri_angle"):
        assert sum("labels" in sample for sample in read("vit", images, samples=7)) == 6


def test_text_alone_of_a_model_that_reads_images(text_file: Path) -> None:
    with pytest.warns(
        EckartWarning, match="text alone: what reads images in LlavaForConditionalGeneration sees nothing"
    ):
        found = read("llava", text_file)
    assert [list(sample) for sample in found] == [["input_ids"]] * 3


def test_without_a_processor(images: Path) -> None:
    with pytest.raises(CalibrationError, match=r"lacks preprocessor_config\.json or tokenizer\.json"):
        read_samples(str(images), None, make("vit")[0], 2, 0)


def test_sources_take_turns(tmp_path: Path, images: Path) -> None:
    rows = write_rows(tmp_path / "x.jsonl", [{"prompt": f"{i}?", "answer": "yes"} for i in range(9)])
    found = read("llava", f"{images} + {rows} + {images}", samples=6)
    assert ["pixel_values" in sample for sample in found] == [True, False, True] * 2
    shown = [sample["pixel_values"] for sample in found if "pixel_values" in sample]
    assert not any(torch.equal(a, b) for i, a in enumerate(shown) for b in shown[:i])
    with pytest.raises(CalibrationError, match="2 sources need as many samples, found 1"):
        read("llava", f"{images} + {rows}", samples=1)


def test_rows_of_text_for_a_language_model(tmp_path: Path) -> None:
    model, names = make("llama")
    text = write_rows(tmp_path / "text.jsonl", [{"text": "some words " * 5}] * 9)
    chats = write_rows(
        tmp_path / "chats.jsonl",
        [
            {"messages": [{"role": "user", "content": "a" * i}, {"role": "assistant", "content": "b"}]}
            for i in range(1, 5)
        ],
    )
    # One stream, cut into windows, as it has always been.
    assert [s["input_ids"].shape for s in read_samples(str(text), names, model, 3, 0, 24)] == [(1, 24)] * 3
    # Each conversation by itself, as long as it is.
    found = read_samples(str(chats), names, model, 4, 0, 64, chat=True)
    assert len({sample["input_ids"].shape for sample in found}) == 4
    assert all("labels" in sample for sample in found)


def test_rows_of_text_for_an_encoder(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", [{"text": "a" * i} for i in range(1, 5)])
    assert {sample["input_ids"].shape[1] for sample in read("bert", path, samples=4)} == {3, 4, 5, 6}


def test_a_stream_of_rows(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_rows(tmp_path / "train.jsonl", [{"text": f"{i}" * 3, "label": i % 3} for i in range(50)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", EckartWarning)
        found = read("bert-classifier", f"stream:{tmp_path}:train", samples=4)
    assert [sample["labels"].shape for sample in found] == [(1,)] * 4


def test_items_beside_their_samples(images: Path, text_file: Path) -> None:
    encoder = Encoder.of(*make("vit"), 24)
    for item, sample in read_items(str(images), encoder, 4, 0):
        assert NAMES[int(sample["labels"])] == item.label
    with pytest.raises(CalibrationError, match="holds no items"):
        list(read_items(str(text_file), encoder, 4, 0))
