"""The sizes that a folder serves, as the command lists them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.cli.helpers import rows_of, run, words
from tests.conftest import make_model

import eckart
from eckart.checkpoint.records import write_records
from eckart.cli.sizes import sizes_of, table_of
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError


@pytest.fixture(params=["svd", "io-svd"])
def report(request: pytest.FixtureRequest, tokens: torch.Tensor) -> CompressionResult:
    overrides = ["allocation.floor=0.3"] if request.param == "io-svd" else []
    return eckart.compress(make_model("llama"), request.param, 0.6, tokens, overrides=overrides, nested=True)


def test_sizes(report: CompressionResult) -> None:
    order = report.nested
    assert order is not None
    found = sizes_of(report, order)
    assert found[0]["linear_bytes"] == sum(layer.bytes for layer in report.layers)
    assert found[0]["whole_bytes"] == report.whole_bytes_after
    assert found[-1]["kept"] == pytest.approx(order.least)
    assert [row["kept"] for row in found] == sorted((row["kept"] for row in found), reverse=True)
    for row in found:
        ranks = order.ranks_within(row["keep"])  # what is shown can be asked for
        assert ranks is not None
        assert row["kept"] == order.keep_of(ranks) <= row["keep"]
        assert (row["lowest_rank"], row["highest_rank"]) == (min(ranks.values()), max(ranks.values()))
        assert row["loss"] is None or row["loss"] == pytest.approx(order.loss_of(ranks))
    known = [row["loss"] for row in found if row["loss"] is not None]
    assert len(known) == (len(found) if order.unit == "nats" else 0)
    assert known == sorted(known)
    cells = rows_of(table_of(found))
    assert len(cells) == len(found)
    assert cells[0][-1].endswith("nats a token" if known else "-")


def test_an_order_of_other_ranks(report: CompressionResult) -> None:
    assert report.nested is not None
    cut = report.nested.cut(dict.fromkeys(report.ranks, 1))
    with pytest.raises(CheckpointError, match="other layers or ranks than the report"):
        sizes_of(report, cut)


def test_the_command_reads_no_weights(report: CompressionResult, tmp_path: Path) -> None:
    write_records(tmp_path, report)
    done = run("inspect", tmp_path, "--sizes")
    assert done.exit_code == 0, done.output
    assert "Load one by load_model(folder, keep=...)" in words(done.stdout)
    assert run("inspect", tmp_path, "--sizes", "--map").exit_code == 2
    write_records(tmp_path / "eckart", report.model_copy(update={"nested": None}))
    assert "does not say in which order" in words(run("inspect", tmp_path / "eckart", "--sizes").output)
