from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.conftest import make_model
from tests.run.check import architectures
from transformers import PreTrainedModel

from eckart.data.context import check_ids, check_length, checked_ids, context_of, length_for
from eckart.errors import CalibrationError, EckartError


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt-neox"])
def test_what_the_configuration_says(kind: str) -> None:
    model = make_model(kind)
    assert context_of(model) == 128
    assert length_for(model, default=64) == 64
    assert length_for(model, default=2048) == 128
    check_length(model, 128, "Windows", "--length")
    with pytest.raises(EckartError, match=r"Windows of 129 tokens do not fit .* 128. Use --length 128"):
        check_length(model, 129, "Windows", "--length")


def test_the_shortest_of_several_counts(llama: PreTrainedModel) -> None:
    other = make_model("qwen2")
    other.config.max_position_embeddings = 32
    assert length_for(llama, other, default=64) == 32


@pytest.mark.parametrize("value", [None, 0, -1, "128", [128], True])
def test_a_configuration_that_does_not_say(llama: PreTrainedModel, value: object) -> None:
    object.__setattr__(llama.config, "max_position_embeddings", value)
    assert context_of(llama) is None
    assert length_for(llama, default=2048) == 2048
    check_length(llama, 10**9, "Windows", "--length")


def test_positions_that_are_stretched(llama: PreTrainedModel) -> None:
    object.__setattr__(
        llama.config, "rope_parameters", {"factor": 4.0, "original_max_position_embeddings": 128, "rope_type": "yarn"}
    )
    assert context_of(llama) == 512
    object.__setattr__(llama.config, "rope_parameters", {"factor": "4", "original_max_position_embeddings": [1]})
    assert context_of(llama) == 128


@pytest.mark.parametrize("build", [architectures.vit, architectures.wav2vec2, architectures.clip])
def test_a_model_that_takes_more_than_ids_or_none(build: Callable[[], PreTrainedModel]) -> None:
    with pytest.raises(CalibrationError, match=r"The text is token ids, and \w+ is not run on those alone"):
        check_ids(architectures.made(build), torch.zeros(1, 3, dtype=torch.int64), "The text", CalibrationError)


def test_ids_that_the_embedding_lacks(llama: PreTrainedModel) -> None:
    check_ids(llama, torch.tensor([[0, 255]]), "The text")
    check_ids(llama, torch.zeros(0, dtype=torch.int64), "The text")
    for ids, found in (([0, 256], 256), ([-1, 3], -1)):
        with pytest.raises(CalibrationError, match=f"The text has the token id {found}, .* has 256 rows"):
            check_ids(llama, torch.tensor(ids), "The text", CalibrationError)


def test_ids_are_checked_in_passes_that_others_make(llama: PreTrainedModel) -> None:
    with checked_ids(llama, "The task"):
        llama(input_ids=torch.tensor([[0, 255]]))
        with pytest.raises(EckartError, match="The task has the token id 300"):
            llama(input_ids=torch.tensor([[0, 300]]))
    with pytest.raises(IndexError):
        llama(input_ids=torch.tensor([[0, 300]]))


@pytest.mark.parametrize("build", [architectures.roberta, architectures.whisper_decoder])
def test_as_many_tokens_as_it_says_can_be_run_and_no_more(build: Callable[[], PreTrainedModel]) -> None:
    model = architectures.made(build)
    assert context_of(model) == 64
    ids = torch.full((1, 65), 9)
    model(input_ids=ids[:, :64])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)
