"""Block refinement, against a literal loop over the whole of the data."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from tests.tiny_models import blockwise
from torch import Tensor, nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.argument_table import Arguments
from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.passes import BlockPass
from eckart.blocks.tensor_cache import TensorCache
from eckart.errors import CalibrationError, EckartWarning
from eckart.methods.metric import NoMetric
from eckart.methods.refinement import BlockRefinement
from eckart.methods.refinement.block_training import Sequences
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training import TrainingRun

CPU = torch.device("cpu")
BATCH = 2  # sequences that go through a block at once


class Setting:
    """The first block of a model, a damaged copy of it, and streams around them."""

    def __init__(self, kind: str = "llama", samples: int = 8, damage: float = 0.3) -> None:
        model = make_model(kind)
        tokens = torch.randint(256, (samples, 24), generator=torch.Generator().manual_seed(1))
        run = blockwise(model, tokens)
        (self.x,) = run.enter(sizes=range(1, samples + 1))
        self.original: nn.Module = run.modules[0]
        self.damaged = copy.deepcopy(self.original)
        with torch.no_grad():
            for parameter in self.damaged.parameters():
                parameter.mul_(1 + damage * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        self.arguments: Arguments = run.arguments[0]
        call = self.arguments.of(self.x)
        with torch.no_grad():
            self.y = call(self.original, self.x)
        # The compressed stream is another one than the original.
        self.compressed = self.x + 0.05 * torch.randn(self.x.shape, generator=torch.Generator().manual_seed(3))
        self.call: BlockArguments = call

    def sequences(self, dtype: torch.dtype = torch.float32) -> Sequences:
        def cached(tensor: Tensor) -> TensorCache:
            cache = TensorCache(dtype)
            for batch in torch.split(tensor, BATCH):
                cache.append(batch)
            return cache

        return Sequences(cached(self.compressed), cached(self.x), cached(self.y), CPU, BATCH, len(self.x))

    def refine(
        self,
        settings: BlockRefinement,
        stored: torch.dtype = torch.float32,
        metric: torch.Tensor | None = None,
        recompute: bool = False,
    ) -> tuple[nn.Module, RefinementRecord]:
        block = copy.deepcopy(self.damaged)
        dtypes = {name: stored for name, _ in block.named_parameters()}
        run, training = BlockPass(block, self.arguments, CPU), TrainingRun(torch.float32, 0, recompute)
        record = settings.refine(run, "block", self.sequences(), dtypes, training, metric)
        return block, record

    def relative_loss(self, block: nn.Module, samples: slice) -> float:
        with torch.no_grad():
            error = (self.call(block, self.compressed) - self.y)[samples].square().sum()
        return float(error / (self.y - self.x)[samples].square().sum())


def literal(setting: Setting, settings: BlockRefinement, trained_on: int) -> nn.Module:
    """Train as the paper says: whole batches, in order, nothing held out."""
    block = copy.deepcopy(setting.damaged)
    optimizer = torch.optim.AdamW(block.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batches = torch.split(torch.arange(trained_on), settings.batch)
    steps, step = settings.epochs * len(batches), 0
    for _ in range(settings.epochs):
        for batch in batches:
            warm = int(settings.warmup * steps)
            wave = (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2
            factor = step / warm if step < warm else 0.1 + 0.9 * wave
            optimizer.param_groups[0]["lr"] = settings.learning_rate * factor
            optimizer.zero_grad()
            hidden = setting.compressed[batch]
            output = setting.arguments.of(hidden)(block, hidden)
            ((output - setting.y[batch]) ** 2).mean().backward()
            nn.utils.clip_grad_norm_(block.parameters(), 1.0)
            optimizer.step()
            step += 1
    return block


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("batch", [8, 3])
def test_equals_the_published_loop(kind: str, batch: int) -> None:
    setting = Setting(kind)
    settings = BlockRefinement(epochs=4, batch=batch, learning_rate=1e-3, shuffle=False, held_out=0)
    expected = literal(setting, settings, 8)
    block, record = setting.refine(settings)
    for (name, ours), theirs in zip(block.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=name)
    assert (record.before, record.after, record.kept_epoch) == (None, None, 4)
    assert [epoch.held_out for epoch in record.epochs] == [None] * 4


def test_the_losses_are_relative_to_what_the_block_changes() -> None:
    setting = Setting()
    settings = BlockRefinement(epochs=3, batch=3, learning_rate=1e-3, held_out=0.25)
    block, record = setting.refine(settings)
    held_out = slice(6, 8)
    assert record.before == pytest.approx(setting.relative_loss(setting.damaged, held_out), rel=1e-4)
    assert record.after == pytest.approx(setting.relative_loss(block, held_out), rel=1e-4)
    assert record.after == min(epoch.held_out for epoch in record.epochs if epoch.held_out is not None)
    assert record.before is not None
    assert record.after is not None
    assert record.after < record.before
    # The first epoch starts with a step of length zero, so its loss is near that of the block as it came.
    assert record.epochs[0].training == pytest.approx(setting.relative_loss(setting.damaged, slice(0, 6)), rel=0.2)


def test_errors_are_measured_in_a_metric() -> None:
    setting = Setting()
    width = setting.x.shape[-1]
    root = torch.randn(width, width, generator=torch.Generator().manual_seed(5)).double()
    metric = root @ root.T
    settings = BlockRefinement(epochs=3, batch=3, learning_rate=1e-3, held_out=0.25, metric="fisher")
    block, record = setting.refine(settings, metric=metric)
    plain, _ = setting.refine(settings.model_copy(update={"metric": NoMetric()}), metric=metric)
    shrunk = metric + 0.01 * metric.diagonal().mean() * torch.eye(width)

    def loss(block: nn.Module) -> float:
        with torch.no_grad():
            errors = (setting.call(block, setting.compressed) - setting.y)[6:8].flatten(0, 1).double()
            changes = (setting.y - setting.x)[6:8].flatten(0, 1).double()
        return float(((errors @ shrunk) * errors).sum() / ((changes @ shrunk) * changes).sum())

    assert record.before == pytest.approx(loss(setting.damaged), rel=1e-4)
    assert record.after == pytest.approx(loss(block), rel=1e-4)
    assert loss(block) < loss(plain) < loss(setting.damaged)


def test_a_recipe_with_a_metric_of_blocks_measures_it(llama: PreTrainedModel, tokens: Tensor) -> None:
    numbers = {"epochs": 3, "batch": 2, "learning_rate": 1e-3, "held_out": 0.1}
    overrides = [f"refinement.{name}={number}" for name, number in numbers.items()]
    records = []
    for metric in ("none", "fisher"):
        model = copy.deepcopy(llama)
        with pytest.warns(EckartWarning, match="optimiser steps"):
            report = eckart.compress(
                model, "aa-svd", 0.6, tokens, overrides=[*overrides, f"refinement.metric={metric}"]
            )
        records.append(report.refinements)
        assert (report.costs.timings.allocation > 0.01) == (metric == "fisher")
    assert all(one.before != other.before for one, other in zip(*records, strict=True))


def test_held_out_sequences_are_not_trained_on() -> None:
    setting = Setting()
    settings = BlockRefinement(epochs=2, batch=3, learning_rate=1e-3, held_out=0.25, patience=5)
    with torch.no_grad():
        setting.y[6:] += 100
    changed, _ = setting.refine(settings.model_copy(update={"held_out": 0.25}))
    literal_six = literal(setting, settings.model_copy(update={"shuffle": False}), 6)
    # Same data, another order: no parameter went where a loss of 100 would have pulled it.
    for ours, theirs in zip(changed.parameters(), literal_six.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 0.02


def test_a_state_that_is_worse_on_held_out_sequences_is_not_kept() -> None:
    setting = Setting(damage=0.001)
    setting.compressed = setting.x.clone()
    with torch.no_grad():
        setting.y[:6] += 3 * torch.randn(setting.y[:6].shape, generator=torch.Generator().manual_seed(4))
    block, record = setting.refine(BlockRefinement(epochs=20, batch=2, learning_rate=1e-2, held_out=0.25, patience=3))
    assert record.kept_epoch == 0
    assert len(record.epochs) == 3  # as long as patience lasts
    assert record.after == record.before
    for ours, theirs in zip(block.parameters(), setting.damaged.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("factor", [1.0, 1e30])
@pytest.mark.parametrize("held_out", [0, 0.25])
def test_what_diverges_is_not_kept(factor: float, held_out: float) -> None:
    setting = Setting()
    settings = BlockRefinement(epochs=6, batch=2, learning_rate=factor, warmup=0, held_out=held_out, patience=6)
    block, record = setting.refine(settings)
    assert all(torch.isfinite(parameter).all() for parameter in block.parameters())
    if not held_out:
        return
    assert record.after is not None
    assert record.before is not None
    assert record.after <= record.before


def test_trained_in_float32_and_kept_as_stored() -> None:
    setting = Setting()
    settings = BlockRefinement(epochs=4, batch=2, learning_rate=1e-4, held_out=0.25, patience=10)
    block, record = setting.refine(settings, stored=torch.bfloat16)
    for parameter in block.parameters():
        assert parameter.dtype is torch.float32  # as it came
        assert parameter.requires_grad  # as it came
        assert parameter.grad is None
        assert torch.equal(parameter, parameter.bfloat16().float())
    # Steps of 1e-4 on bfloat16 weights would mostly round to nothing.
    assert record.kept_epoch > 0
    assert record.after == pytest.approx(setting.relative_loss(block, slice(6, 8)), rel=1e-4)


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    setting = Setting()
    settings = BlockRefinement(epochs=2, batch=2, learning_rate=1e-3, held_out=0.25)
    one, two = setting.refine(settings)[0], setting.refine(settings)[0]
    torch.manual_seed(123)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    unshuffled = setting.refine(settings.model_copy(update={"shuffle": False}))[0]
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), unshuffled.parameters(), strict=True))


def test_checkpointing_changes_nothing() -> None:
    setting = Setting()
    settings = BlockRefinement(epochs=2, batch=4, learning_rate=1e-3, held_out=0.25)
    plain, again = setting.refine(settings)[0], setting.refine(settings, recompute=True)[0]
    for ours, theirs in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batch_sizes_are_all_that_are_run() -> None:
    class Recorder(Arguments):
        def of(self, hidden: Tensor, batch: int | None = None, given: Any = None) -> BlockArguments:
            asked.add(len(hidden))
            return super().of(hidden, batch, given)

    for samples, batch in ((8, 3), (8, 32), (7, 5), (5, 1), (9, 4)):
        asked: set[int] = set()
        setting = Setting(samples=samples)
        setting.arguments = Recorder(setting.arguments.table, 0, 0)
        settings = BlockRefinement(epochs=1, batch=batch, held_out=0.3)
        setting.refine(settings)
        assert asked == settings.batch_sizes(samples, BATCH)


@pytest.mark.parametrize(("samples", "held_out", "split"), [(16, 0.125, (14, 2)), (2, 0.125, (1, 1)), (5, 0, (5, 0))])
def test_split(samples: int, held_out: float, split: tuple[int, int]) -> None:
    assert BlockRefinement(held_out=held_out).split(samples) == split


def test_one_sample_is_too_few() -> None:
    with pytest.raises(CalibrationError, match="Use more samples"):
        BlockRefinement().split(1)


def test_steps_of_the_paper() -> None:
    assert BlockRefinement(held_out=0).steps(256) == 200


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
class TestInTheWalk:
    """What the walk makes of it."""

    OVERRIDES = ("refinement.epochs=6", "refinement.batch=2", "refinement.learning_rate=1e-3")

    @pytest.mark.parametrize("kind", CONFIGS)
    @pytest.mark.parametrize("recipe", ["aa-svd", "svd"])
    def test_refined_blocks_are_nearer_to_the_original(self, kind: str, recipe: str, tokens: Tensor) -> None:
        original = make_model(kind)
        errors = {}
        for overrides in (("refinement=none",), ("refinement=block", *self.OVERRIDES)):
            model = make_model(kind)
            report = eckart.compress(model, recipe, 0.5, tokens, overrides=overrides)
            with torch.no_grad():
                ours = model.base_model(tokens).last_hidden_state
                theirs = original.base_model(tokens).last_hidden_state
            errors[len(report.refinements)] = float((ours - theirs).norm() / theirs.norm())
        none, refined = errors.pop(0), errors.popitem()
        assert refined[0] == original.config.num_hidden_layers
        assert refined[1] < none

    def test_plain_svd_can_be_refined(self, llama: PreTrainedModel, tokens: Tensor) -> None:
        report = eckart.compress(llama, "svd", 0.5, tokens, overrides=["refinement=block", "refinement.batch=2"])
        assert report.calibration is not None
        assert len(report.refinements) == 3
        for record in report.refinements:
            assert record.after is not None
            assert record.before is not None
            assert record.after <= record.before

    @pytest.mark.parametrize("structure", ["two-factor", "pivoted"])
    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_new_biases_are_trained_like_the_rest(self, structure: str, tokens: Tensor) -> None:
        biases = []
        # Nothing is held out: a random model has little to learn for other text.
        for refinement in (("refinement=none",), ("refinement=block", *self.OVERRIDES, "refinement.held_out=0")):
            model = make_model("llama")
            overrides = ["objective.affine=true", f"structure={structure}", *refinement]
            report = eckart.compress(model, "aa-svd", 0.5, tokens, overrides=overrides)
            assert all(record.epochs[-1].training < record.epochs[0].training for record in report.refinements)
            biases.append({name: p.detach() for name, p in model.named_parameters() if name.endswith("second.bias")})
        assert biases[0].keys() == biases[1].keys()
        assert len(biases[0]) == 21
        assert all(not torch.equal(before, biases[1][name]) for name, before in biases[0].items())

    def test_keeping_everything_trains_nothing(self, llama: PreTrainedModel, tokens: Tensor) -> None:
        before = {name: t.clone() for name, t in llama.state_dict().items()}
        report = eckart.compress(llama, "aa-svd", 1.0, tokens)
        assert report.refinements == []
        assert all(torch.equal(t, before[name]) for name, t in llama.state_dict().items())

    def test_few_steps_are_said(self, llama: PreTrainedModel, tokens: Tensor) -> None:
        with pytest.warns(EckartWarning, match=r"at most 25 optimiser steps on 12 samples.*refinement\.batch=4"):
            eckart.compress(llama, "aa-svd", 0.5, tokens)
