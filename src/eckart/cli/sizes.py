"""The sizes that a folder with nested ranks serves, for ``eckart inspect --sizes``."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.table import Table

from eckart.cli.console import megabytes
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError
from eckart.maths.nested import NATS, NestedOrder

STEP = 0.05  # between the shares of bytes that are listed


def sizes_of(report: CompressionResult, order: NestedOrder) -> list[dict[str, Any]]:
    """Return sizes from the largest to the smallest, as plain data.

    Each has the share to ask for and the one that is kept, the bytes of the linear layers and of the whole model in
    16-bit numbers, the lowest and the highest rank, and the predicted loss in nats a token, None where there is none.

    Args:
        report: of the model.
        order: of its components.

    Raises:
        CheckpointError: the order is of other layers or ranks than the report.
    """
    if order.ranks != report.ranks:
        raise CheckpointError(
            "The order of the components is of other layers or ranks than the report of the folder. Copy or download "
            "it again."
        )
    shares = [order.keep, *(n * STEP for n in range(math.ceil(order.keep / STEP) - 1, 0, -1) if n * STEP > order.least)]
    shares += [order.least] if order.least < order.keep else []
    found: list[dict[str, Any]] = []
    for share in shares:
        ranks = order.ranks_within(share)
        assert ranks is not None
        size = order.bytes_of(ranks)
        row = {
            "keep": math.ceil(1e4 * share - 1e-6) / 1e4,
            "kept": order.keep_of(ranks),
            "linear_bytes": size,
            "whole_bytes": report.whole_bytes_after - order.bytes_of(order.ranks) + size,
            "lowest_rank": min(ranks.values()),
            "highest_rank": max(ranks.values()),
            "loss": order.loss_of(ranks) if order.unit == NATS else None,
        }
        found.append(row)
    return found


def table_of(sizes: list[dict[str, Any]]) -> Table:
    """Return one row a size."""
    table = Table("keep", "kept", "linear layers", "whole model", "ranks", "predicted loss", box=box.SIMPLE)
    for row in sizes:
        table.add_row(
            f"{row['keep']:g}",
            f"{row['kept']:.2%}",
            megabytes(row["linear_bytes"]),
            megabytes(row["whole_bytes"]),
            f"{row['lowest_rank']} to {row['highest_rank']}",
            "-" if row["loss"] is None else f"{row['loss']:.3g} nats a token",
        )
    return table
