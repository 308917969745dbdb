"""The one table of ``eckart eval``: a row a measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from eckart.evaluate import ZeroShot
from eckart.evaluate.perplexity import perplexity_of
from eckart.evaluate.scores import ItemScore, Measured

CONFIDENCE = 1.96  # standard errors on either side, for 95 %


def evaluation_table(
    texts: Sequence[dict[str, Any]],
    tasks: ZeroShot | None,
    *,
    compared: bool,
    items: Sequence[dict[str, Any]] = (),
) -> Table:
    """Return all that was measured, each with its 95 % interval.

    Args:
        texts: rows as ``eckart eval --json`` has them.
        items: the same of items.
        tasks: what was measured on tasks, or None.
        compared: there is a baseline.
    """
    columns = ["on", "of", "measure", "value", "95 % between"] + (["baseline", "difference"] if compared else [])
    table = Table(*columns, box=box.SIMPLE)
    for row in texts:
        _add_text(table, row)
    for row in items:
        for number, found in enumerate(map(ItemScore.model_validate, row["scores"])):
            _add_items(table, row["source"] if number == 0 else "", found)
    for score in tasks.scores if tasks else []:
        of = f"{score.documents} documents" + (f", {score.few_shot} shown first" if score.few_shot else "")
        name = score.task if score.group is None else f"  {score.task}"
        measure = score.metric if score.filter == "none" else f"{score.metric} ({score.filter})"
        _add_score(table, [name, of, measure], score)
    if tasks and tasks.average and tasks.average.tasks > 1:
        _add_score(table, ["average", f"{tasks.average.tasks} tasks", tasks.average.metric], tasks.average)
    return table


def _add_text(table: Table, row: dict[str, Any]) -> None:
    loss, error = row["log_perplexity"], row["error"]
    ends = [] if error is None else [loss - CONFIDENCE * error, loss + CONFIDENCE * error]
    cells = [row["text"], f"{row['windows']} x {row['length']}", "perplexity", f"{row['perplexity']:.3f}"]
    cells.append(" and ".join(f"{perplexity_of(end):.3f}" for end in ends) or "one window")
    nats = ["", "", "nats a token", f"{loss:.4f}", " and ".join(f"{end:.4f}" for end in ends)]
    other, shared = row.get("baseline"), row.get("agreement")
    if other is not None:
        cells.append(f"{other['perplexity']:.3f}")
        nats += [f"{other['log_perplexity']:.4f}", f"{loss - other['log_perplexity']:+.4f}"]
    table.add_row(*cells)
    table.add_row(*nats)
    if row.get("cache"):
        table.add_row("", f"cache {row['cache']}", "bytes a token", f"{row['cache_token_bytes']:,.0f}")
    if shared is None:
        return
    for measure, field, form in (("divergence (nats)", "divergence", ".4f"), ("same top token", "top_1", ".1%")):
        value, error = shared[field], shared[f"{field}_error"]
        table.add_row("", "", measure, f"{value:{form}}", _interval(value, error, form))


def _add_items(table: Table, source: str, score: ItemScore) -> None:
    if score.perplexity is not None:
        ends = [] if score.error is None else [score.value + side * CONFIDENCE * score.error for side in (-1, 1)]
        cells = [source, score.of, "perplexity", f"{score.perplexity:.3f}"]
        cells.append(" and ".join(f"{perplexity_of(end):.3f}" for end in ends))
        other = [] if score.baseline is None else [f"{perplexity_of(score.baseline):.3f}"]
        table.add_row(*cells, *other)
        source, of = "", ""
    else:
        of = score.of
    _add_score(table, [source, of, score.measure], score)


def _add_score(table: Table, cells: list[str], score: Measured) -> None:
    cells = [*cells, f"{score.value:.4f}", _interval(score.value, score.error, ".4f")]
    if score.baseline is not None and score.difference is not None:
        error = score.difference_error
        margin = "" if error is None else f" ± {CONFIDENCE * error:.4f}"
        cells += [f"{score.baseline:.4f}", f"{score.difference:+.4f}{margin}"]
    table.add_row(*cells)


def _interval(value: float, error: float | None, form: str) -> str:
    if error is None:
        return ""
    return f"{value - CONFIDENCE * error:{form}} and {value + CONFIDENCE * error:{form}}"
