from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import MAKERS, NAMES, make, write_image, write_rows, write_sound
from torch import Tensor
from torch.nn import functional

from eckart.data.sampling import read_samples
from eckart.errors import EckartError
from eckart.evaluate.reading import placed, read_item

WITH_LOSS = ("llava", "bert-masked", "bert-classifier", "t5", "whisper", "vit", "wav2vec2-classifier")


def sample_of(name: str, folder: Path) -> dict[str, Tensor]:
    """Return a sample with an answer, as one is read for each kind of model."""
    write_image(folder / "images" / NAMES[0] / "a.png")
    write_sound(folder / "sounds" / NAMES[0] / "a.wav")
    row = {"text": "some text", "label": 1}
    if name in ("llava", "llama", "t5"):
        row = {"prompt": "what?", "answer": "a cat"}
    if name in ("whisper", "wav2vec2-ctc"):
        row |= {"audio": "sounds/circle/a.wav"}
    if name == "bert-masked":
        (folder / "rows.txt").write_text("some text " * 20)
        source = folder / "rows.txt"
    else:
        source = write_rows(folder / "rows.jsonl", [row])
    if name in ("vit", "clip", "wav2vec2-classifier"):
        source = folder / ("sounds" if name.startswith("wav") else "images")
    model, processor = make(name)
    return dict(read_samples(str(source), processor, model, 1, 0, 32)[0])


@pytest.mark.parametrize("name", WITH_LOSS)
def test_the_answer_is_where_the_model_itself_looks_for_it(name: str, tmp_path: Path) -> None:
    model, sample = make(name)[0], sample_of(name, tmp_path)
    with torch.no_grad():
        reading, loss = read_item(model, sample), model(**sample).loss
    assert reading.logits is not None
    assert reading.targets is not None
    assert float(functional.cross_entropy(reading.logits, reading.targets)) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_has_states_and_vectors(name: str, tmp_path: Path) -> None:
    model, sample = make(name)[0], sample_of(name, tmp_path)
    with torch.no_grad():
        reading = read_item(model, sample, states=True)
    assert reading.hidden is not None
    assert reading.hidden.ndim == 2
    assert [vector.shape for vector in reading.vectors] == ([(24,)] * 2 if name == "clip" else [(32,)])


def test_pooling_leaves_padding_out() -> None:
    model, _ = make("bert")
    sample = {"input_ids": torch.tensor([[3, 4, 5, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
    short = {"input_ids": sample["input_ids"][:, :3], "attention_mask": sample["attention_mask"][:, :3]}
    states = model(**short).last_hidden_state[0]
    for pooling, expected in (("mean", states.mean(dim=0)), ("first", states[0]), ("last", states[-1])):
        for given in (short, sample):
            assert torch.allclose(read_item(model, given, pooling=pooling).vectors[0], expected, atol=1e-5)


def test_a_sample_goes_where_the_model_is() -> None:
    model = make("vit")[0].to(torch.bfloat16)
    found = placed(model, {"pixel_values": torch.zeros(1), "labels": torch.zeros(1, dtype=torch.int64)})
    assert (found["pixel_values"].dtype, found["labels"].dtype) == (torch.bfloat16, torch.int64)


def test_an_item_that_the_model_cannot_take() -> None:
    with pytest.raises(EckartError, match=r"BertModel cannot take an item with input_ids \(1, 200\)"):
        read_item(make("bert")[0], {"input_ids": torch.zeros(1, 200, dtype=torch.int64)})


def test_answers_of_another_length_than_the_predictions() -> None:
    sample = {"input_ids": torch.zeros(1, 5, dtype=torch.int64), "labels": torch.zeros(1, 4, dtype=torch.int64)}
    with pytest.raises(EckartError, match="predicts 5 tokens where the item has 4"):
        read_item(make("bert-masked")[0], sample)
