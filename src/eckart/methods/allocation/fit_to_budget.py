"""Makes any choice of ranks meet the budget: never above it, and within one step of it if it is to be filled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from eckart.methods.allocation.rank_budget import RankBudget, Ranks

GainPerByte = Callable[[str, int, int], float]
"""Gain a byte of moving a linear, by path, from one of its options up to another."""


def fit_to_budget(
    problem: RankBudget, chosen: Ranks, worth: GainPerByte, *, fill: bool = True
) -> dict[str, int | None]:
    """Return the ranks nearest to ``chosen`` that are allowed and meet the budget.

    Ranks are brought down to an option of their linear. While that is too much, the step that is worth least a byte is
    taken back; then, if the budget is to be filled, while any step up fits, the one that is worth most a byte is made.

    Args:
        problem: linears, options and budget.
        chosen: a rank or None for each linear.
        worth: of a step.
        fill: whether steps up are made.

    Raises:
        EckartError: the smallest options exceed the budget.
    """
    problem.check()
    state = _State(problem, chosen, worth)
    state.unify_groups()
    while state.total > problem.budget:
        state.move(min(state.moves(-1), key=lambda move: move.worth))
    while fill and (fitting := [m for m in state.moves(+1) if state.total + m.bytes <= problem.budget]):
        state.move(max(fitting, key=lambda move: move.worth))
    return {path: problem.options[path][index].rank for path, index in state.indices.items()}


class _Move:
    """One step of one linear, or of all of a group between dense and factored: new indices, bytes, worth a byte."""

    def __init__(self, problem: RankBudget, before: dict[str, int], after: dict[str, int], worth: GainPerByte) -> None:
        self.after = after
        sizes = {
            path: problem.options[path][index].bytes - problem.options[path][before[path]].bytes
            for path, index in after.items()
        }
        self.bytes = sum(sizes.values())
        gain = sum(
            worth(path, min(before[path], index), max(before[path], index)) * abs(sizes[path])
            for path, index in after.items()
        )
        self.worth = gain / abs(self.bytes) if self.bytes else 0.0


class _State:
    """An index into the options of each linear, and the moves from there."""

    def __init__(self, problem: RankBudget, chosen: Ranks, worth: GainPerByte) -> None:
        self.problem, self.worth = problem, worth
        self.indices = {linear.path: self._nearest(linear.path, chosen[linear.path]) for linear in problem.linears}
        self.total = sum(problem.options[path][index].bytes for path, index in self.indices.items())
        self._moves: dict[int, dict[str, _Move | None]] = {-1: {}, +1: {}}

    def _nearest(self, path: str, rank: int | None) -> int:
        options = self.problem.options[path]
        if rank is None:
            return len(options) - 1
        ranks = [option.rank for option in options if option.rank is not None]
        largest = ranks[-1] if ranks else 0
        if rank >= largest + self.problem.multiple:  # beyond the break-even rank, the dense weight is cheaper
            return len(options) - 1
        return max(bisect_right(ranks, rank) - 1, 0)

    def unify_groups(self) -> None:
        """Factor the dense linears of a group in which some are factored."""
        for path, index in list(self.indices.items()):
            members = self.problem.groups[path]
            mixed = any(not self._is_dense(member, self.indices[member]) for member in members)
            if mixed and self._is_dense(path, index) and index > 0:
                self.move(_Move(self.problem, self.indices, {path: index - 1}, self.worth))

    def moves(self, step: int) -> list[_Move]:
        """Return all moves by one option, up (+1) or down (-1)."""
        known = self._moves[step]
        for path in self.indices:
            if path not in known:
                known[path] = self._make_move(path, step)
        return [move for move in known.values() if move is not None]

    def move(self, move: _Move) -> None:
        """Make a move."""
        self.total += move.bytes
        self.indices.update(move.after)
        for path in move.after:
            for member in self.problem.groups[path]:
                for known in self._moves.values():
                    known.pop(member, None)

    def _make_move(self, path: str, step: int) -> _Move | None:
        after = {path: self.indices[path] + step}
        if not 0 <= after[path] < len(self.problem.options[path]):
            return None
        if self._is_dense(path, self.indices[path]) or self._is_dense(path, after[path]):
            # Linears that have no factored option are dense in any case.
            members = [m for m in self.problem.groups[path] if len(self.problem.options[m]) > 1]
            if path != members[0]:
                return None  # the group's move is made in the name of its first linear
            after = {member: self.indices[member] + step for member in members}
            kinds = {self._is_dense(member, index) for member, index in after.items()}
            if len(kinds) > 1 or any(index < 0 for index in after.values()):
                return None
        return _Move(self.problem, self.indices, after, self.worth)

    def _is_dense(self, path: str, index: int) -> bool:
        return index == len(self.problem.options[path]) - 1
