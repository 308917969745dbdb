"""Products with a stack are those with its tensor, whichever way torch is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from eckart.layers.linear_stack import LinearStack, StackLayout, part_of

NUMBER, ROWS, COLUMNS, TOKENS = 4, 5, 3, 6
ENDS = torch.tensor([2, 2, 5, 6], dtype=torch.int32)  # the second gets none
CHOSEN = torch.tensor([3, 0, 0, 2, 3, 0])

# Weights that are (out features, in features), and what a class does with them.
AS_STORED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "linear": lambda w, x: F.linear(x, w[2]),
    "linear with a bias": lambda w, x: F.linear(x, w[2], torch.arange(5.0)),
    "linear by name": lambda w, x: F.linear(x, weight=w[2]),
    "a number that is a tensor": lambda w, x: F.linear(x, w[torch.tensor(1)]),
    "one from behind": lambda w, x: F.linear(x, w[-1]),
    "in turn": lambda w, x: torch.stack([F.linear(x, matrix) for matrix in w]),
    "transposed": lambda w, x: x @ w[2].T,
    "transposed in words": lambda w, x: torch.matmul(x, w[2].transpose(0, 1)),
    "transposed before": lambda w, x: x.matmul(w.transpose(1, 2)[3]),
    "all": lambda w, x: torch.bmm(x.expand(len(w), -1, -1), w.transpose(1, 2)),
    "all by numbers of dimensions from behind": lambda w, x: x.expand(len(w), -1, -1) @ w.transpose(-2, -1),
    "all in short": lambda w, x: torch.bmm(x.expand(w.shape[0], -1, -1), w.mT),
    "one for each input": lambda w, x: torch.bmm(w[CHOSEN], x.unsqueeze(-1)).squeeze(-1),
    "one for each input behind it": lambda w, x: torch.bmm(x.unsqueeze(1), w[CHOSEN].mT).squeeze(1),
    "grouped": lambda w, x: F.grouped_mm(x, w.mT, offs=ENDS),
}


def grouped(w: Tensor, x: Tensor) -> Tensor:
    """Return a grouped product, written as a loop: torch's own takes only some sizes."""
    starts = [0, *ENDS.tolist()]
    return torch.cat([F.linear(x[starts[n] : starts[n + 1]], w[n]) for n in range(len(w))])


