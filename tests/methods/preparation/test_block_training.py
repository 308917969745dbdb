"""Steps of a dense block, and what it loses once it is cut."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import CONFIGS, dealt
from tests.methods.preparation.test_block import PENALTIES, RANK, Dense, literal, short

from eckart.layers import weight_matrix
from eckart.methods.preparation import Tail

NAMES = ["mlp.gate_proj", "mlp.down_proj"]
PLAIN = short(Tail(weight=5.0), "weights")


@pytest.fixture(scope="module")
def setting() -> Dense:
    return Dense()


@pytest.mark.parametrize(("kind", "number"), dealt(CONFIGS, (1, 0)))
def test_steps_are_those_of_autograd_over_whole_batches(kind: str, number: int) -> None:
    setting, settings = Dense(kind), short(*PENALTIES[number]).model_copy(update={"epochs": 2})
    training, block = setting.training(settings)
    for batch in torch.split(torch.arange(6).repeat(2), 3):
        training.step(batch, settings.learning_rate)
    training.snapshot()
    training.finish()
    states, _ = literal(setting, settings, 6)
    moved = 0.0
    for name, ours in block.named_parameters():
        torch.testing.assert_close(ours, states[-1].get_parameter(name), rtol=1e-2, atol=5e-4, msg=name)
        moved = max(moved, float((ours - setting.original.get_parameter(name)).detach().abs().max()))
    assert moved > 4e-3


def test_the_loss_of_a_step_is_that_of_the_dense_block(setting: Dense) -> None:
    training, block = setting.training(PLAIN)
    assert training.step(torch.arange(6), 0.05) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        expected = float((setting.call(block, setting.x) - setting.y)[[2, 5]].square().sum())
    assert expected > 0
    assert training.step(torch.tensor([2, 5]), 0.05) == pytest.approx(expected, rel=1e-3)


def test_the_guard_looks_at_what_is_cut(setting: Dense) -> None:
    training, block = setting.training(PLAIN, names=NAMES)
    before = training.loss(torch.arange(8)) / training.unit(torch.arange(8))
    assert before == pytest.approx(setting.cut_loss(setting.original, slice(0, 8), names=NAMES), rel=1e-3)
    training.step(torch.arange(6), 0.05)
    now = training.loss(torch.arange(4, 8)) / training.unit(torch.arange(4, 8))
    assert now == pytest.approx(setting.cut_loss(block, slice(4, 8), names=NAMES), rel=1e-3)
    # The block itself is not cut by that.
    assert torch.linalg.matrix_rank(weight_matrix(block.get_submodule(NAMES[0]))) > RANK
    assert [len(shares) for shares in training.shares] == [2, 2]


def test_the_original_tensors_come_back_where_nothing_was_won(setting: Dense) -> None:
    training, block = setting.training(PLAIN)
    came = {name: parameter.data_ptr() for name, parameter in training.came.items()}
    training.loss(torch.arange(8))
    training.snapshot()
    training.step(torch.arange(6), 0.05)
    training.loss(torch.arange(8))
    training.finish()
    assert {name: parameter.data_ptr() for name, parameter in block.named_parameters()} == came
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter, setting.original.get_parameter(name))
    assert all(tail.before == tail.after for tail in training.tails().values())


def test_what_is_not_finite_has_no_loss(setting: Dense) -> None:
    training, block = setting.training(PLAIN)
    with torch.no_grad():
        block.get_parameter(f"{NAMES[0]}.weight")[0] = float("inf")
    assert not training.is_finite()
    assert training.loss(torch.arange(8)) != training.loss(torch.arange(8))
    assert training.step(torch.arange(8), 1e-3) != training.step(torch.arange(8), 1e-3)


def test_numbers_of_another_dtype_come_back_in_it() -> None:
    setting = Dense()
    setting.original.double()
    training, block = setting.training(PLAIN, names=NAMES)
    training.step(torch.arange(6), 0.05)
    training.snapshot()
    training.finish()
    for name, parameter in block.named_parameters():
        assert parameter.dtype == torch.float64
        came = setting.original.get_parameter(name)
        assert torch.equal(parameter, came) == (name.removesuffix(".weight") not in NAMES)
