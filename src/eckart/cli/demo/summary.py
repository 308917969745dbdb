"""What the demo's table shows, in words: each of them follows from the numbers of this run."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.cli.demo.run import Row

CLOSE = 0.1  # of the dense perplexity


def summary(rows: Sequence[Row]) -> list[str]:
    """Return sentences: which is the smallest that is close, which of a size is ahead, which are of no use.

    Args:
        rows: the dense model and one compressed one or more.
    """
    (dense,) = (row for row in rows if row.step is None)
    made = [row for row in rows if row.step is not None]
    return [_closest(made, dense), *_of_one_size(made, dense), *_beaten(made)]


def _closest(made: Sequence[Row], dense: Row) -> str:
    near = [row for row in made if _excess(row, dense) <= CLOSE]
    if near:
        best = min(near, key=lambda row: row.keep)
        return f"The smallest within {CLOSE:.0%} of the dense model's perplexity is {_told(best, dense)}."
    best = min(made, key=_perplexity)
    return f"None is within {CLOSE:.0%} of the dense model's perplexity; the nearest is {_told(best, dense)}."


def _of_one_size(made: Sequence[Row], dense: Row) -> list[str]:
    """Compare those that were asked for the same share of bytes."""
    found = []
    for keep in dict.fromkeys(row.step.keep for row in made if row.step):
        first, *others = sorted((row for row in made if row.step and row.step.keep == keep), key=_perplexity)
        if others:
            behind = _joined([f"{row.name} ({_excess(row, dense):+.0%})" for row in others])
            found.append(
                f"Of those at {keep:.0%} of the bytes, {first.name} is the nearest to the dense model "
                f"({_excess(first, dense):+.0%} perplexity), ahead of {behind}."
            )
    return found


def _beaten(made: Sequence[Row]) -> list[str]:
    """Name those that another is at once smaller and better than, by what beats them."""
    losers: dict[str, list[str]] = {}
    for row in made:
        if winners := [other for other in made if other.keep < row.keep and _perplexity(other) < _perplexity(row)]:
            losers.setdefault(min(winners, key=_perplexity).name, []).append(row.name)
    return [f"{winner} is both smaller and better than {_joined(names)}." for winner, names in losers.items()]


def _told(row: Row, dense: Row) -> str:
    return f"{row.name}: {row.keep:.0%} of the linear layers' bytes, {_excess(row, dense):+.1%} perplexity"


def _perplexity(row: Row) -> float:
    return row.perplexity.perplexity


def _excess(row: Row, dense: Row) -> float:
    return _perplexity(row) / _perplexity(dense) - 1


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
