from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eckart.blocks.block import Expert, Group, LinearRef
from eckart.blocks.input_sums import InputSums
from eckart.blocks.mixture_run import MixtureRun
from eckart.maths.moments import Moments
from eckart.maths.prior import add_prior

WIDTH, CPU = 3, torch.device("cpu")


def ref(name: str) -> LinearRef:
    return LinearRef(name, name, 2, WIDTH)


PLAIN = Group((ref("q"),), True)
EXPERTS = [
    Group((ref(f"e.{n}"),), True, True, "e.*", Expert("mlp", f"{n}", inner=False, last=f"e.{n}")) for n in range(3)
]
GROUPS = (PLAIN, *EXPERTS)


def rows(seed: int, tokens: int) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def batch(seed: int) -> dict[Group, Tensor]:
    return {group: rows(10 * seed + n, n + seed) for n, group in enumerate(GROUPS, 1)}


def weights(inputs: dict[Group, Tensor], seed: int) -> dict[str, Tensor]:
    return {f"{n}": rows(seed, len(inputs[group]))[:, 0].square() for n, group in enumerate(EXPERTS)}


def run(known: dict[str, Tensor] | None) -> dict[str, MixtureRun]:
    return {"mlp": MixtureRun(nn.Identity(), weights=known)}


def expected(paired: bool, known: list[dict[str, Tensor]] | None) -> list[Moments]:
    """Sum in one go, with weights whose mean is 1 over all experts."""
    batches = [batch(0), batch(1)]
    total = 1.0
    if known is not None:
        every = torch.cat([found for part in known for found in part.values()])
        total = float(every.mean())
    found = []
    for number, group in enumerate(EXPERTS):
        moments = Moments.zeros(WIDTH, paired=paired, device=CPU, original=paired)
        x = torch.cat([part[group] for part in batches])
        each = None if known is None else torch.cat([part[f"{number}"] for part in known]) / total
        moments.add(x, x + 1 if paired else None, each)
        found.append(moments)
    add_prior(found, inner=False)
    return found


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("weighed", [False, True])
def test_experts_are_weighed_and_have_a_prior(paired: bool, weighed: bool) -> None:
    sums, known = InputSums(GROUPS, CPU, paired=paired), []
    for seed in range(2):
        inputs = batch(seed)
        known.append(weights(inputs, seed))
        others = {group: tokens + 1 for group, tokens in inputs.items()}
        sums.add(inputs, run(known[-1] if weighed else None), others if paired else None)
    found = sums.result()
    for group, theirs in zip(EXPERTS, expected(paired, known if weighed else None), strict=True):
        torch.testing.assert_close(found[group].second_moment, theirs.second_moment, rtol=1e-5, atol=1e-6)
        assert found[group].tokens == pytest.approx(theirs.tokens, rel=1e-5)
        if paired:
            assert found[group].shift is not None
            assert found[group].original is not None
            torch.testing.assert_close(found[group].original, theirs.original, rtol=1e-5, atol=1e-6)
    assert found[PLAIN].tokens == 1 + 2
    assert found[PLAIN].original is None


def test_inputs_stand_for_the_original_ones_where_these_are_not_known() -> None:
    sums = InputSums(GROUPS, CPU, paired=True)
    inputs = batch(1)
    sums.add(inputs, run(None), {PLAIN: inputs[PLAIN] + 1})
    found = sums.result()
    assert all(not moments.shift.any() for group in EXPERTS if (moments := found[group]).shift is not None)
    shift = found[PLAIN].shift
    assert shift is not None
    assert shift.any()


def test_weights_that_are_not_those_of_the_tokens_are_not_taken() -> None:
    sums, other = (InputSums(GROUPS, CPU) for _ in range(2))
    inputs = batch(1)
    known = weights(inputs, 0)
    sums.add(inputs, run({**known, "1": known["1"][:-1]}))
    other.add(inputs, {})
    for one, theirs in zip(sums.result().values(), other.result().values(), strict=True):
        assert torch.equal(one.second_moment, theirs.second_moment)
