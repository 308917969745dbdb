from __future__ import annotations

import torch
from tests.tiny import PAD, START, make

from eckart.data.answers import IGNORED, decoder_inputs, labels_from, shared_prefix


def test_labels_inside_of_spans() -> None:
    ids = torch.arange(6)[None]
    assert labels_from(ids, [(1, 2), (4, 6)]).tolist() == [[IGNORED, 1, IGNORED, IGNORED, 4, 5]]
    assert labels_from(ids, []).tolist() == [[IGNORED] * 6]


def test_what_two_texts_begin_with() -> None:
    a, b = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 4])
    assert (shared_prefix(a, b), shared_prefix(b, a), shared_prefix(a, a[:3]), shared_prefix(a, a[1:])) == (2, 2, 3, 0)


def test_what_a_decoder_reads() -> None:
    labels = torch.tensor([[7, IGNORED, 9]])
    assert decoder_inputs(make("t5")[0], labels).tolist() == [[PAD, 7, PAD]]
    assert decoder_inputs(make("whisper")[0], labels).tolist() == [[START, 7, PAD]]
    assert decoder_inputs(make("whisper")[0], None).tolist() == [[START]]


def test_the_same_as_the_model_makes_itself() -> None:
    model, _ = make("t5")
    labels = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(decoder_inputs(model, labels), model.prepare_decoder_input_ids_from_labels(labels))
