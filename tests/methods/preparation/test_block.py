"""Block preparation, against a literal loop over the whole of the data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.methods.refinement.test_block import BATCH, CPU, Setting
from torch import Tensor, nn
from torch.func import functional_call

from eckart.blocks.passes import BlockPass
from eckart.errors import CalibrationError
from eckart.layers import is_linear, weight_matrix
from eckart.maths.whitening import whiten
from eckart.methods.preparation import BlockPreparation, PreparationRecord, StableRank, Tail
from eckart.methods.preparation.block_training import PreparationTraining
from eckart.methods.preparation.weights import WeightToPrepare
from eckart.methods.refinement.block_training import Sequences
from eckart.methods.training import TrainingRun

RANK = 5


def root_of(second_moment: Tensor) -> Tensor:
    """Return a root; of what is singular, such as units behind a ReLU, one by eigenvectors."""
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(second_moment)
    if not failed:
        return root
    values, vectors = torch.linalg.eigh(second_moment)
    root = vectors * values.clamp_min(0).sqrt()
    return root


class Dense(Setting):
    """The first block of a model as it is, and the moments of what its linears are handed."""

    def __init__(self, kind: str = "llama", samples: int = 8) -> None:
        super().__init__(kind, samples)
        self.look()

    def look(self) -> None:
        """See what the block gives, and what its linears are handed."""
        self.names = [name for name, module in self.original.named_modules() if is_linear(module)]
        self.moments: dict[str, Tensor] = {}
        handles = []
        for name in self.names:

            def hook(_: nn.Module, args: tuple[Any, ...], __: Any, name: str = name) -> None:
                rows = args[0].detach().flatten(0, -2).double()
                self.moments[name] = rows.T @ rows

            handles.append(self.original.get_submodule(name).register_forward_hook(hook))
        with torch.no_grad():
            self.y = self.call(self.original, self.x)
        for handle in handles:
            handle.remove()

    def original_sequences(self) -> Sequences:
        streams = self.sequences()
        return Sequences(
            streams.original_inputs, streams.original_inputs, streams.targets, CPU, BATCH, len(self.x), streams.places
        )

    def prepare(
        self, settings: BlockPreparation, rank: int = RANK, names: list[str] | None = None, recompute: bool = False
    ) -> tuple[nn.Module, PreparationRecord]:
        block, training = copy.deepcopy(self.original), TrainingRun(torch.float32, 0, recompute)
        weights, run = self.weights(rank, names), BlockPass(block, self.arguments, CPU)
        return block, settings.prepare(run, "m", weights, self.original_sequences(), training)

    def training(
        self, settings: BlockPreparation, rank: int = RANK, names: list[str] | None = None
    ) -> tuple[PreparationTraining, nn.Module]:
        block = copy.deepcopy(self.original)
        run, sequences = BlockPass(block, self.arguments, CPU), self.original_sequences()
        weights, white = self.weights(rank, names), settings.coordinates == "white"
        trainee = PreparationTraining(settings, settings.penalty, run, weights, sequences, torch.float32, white=white)
        return trainee, block

    def weights(self, rank: int, names: list[str] | None) -> list[WeightToPrepare]:
        tokens = self.x.shape[0] * self.x.shape[1]
        return [
            WeightToPrepare(name, f"m.{name}", rank, whiten(self.moments[name]), tokens) for name in names or self.names
        ]

    def cut_loss(self, block: nn.Module, samples: slice, rank: int = RANK, names: list[str] | None = None) -> float:
        """Return the relative error of a block with its weights cut by SVDs of ``W R``."""
        cut = copy.deepcopy(block)
        for name in names or self.names:
            matrix = weight_matrix(cut.get_submodule(name))
            root = root_of(self.moments[name])
            left, _, _ = torch.linalg.svd(matrix.detach().double() @ root)
            with torch.no_grad():
                matrix.copy_(left[:, :rank] @ left[:, :rank].T @ matrix.double())
        with torch.no_grad():
            error = (self.call(cut, self.x) - self.y)[samples].square().sum()
        return float(error / (self.y - self.x)[samples].square().sum())


def literal(setting: Dense, settings: BlockPreparation, trained_on: int) -> tuple[list[nn.Module], list[float]]:
    """Train as the docstring says, in order; return the block and its cut loss before, and after each epoch."""
    block = copy.deepcopy(setting.original)
    tokens = setting.x.shape[0] * setting.x.shape[1]
    roots = {name: root_of(setting.moments[name] / tokens) for name in setting.names}
    starts = {name: weight_matrix(block.get_submodule(name)).detach().clone() for name in setting.names}
    energies = {name: (starts[name].double() @ roots[name]).square().sum() for name in setting.names}
    changes = {name: torch.zeros_like(starts[name]).requires_grad_(True) for name in setting.names}
    optimizer = torch.optim.AdamW(list(changes.values()), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    unit = (setting.y - setting.x).square().sum() / len(setting.x)
    held_out = slice(trained_on, len(setting.x))
    states, losses, step = [copy.deepcopy(block)], [setting.cut_loss(block, held_out)], 0
    for _ in range(settings.epochs):
        for batch in torch.split(torch.arange(trained_on), settings.batch):
            state, penalties = {}, []
            for name in setting.names:
                whole = starts[name].double() + (
                    changes[name].double()
                    if settings.coordinates == "weights"
                    else changes[name].double() @ torch.linalg.inv(roots[name])
                )
                values = torch.linalg.svdvals(whole @ roots[name])
                tail = values[RANK:].square().sum() / energies[name]
                srank = values.square().sum() / values[0] ** 2
                penalties.append(tail if isinstance(settings.penalty, Tail) else srank)
                parameter = block.get_submodule(name).weight
                transposed = weight_matrix(block.get_submodule(name)) is not parameter
                state[f"{name}.weight"] = (whole.T if transposed else whole).float()
            hidden = setting.x[batch]

            def now(*args: Any, state: dict[str, Tensor] = state, **kwargs: Any) -> Any:
                return functional_call(block, state, args, kwargs)

            output = setting.arguments.of(hidden)(now, hidden)
            loss = (output - setting.y[batch]).square().sum() / (unit * len(batch))
            loss = loss + settings.penalty.at(step) * torch.stack(penalties).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(list(changes.values()), settings.gradient_norm)
            optimizer.step()
            step += 1
        for name in setting.names:
            with torch.no_grad():
                change = changes[name].double()
                if settings.coordinates == "white":
                    change = change @ torch.linalg.inv(roots[name])
                weight_matrix(block.get_submodule(name)).copy_(starts[name].double() + change)
        states.append(copy.deepcopy(block))
        losses.append(setting.cut_loss(block, held_out))
    return states, losses


PENALTIES: list[tuple[Tail | StableRank, Any]] = [
    (Tail(weight=5.0, refresh=1), "weights"),
    (StableRank(first_weight=0.01, weight=0.1, iterations=300), "white"),
]


def short(penalty: Tail | StableRank, coordinates: Any) -> BlockPreparation:
    """Return a training of a few steps at one rate, in the order of the samples."""
    return BlockPreparation(
        epochs=3,
        batch=3,
        learning_rate=2e-3,
        relative=False,
        weight_decay=0.1,
        shuffle=False,
        held_out=0.25,
        warmup=0,
        final_learning_rate=1,
        penalty=penalty,
        coordinates=coordinates,
    )


@pytest.mark.parametrize(
    ("kind", "penalty", "coordinates"),
    [("llama", *PENALTIES[0]), ("gpt2", *PENALTIES[1])],
    ids=["tail", "stable-rank"],
)
def test_equals_a_literal_loop(kind: str, penalty: Tail | StableRank, coordinates: Any) -> None:
    setting, settings = Dense(kind), short(penalty, coordinates)
    states, losses = literal(setting, settings, 6)
    block, record = setting.prepare(settings)
    assert record.before == pytest.approx(losses[0], rel=1e-3)
    assert [epoch.held_out for epoch in record.epochs] == pytest.approx(losses[1:], rel=3e-3)
    assert record.after == pytest.approx(min(losses), rel=3e-3)
    for (name, ours), theirs in zip(block.named_parameters(), states[record.kept_epoch].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=3e-4, msg=name)
        came = setting.original.get_parameter(name)
        assert torch.equal(ours, came) != bool(name.removesuffix(".weight") in setting.names and record.kept_epoch)
        assert ours.requires_grad == came.requires_grad
        assert ours.grad is None


def loosened() -> Dense:
    """Return a block most of whose hidden units nobody looks at: their weights may as well be zero."""
    setting = Dense()
    with torch.no_grad():
        behind = setting.original.get_parameter("mlp.down_proj.weight")
        behind[:, RANK:] = 0
        behind.mul_(10)
        for name in ("mlp.gate_proj", "mlp.up_proj"):
            setting.original.get_parameter(f"{name}.weight")[RANK:] *= 0.3
    setting.look()
    return setting


def test_weights_that_can_be_of_low_rank_at_the_same_outputs_become_so() -> None:
    setting, names = loosened(), ["mlp.gate_proj", "mlp.up_proj"]
    settings = BlockPreparation(epochs=30, batch=6, learning_rate=0.1, held_out=0.25, penalty=Tail(weight=1.0))
    block, record = setting.prepare(settings, names=names)
    before = setting.cut_loss(setting.original, slice(6, 8), names=names)
    after = setting.cut_loss(block, slice(6, 8), names=names)
    assert (record.before, record.after) == pytest.approx((before, after), rel=2e-2)
    assert after < 0.3 * before
    for name in names:
        tail = record.tails[f"m.{name}"]
        assert tail.after < 0.05 * tail.before
        weight = weight_matrix(setting.original.get_submodule(name)).detach().double()
        values = torch.linalg.svdvals(weight @ root_of(setting.moments[name])).square()
        assert tail.before == pytest.approx(float(values[RANK:].sum() / values.sum()), rel=1e-4)


def test_weights_that_lose_more_are_not_taken() -> None:
    """With steps that are far too large the original tensors come back, the very same."""
    setting = Dense()
    settings = BlockPreparation(epochs=3, batch=3, learning_rate=3.0, held_out=0.25, warmup=0)
    block, record = setting.prepare(settings)
    assert record.kept_epoch == 0
    assert record.before == record.after
    assert all(tail.before == tail.after for tail in record.tails.values())
    for ours, came in zip(block.parameters(), setting.original.parameters(), strict=True):
        assert torch.equal(ours, came)


def test_a_training_that_diverges_is_left() -> None:
    setting = Dense()
    settings = BlockPreparation(epochs=3, batch=3, learning_rate=1e30, held_out=0.25, warmup=0)
    block, record = setting.prepare(settings)
    assert record.kept_epoch == 0
    assert all(torch.isfinite(parameter).all() for parameter in block.parameters())


def test_activations_computed_twice_give_the_same() -> None:
    setting = Dense()
    settings = BlockPreparation(epochs=2, batch=3, learning_rate=1e-3, held_out=0.25, penalty=Tail(weight=10.0))
    once, twice = (setting.prepare(settings, recompute=again)[0] for again in (False, True))
    for ours, other in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(ours, other)


def test_steps_in_proportion_to_the_weights_start_from_their_size() -> None:
    """Though what is trained is a change, which starts at zero."""
    setting, names = Dense(), ["mlp.up_proj", "mlp.down_proj"]
    settings = BlockPreparation(
        epochs=1, batch=8, learning_rate=1e-3, relative=True, held_out=0.125, warmup=0, penalty=Tail(weight=100.0)
    )
    trainee, block = setting.training(settings, names=names)
    trainee.step(torch.arange(7), 1e-3)
    for name in names:
        before, after = (m.get_parameter(f"{name}.weight") for m in (setting.original, block))
        size = float(before.detach().square().mean().sqrt())
        # The first step of Adam is as long as the rate in each number that has a gradient.
        assert float((after - before).detach().abs().median()) == pytest.approx(1e-3 * size, rel=0.02)


def test_a_guard_takes_two_samples() -> None:
    with pytest.raises(CalibrationError, match=r"Block preparation.*preparation\.held_out"):
        BlockPreparation().split(1)
