from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import make_model
from tests.tiny_models import make
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import (
    BlockArguments,
    CallSite,
    body_of,
    completed,
    failures_named,
    inputs_on,
    replaced_forwards,
    run_model,
)
from eckart.errors import CalibrationError, UnsupportedModelError

CPU = torch.device("cpu")
HIDDEN, OTHER = torch.ones(1, 2, 3), torch.zeros(4)


class Recorder(nn.Module):
    """Gives what it is handed."""

    def forward(self, first: Any, second: Any = None, *, third: Any = None) -> Any:
        return first, second, third


@pytest.mark.parametrize("place", [0, 1, "third"])
def test_a_block_is_called_as_it_was_on_other_hidden_states(place: int | str) -> None:
    args: tuple[Any, ...] = (HIDDEN, OTHER) if place == 0 else (OTHER, HIDDEN) if place == 1 else (OTHER, None)
    kwargs = {"third": HIDDEN if place == "third" else "x"}
    number = place if isinstance(place, int) else 2
    call = BlockArguments.of(args, kwargs, CallSite(place, output=number))
    assert not any(leaf is HIDDEN for leaf in call.flat()[0])
    other = 2 * HIDDEN
    found = call.run(Recorder(), other)
    assert found[number] is other
    assert found[1 if place == 0 else 0] is OTHER
    names = {0: "first", 1: "second", "third": "third"}
    assert names[place] not in call.named(Recorder())
    assert call.named(Recorder())["second" if place == 0 else "first"] is OTHER


def test_a_block_may_be_handed_no_hidden_states() -> None:
    call = BlockArguments.of((OTHER,), {"third": 5}, CallSite(None))
    assert call.run(Recorder(), HIDDEN) == (OTHER, None, 5)


def test_hidden_states_are_handed_on_in_the_form_in_which_a_block_returns_them() -> None:
    assert CallSite().handed_on(HIDDEN) is HIDDEN
    output = {"a": OTHER, "b": (HIDDEN, "more"), "c": None}
    arguments = [5, OTHER]
    site = CallSite().returning(output, 1, arguments)
    assert site.result(output) is HIDDEN
    other = 2 * HIDDEN
    assert site.handed_on(other) == {"a": None, "b": (other, "more"), "c": None}
    # What it was handed goes on as it is.
    passed = torch.ones(4)
    assert site.handed_on(other, None, [5, passed])["a"] is passed
    assert site.handed_on(other, (OTHER, None, "less", None))["b"] == (other, "less")
    assert CallSite().returning(HIDDEN, 0, []).handed_on(other) is other


def test_tensors_of_several_calls_have_one_leaf_for_gradients() -> None:
    call = BlockArguments((None, OTHER, torch.arange(3)), {"again": OTHER, "more": [HIDDEN]}, slots=(0, 1, 2, 1, 3))
    found, leaves = call.differentiable()
    assert found.args[1] is found.kwargs["again"] is leaves[1]
    assert found.kwargs["more"][0] is leaves[3]
    assert leaves.keys() == {1, 3}
    assert all(leaf.requires_grad for leaf in leaves.values())
    assert not OTHER.requires_grad
    assert found.args[2] is call.args[2]


def test_arguments_beyond_the_names_are_numbered() -> None:
    class Open(nn.Module):
        def forward(self, hidden: Any, *more: Any) -> Any:
            return hidden

    assert BlockArguments((None, 1, 2)).named(Open()) == {"argument 2": 1, "argument 3": 2}


def test_forwards_are_replaced_for_a_while() -> None:
    one, other = Recorder(), Recorder()
    other.forward = lambda *args: "its own"  # type: ignore[method-assign]

    def fail() -> None:
        with replaced_forwards([one, other], lambda n, own: lambda *args: (n, own(*args))):
            assert one(1) == (0, (1, None, None))
            assert other(1) == (1, "its own")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert one(1) == (1, None, None)
    assert "forward" not in vars(one)
    assert other(1) == "its own"


def test_a_failure_of_a_model_says_what_it_was_run_on(llama: PreTrainedModel) -> None:
    inputs = {"pixel_values": OTHER, "input_ids": OTHER}
    message = r"Llama\S+ cannot be run on input_ids, pixel_values alone \(KeyError"
    with pytest.raises(UnsupportedModelError, match=message), failures_named(llama, inputs):
        raise KeyError("x")
    message = r"fails on 9 tokens \(KeyError.*smaller --length"
    with pytest.raises(UnsupportedModelError, match=message), failures_named(llama, inputs, 9):
        raise KeyError("x")
    with pytest.raises(CalibrationError, match="as it is"), failures_named(llama, inputs):
        raise CalibrationError("as it is")


def test_the_body_is_a_model_without_its_head_over_the_vocabulary() -> None:
    llama, ids = make_model("llama"), {"input_ids": OTHER}
    assert body_of(llama, ids) is llama.model
    assert body_of(llama.model, ids) is llama.model
    assert body_of(llama, {**ids, "logits_to_keep": OTHER}) is llama  # which the body does not take
    assert body_of(llama, ids, ["model.layers.0"]) is llama.model
    assert body_of(llama, ids, ["model.layers.0", "lm_head"]) is llama
    vit, _ = make("vit")
    assert body_of(vit, {"pixel_values": OTHER}) is vit


def test_no_cache_is_kept_by_any_part() -> None:
    model, samples = make("bart")
    config = model.config
    assert config.use_cache
    inputs = completed(model, samples[0])
    with torch.no_grad():
        found = run_model(model, {name: tensor for name, tensor in inputs.items() if name != "labels"})
    assert found.past_key_values is None
    assert config.use_cache


def test_a_decoder_is_handed_the_labels_one_place_later() -> None:
    model, _ = make("bart")  # starts with token 2
    labels = torch.tensor([[7, 8, -100, 9]])
    found = completed(model, {"input_ids": torch.tensor([[3, 4]]), "labels": labels})
    assert found["decoder_input_ids"].tolist() == [[2, 7, 8, 0]]
    assert found["labels"] is labels
    ids = torch.tensor([[3, 4, 5]])
    found = completed(model, {"input_ids": ids})  # is to give back what it reads
    assert found["decoder_input_ids"].tolist() == [[2, 3, 4]]
    assert torch.equal(found["labels"], ids)
    given = {"input_ids": ids, "decoder_input_ids": ids}
    assert completed(model, given) is given
    sound = completed(model, {"input_features": torch.zeros(3, 8, 4)})
    assert sound["decoder_input_ids"].tolist() == [[2]] * 3
    llama = make_model("llama")
    assert completed(llama, {"input_ids": ids}).keys() == {"input_ids"}


def test_inputs_have_the_dtype_of_the_model() -> None:
    inputs = {"input_ids": torch.arange(3), "pixel_values": HIDDEN, "mask": torch.ones(2).bool()}
    found: dict[str, Tensor] = inputs_on(CPU, inputs, torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "input_ids": torch.int64,
        "pixel_values": torch.bfloat16,
        "mask": torch.bool,
    }