def stack_of(whole: Tensor, *, transposed: bool) -> LinearStack:
    """Return a stack with the numbers of a tensor."""
    layout = StackLayout(NUMBER, transposed)
    layers = []
    for number in range(NUMBER):
        weight = part_of(whole, layout, number)
        layers.append(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
        layers[-1].weight.data = weight
    return LinearStack(whole.shape, layout, layers)


@pytest.fixture
def whole() -> Tensor:
    return torch.randn(NUMBER, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", AS_STORED)
def test_gives_what_the_tensor_gives(name: str, whole: Tensor) -> None:
    inputs = torch.randn(TOKENS, COLUMNS, generator=torch.Generator().manual_seed(1))
    run = grouped if name == "grouped" else AS_STORED[name]
    assert_close(AS_STORED[name](stack_of(whole, transposed=False), inputs), run(whole, inputs))


@pytest.mark.parametrize(
    "run",
    [
        lambda w, x: x @ w[1],
        lambda w, x: F.linear(x, w[1].T),
        lambda w, x: F.linear(x, w[1].t()),
        lambda w, x: torch.bmm(x.expand(len(w), -1, -1), w),
        lambda w, x: torch.bmm(x.unsqueeze(1), w[CHOSEN]).squeeze(1),
    ],
)
def test_of_transposed_matrices_too(run: Callable[[Any, Tensor], Tensor], whole: Tensor) -> None:
    inputs = torch.randn(TOKENS, ROWS, generator=torch.Generator().manual_seed(1))
    assert_close(run(stack_of(whole, transposed=True), inputs), run(whole, inputs))


def test_inputs_behind_the_last_end_give_zeros(whole: Tensor) -> None:
    inputs = torch.randn(TOKENS, COLUMNS)
    outputs = F.grouped_mm(inputs, stack_of(whole, transposed=False).mT, offs=ENDS - 1)
    assert outputs.shape == (TOKENS, ROWS)
    assert not outputs[-1].any()
    assert outputs[:5].all()


def test_a_layer_is_run_with_its_hooks_and_only_if_it_is_reached(whole: Tensor) -> None:
    stack, seen = stack_of(whole, transposed=False), {}
    for name, layer in stack.named_children():
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    inputs = torch.randn(TOKENS, COLUMNS)
    F.grouped_mm(inputs, stack.mT, offs=ENDS)
    assert sorted(seen) == ["0", "2", "3"]
    assert torch.equal(seen["2"], inputs[2:5])


@pytest.mark.parametrize(
    "run",
    [
        lambda w, x: w + 1,
        lambda w, x: torch.einsum("ti,eoi->teo", x, w),
        lambda w, x: w[0] @ x.T,  # no rows are mapped to rows
        lambda w, x: x @ w[0],  # that is the transpose
        lambda w, x: F.linear(x, w[0].T),
        lambda w, x: torch.bmm(x.expand(3, -1, -1), w.mT),  # not as many inputs as layers
        lambda w, x: w[0][0],
        lambda w, x: w[torch.zeros(2, 2, dtype=torch.long)],
        lambda w, x: w[torch.tensor([True, False, True, True])],
        lambda w, x: w.transpose(0, 1),
        lambda w, x: w.view(-1, 3),
        lambda w, x: w[7],
    ],
)
def test_what_is_no_product_of_rows_is_an_error(run: Callable[[Any, Tensor], Any], whole: Tensor) -> None:
    with pytest.raises((TypeError, IndexError)):
        run(stack_of(whole, transposed=False), torch.randn(TOKENS, COLUMNS))


def test_gradients_flow(whole: Tensor) -> None:
    stack = stack_of(whole, transposed=False)
    inputs = torch.randn(TOKENS, COLUMNS, requires_grad=True)
    F.grouped_mm(inputs, stack.mT, offs=ENDS).sum().backward()
    theirs = whole.clone().requires_grad_()
    other = inputs.detach().clone().requires_grad_()
    grouped(theirs, other).sum().backward()
    assert theirs.grad is not None
    assert_close(inputs.grad, other.grad)
    for number, layer in enumerate(stack.layers):
        found = layer.get_parameter("weight").grad
        assert_close(torch.zeros(ROWS, COLUMNS) if found is None else found, theirs.grad[number])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=NUMBER, max_size=NUMBER), st.integers(0, 3))
def test_in_16_bits_few_shapes_are_run_and_outputs_are_those_of_own_inputs(counts: list[int], rest: int) -> None:
    whole = torch.randn(NUMBER, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).bfloat16()
    stack = stack_of(whole, transposed=False)
    inputs = torch.randn(sum(counts) + rest, COLUMNS, generator=torch.Generator().manual_seed(1)).bfloat16()
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    with Rows() as seen:
        outputs = F.grouped_mm(inputs, stack.mT, offs=ends)
    starts = [0, *ends.tolist()]
    expected = torch.cat([F.linear(inputs[starts[n] : starts[n + 1]], whole[n]) for n in range(NUMBER)])
    assert_close(outputs[: sum(counts)], expected)
    assert not outputs[sum(counts) :].any()
    assert all(rows in (1, 2, 4, 8) or rows % 16 == 0 or rows in counts for rows in seen.rows)
    if len(inputs) >= 48:  # else there are not as many to run
        assert all(rows in (1, 2, 4, 8) or rows % 16 == 0 for rows in seen.rows)


class Rows(TorchFunctionMode):
    """Sees how many rows linear layers are run on."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear:
            self.rows.append(len(args[0]))
        return function(*args, **(kwargs or {}))


def test_in_16_bits_a_layer_that_is_watched_is_handed_its_own_inputs(whole: Tensor) -> None:
    stack, seen = stack_of(whole.bfloat16(), transposed=False), {}
    for name, layer in stack.named_children():
        layer.register_forward_hook(lambda _, args, output, name=name: seen.update({name: (args[0], output)}))
    inputs = torch.randn(TOKENS, COLUMNS).bfloat16()
    outputs = F.grouped_mm(inputs, stack.mT, offs=ENDS)
    assert torch.equal(seen["2"][0], inputs[2:5])
    assert torch.equal(seen["2"][1], outputs[2:5])
