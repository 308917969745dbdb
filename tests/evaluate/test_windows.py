from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from transformers import PreTrainedModel

from eckart.errors import EckartError
from eckart.evaluate import agreement, perplexity
from eckart.evaluate.windows import count_windows, length_of_windows, mean_and_error, windows_of


def test_windows_do_not_overlap_and_the_rest_is_left() -> None:
    assert [window.tolist() for window in windows_of(torch.arange(8), 3, None)] == [[[0, 1, 2]], [[3, 4, 5]]]
    assert count_windows(torch.arange(8), 3, 1) == 1
    assert count_windows(torch.arange(8), 3, 9) == 2


@pytest.mark.parametrize(("tokens", "length"), [(3, 4), (0, 2), (8, 1)])
def test_less_than_a_window(tokens: int, length: int) -> None:
    with pytest.raises(EckartError, match=f"has {tokens} tokens, and one window is {length}"):
        count_windows(torch.arange(tokens), length, None)


def test_mean_and_standard_error() -> None:
    mean, error = mean_and_error([1.0, 2.0, 6.0])
    assert mean == 3
    assert error == pytest.approx(float(torch.tensor([1.0, 2.0, 6.0]).std()) / 3**0.5)
    assert mean_and_error([4.0]) == (4.0, None)


def test_windows_are_what_all_models_can_take(llama: PreTrainedModel) -> None:
    ids, learned = torch.zeros(300, dtype=torch.int64), make_model("gpt2")
    assert length_of_windows([llama], ids, None) == 128
    learned.config.n_positions = 64
    assert length_of_windows([llama, learned], ids, None) == 64
    llama.config.max_position_embeddings = 4096
    assert length_of_windows([llama], ids, None) == 2048
    assert length_of_windows([llama], ids, 3000) == 3000


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt-neox"])
def test_longer_windows_than_the_model_can_take(kind: str) -> None:
    model, ids = make_model(kind), torch.zeros(300, dtype=torch.int64)
    assert perplexity(model, ids).length == agreement(model, model, ids).length == 128
    for measure in (perplexity, lambda *args, **options: agreement(model, *args, **options)):
        with pytest.raises(EckartError, match="Windows of 129 tokens do not fit into the model's context of 128"):
            measure(model, ids, length=129)


@pytest.mark.parametrize("token", [256, -1])
def test_ids_that_the_embedding_lacks(llama: PreTrainedModel, token: int) -> None:
    ids = torch.full((64,), token)
    for measure in (perplexity, lambda *args, **options: agreement(llama, *args, **options)):
        with pytest.raises(EckartError, match=f"has the token id {token}, and the model's embedding has 256 rows"):
            measure(llama, ids, length=32)


def test_positions_that_the_configuration_does_not_tell() -> None:
    model = make_model("gpt2")
    model.config.n_positions = 4096
    with pytest.raises(EckartError, match=r"GPT2LMHeadModel cannot take windows of 200 tokens: .* shorter --length"):
        perplexity(model, torch.zeros(300, dtype=torch.int64), length=200)


def test_no_windows_at_all() -> None:
    for windows in (0, -1):
        with pytest.raises(EckartError, match=f"at least one window, found {windows}"):
            count_windows(torch.arange(8), 4, windows)
    with pytest.raises(EckartError, match="shorter --window-length"):
        count_windows(torch.arange(8), 9, None, "--window-length")


def test_any_failure_of_a_pass_names_its_length(llama: PreTrainedModel) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("The size of tensor a must match the size of tensor b")

    llama.model.layers[0].forward = fail
    with pytest.raises(EckartError, match=r"LlamaForCausalLM cannot take windows of 100 tokens: .* shorter --length"):
        perplexity(llama, torch.zeros(300, dtype=torch.int64), length=100)
