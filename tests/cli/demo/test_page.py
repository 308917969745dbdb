"""The page of a demo: the models that were made, and what was measured of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eckart.cli.demo.page import TITLE, write_page
from eckart.cli.demo.run import PROMPT, run_demo
from eckart.cli.demo.steps import Step
from eckart.compression.callback import Callback


@contextmanager
def quiet(step: Step) -> Iterator[Callback]:
    yield Callback()


def test_each_model_is_on_the_page_with_its_perplexity(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "out"
    rows = list(run_demo(source, out, [Step("int8", 0.6), Step("svd", 0.8)], shown=quiet))
    write_page(out / "report.html", out, rows)
    page = (out / "report.html").read_text()
    assert TITLE in page
    assert PROMPT in page
    for row in rows:
        assert row.name in page
        # In the data of the table, and grouped or not where people read it.
        assert f"{row.perplexity.perplexity:.6g}"[:5] in page
