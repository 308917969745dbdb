"""What each share of the bytes becomes, whoever says it."""

from __future__ import annotations

from typing import ClassVar, Literal

from tests.methods.allocation.helpers import LAYOUT, statistics

from eckart.methods.allocation.by_shares import ByShares, of_each_kind
from eckart.methods.allocation.rank_budget import RankBudget


class Given(ByShares):
    name: Literal["given"] = "given"
    given: ClassVar[dict[str, float]] = {"0.q": 0.5, "0.k": 1.0, "1.q": 0.25}

    def shares(self, problem: RankBudget) -> dict[str, float]:
        return self.given


def test_a_rank_is_what_fits_into_a_share_and_steps_begin_where_most_is_missed() -> None:
    problem = RankBudget(tuple(statistics(path, (64, 64)) for path in Given.given), 0.7, LAYOUT, multiple=5)
    assert Given().choose(problem) == {"0.q": 16, "0.k": None, "1.q": 8}  # of 32, at which nothing is saved
    missed = {path: Given().worth(problem)(path, 0, 1) for path in Given.given}
    assert max(missed, key=lambda path: missed[path]) == "0.k"


def test_kinds_are_in_the_order_in_which_they_are_met() -> None:
    linears = [statistics(path, (64, 64)) for path in ("0.q", "0.k", "1.q", "1.v", "1.k")]
    assert [[x.path for x in kind] for kind in of_each_kind(linears)] == [["0.q", "1.q"], ["0.k", "1.k"], ["1.v"]]
