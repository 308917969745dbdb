from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.evaluate.test_reading import sample_of
from tests.tiny import MAKERS, make

from eckart.data.answers import IGNORED
from eckart.errors import EckartError
from eckart.evaluate import measure_items
from eckart.evaluate.items import choose_measures

ALONE = {
    "llama": ["nats a token"],
    "llava": ["nats a token", "accuracy"],
    "clip": [],
    "vit": ["accuracy"],
    "bert-masked": ["nats a token", "accuracy"],
    "bert-classifier": ["accuracy"],
    "bert": [],
    "t5": ["nats a token", "accuracy"],
    "whisper": ["nats a token", "accuracy"],
    "wav2vec2-ctc": ["letter errors"],
    "wav2vec2-classifier": ["accuracy"],
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_each_kind_is_worth(name: str, tmp_path: Path) -> None:
    model, _ = make(name)
    other, _ = make(name, seed=1)
    sample = sample_of(name, tmp_path)
    beside = ["divergence (nats)", "same top choice"] if ALONE[name] else ["cosine", "relative distance"]
    found = {score.measure: score for score in measure_items(model, [sample] * 2, baseline=other)}
    assert list(found) == [*ALONE[name], *beside]
    assert all(math.isfinite(score.value) and score.items == 2 for score in found.values())
    # A model is like itself.
    measures = ["divergence"] if ALONE[name] else ["similarity", "distance"]
    itself = {score.measure: score.value for score in measure_items(model, [sample], measures, baseline=make(name)[0])}
    ends = {"divergence (nats)": 0, "same top choice": 1, "cosine": 1, "relative distance": 0}
    for measure in beside:
        assert itself[measure] == pytest.approx(ends[measure], abs=1e-5)
        assert found[measure].value != pytest.approx(ends[measure], abs=1e-3) or measure == "same top choice"


def test_answers_count_by_their_tokens() -> None:
    model, _ = make("llama")
    ids = torch.arange(10)[None]
    samples = []
    for count in (2, 7):
        labels = ids.clone()
        labels[:, :-count] = IGNORED
        samples.append({"input_ids": ids, "labels": labels})
    with torch.no_grad():
        losses = [float(model(**sample).loss) for sample in samples]
    score = measure_items(model, samples, ["perplexity"])[0]
    assert score.value == pytest.approx((2 * losses[0] + 7 * losses[1]) / 9, rel=1e-5)
    assert score.of == "9 answer tokens of 2 items"
    assert score.error is not None


def test_classes_that_are_right() -> None:
    model, _ = make("bert-classifier")
    ids = torch.arange(8)[None]
    guess = int(model(input_ids=ids).logits.argmax())
    samples = [{"input_ids": ids, "labels": torch.tensor([label])} for label in (guess, guess, (guess + 1) % 3)]
    told: list[tuple[int, int]] = []
    score = measure_items(model, samples, on_item=lambda done, total: told.append((done, total)))[0]
    assert score.value == pytest.approx(2 / 3)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_measures_are_chosen_by_kind_or_by_name() -> None:
    bert, llama = make("bert")[0], make("llama")[0]
    assert choose_measures(llama, None, compared=True) == ("perplexity", "divergence")
    assert choose_measures(llama, ["similarity", "similarity"], compared=True) == ("similarity",)
    with pytest.raises(EckartError, match=r"Of BertModel, similarity and distance are measured.*--baseline"):
        choose_measures(bert, None, compared=False)
    with pytest.raises(EckartError, match="divergence is measured to another model"):
        choose_measures(llama, ["divergence"], compared=False)
    with pytest.raises(EckartError, match="No measure is called 'acuracy'; did you mean 'accuracy'"):
        choose_measures(llama, ["acuracy"], compared=False)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    model, _ = make("bert-classifier")
    ids = torch.arange(8)[None]
    with pytest.raises(EckartError, match=r"Nothing can be measured: accuracy of items that have no answer or label"):
        measure_items(model, [{"input_ids": ids}])
    with pytest.raises(EckartError, match="no items"):
        measure_items(model, [])
    with pytest.raises(EckartError, match="No pooling is called 'max'"):
        measure_items(model, [{"input_ids": ids}], ["similarity"], baseline=model, pooling="max")
    with pytest.raises(EckartError, match=r"\(1, 3\) numbers for an item and the baseline \(8, 264\)"):
        measure_items(model, [{"input_ids": ids}], ["divergence"], baseline=make("bert-masked")[0])
    with torch.no_grad():
        model.classifier.weight[0] = float("nan")
    with pytest.raises(EckartError, match=r"divergence .* of an item is NaN or infinite"):
        measure_items(model, [{"input_ids": ids}], ["divergence"], baseline=make("bert-classifier")[0])
