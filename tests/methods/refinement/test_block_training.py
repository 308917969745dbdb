"""Steps and losses of one block, against plain autograd over all its sequences."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.methods.refinement.test_block import BATCH, Setting
from torch import Tensor, nn

from eckart.blocks.passes import BlockPass
from eckart.errors import UnsupportedModelError
from eckart.methods.refinement import BlockRefinement
from eckart.methods.refinement.block_training import BlockTraining, check_alike

CPU = torch.device("cpu")
ALL = torch.arange(8)


def training_of(
    setting: Setting, stored: torch.dtype = torch.float32, root: Tensor | None = None
) -> tuple[BlockTraining, nn.Module]:
    block = copy.deepcopy(setting.damaged)
    config = BlockRefinement(batch=8, learning_rate=1e-3, gradient_norm=1e6).training
    assert config is not None
    dtypes = {name: stored for name, _ in block.named_parameters()}
    run = BlockPass(block, setting.arguments, CPU)
    return BlockTraining(config, run, setting.sequences(), dtypes, torch.float32, root), block


def squared_error(setting: Setting, block: nn.Module, sequences: Tensor, root: Tensor | None = None) -> Tensor:
    """In passes of a whole batch."""
    hidden = setting.compressed[sequences]
    errors = setting.arguments.of(hidden)(block, hidden)
    errors = errors - setting.y[sequences]
    total: Tensor = (errors if root is None else errors @ root).square().sum()
    return total


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.mark.parametrize("sequences", [ALL, ALL[:3], ALL[[6, 1, 4]]], ids=["all", "first", "some"])
def test_a_step_is_that_of_the_whole_batch(setting: Setting, sequences: Tensor) -> None:
    """Though it is run in parts of two sequences."""
    training, block = training_of(setting)
    plain = copy.deepcopy(block)
    optimiser = torch.optim.AdamW(plain.parameters(), 1e-3, weight_decay=training.config.weight_decay)
    loss = squared_error(setting, plain, sequences)
    (loss / setting.y[sequences].numel()).backward()
    optimiser.step()
    assert len(sequences) > BATCH
    assert training.step(sequences, 1e-3) == pytest.approx(float(loss.detach()), rel=1e-5)
    moved = 0.0
    for ours, theirs, before in zip(block.parameters(), plain.parameters(), setting.damaged.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)
        moved = max(moved, float((ours - before).detach().abs().max()))
    assert moved > 5e-4
    assert all(parameter.grad is None for parameter in block.parameters())


def test_losses_are_those_of_the_numbers_that_would_be_stored(setting: Setting) -> None:
    training, block = training_of(setting, torch.bfloat16)
    rounded = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.bfloat16())
        expected = float(squared_error(setting, rounded, ALL[2:7]))
    assert training.loss(ALL[2:7]) == pytest.approx(expected, rel=1e-5)
    # And the weights that are trained are not rounded.
    assert any(not torch.equal(p, p.bfloat16().float()) for p in block.parameters())


def test_the_unit_is_what_the_original_block_changes(setting: Setting) -> None:
    training, _ = training_of(setting)
    change = (setting.y - setting.x).double().square().sum(dim=(1, 2))
    for sequences in (ALL, ALL[[5]], ALL[[5, 2]], ALL[[5, 5]]):
        assert training.unit(sequences) == pytest.approx(float(change[sequences].sum()), rel=1e-5)


def test_a_block_that_changes_nothing_has_a_unit_of_one() -> None:
    setting = Setting()
    setting.y = setting.x.clone()
    assert training_of(setting)[0].unit(ALL) == 1


def test_errors_are_weighed_by_a_root_of_the_size_of_the_identity(setting: Setting) -> None:
    """So that how large the metric is makes no difference to steps whose gradients are cut."""
    width = setting.x.shape[-1]
    root = torch.randn(width, width, generator=torch.Generator().manual_seed(5)).double()
    scaled = root * (width / float(root.square().sum())) ** 0.5
    for times in (1.0, 1000.0):
        training, block = training_of(setting, root=times * root)
        with torch.no_grad():
            expected = float(squared_error(setting, block, ALL, scaled.float()))
        assert training.loss(ALL) == pytest.approx(expected, rel=1e-4)
        change = (setting.y - setting.x).double() @ scaled
        assert training.unit(ALL) == pytest.approx(float(change.square().sum()), rel=1e-4)


def test_the_block_ends_with_what_was_remembered_last_as_it_came(setting: Setting) -> None:
    training, block = training_of(setting, torch.bfloat16)
    before = {name: parameter.requires_grad for name, parameter in setting.damaged.named_parameters()}
    training.step(ALL, 1e-2)
    training.snapshot()
    kept = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    training.step(ALL, 1e-2)
    assert training.is_finite()
    training.finish()
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter, kept[name].bfloat16().float())
        assert parameter.requires_grad == before[name]
        assert parameter.grad is None


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_what_does_not_fit_the_stored_dtype_is_not_finite(setting: Setting, stored: torch.dtype) -> None:
    training, block = training_of(setting, stored)
    with torch.no_grad():
        next(block.parameters())[0] = 1e6
    assert training.is_finite() == (stored is torch.bfloat16)


def test_sequences_are_counted_and_gathered_one_by_one(setting: Setting) -> None:
    sequences = setting.sequences(torch.bfloat16)
    assert (len(sequences), sequences.batch) == (8, BATCH)
    found = sequences.gather(sequences.targets, torch.tensor([6, 1]))
    assert found.dtype == torch.float32
    assert torch.equal(found, setting.y[[6, 1]].bfloat16().float())


def test_outputs_of_another_length_cannot_be_compared() -> None:
    check_alike(torch.ones(1, 8, 4), torch.ones(1, 8, 4))
    with pytest.raises(UnsupportedModelError, match=r"gives \(1, 7, 4\) numbers .* gave \(1, 8, 4\).*refinement=none"):
        check_alike(torch.ones(1, 7, 4), torch.ones(1, 8, 4))
