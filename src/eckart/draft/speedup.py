"""How many proposals a round should have, and what that gains."""

from __future__ import annotations

from typing import NamedTuple

from eckart.draft.acceptance import Acceptance
from eckart.draft.costs import StepCosts


class Speedup(NamedTuple):
    """What a draft is expected to bring.

    Attributes:
        factor: tokens a second with the draft, over those without.
        proposals: of the draft in a round.
        tokens_per_round: that are written.
    """

    factor: float
    proposals: int
    tokens_per_round: float


def expected_speedup(acceptance: Acceptance, costs: StepCosts) -> Speedup:
    """Return the highest expected speed-up over all numbers of proposals.

    A round of k proposals takes k steps of the draft and one pass of the model over k + 1 tokens (arXiv 2211.17192,
    theorem 3.8, where that pass costs as much as one step; here it is measured).

    Args:
        acceptance: of the draft.
        costs: of its steps, and of those of the model.
    """
    found = []
    for proposals in range(1, max(costs.model)):
        tokens = acceptance.tokens_per_round(proposals)
        seconds = proposals * costs.draft + costs.model[proposals + 1]
        found.append(Speedup(tokens * costs.model[1] / seconds, proposals, tokens))
    return max(found, key=lambda speedup: (speedup.factor, -speedup.proposals))
