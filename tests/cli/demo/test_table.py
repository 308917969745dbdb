from __future__ import annotations

from tests.cli.demo.helpers import row

from eckart.cli.demo.table import RowTable


def test_lines_are_aligned() -> None:
    rows = [row(None, 1.0, 13.5), row("eckart-fast", 0.8, 123456.789)]
    table = RowTable([each.name for each in rows])
    head, rule = table.head.splitlines()
    lines = [table.line(each) for each in rows]
    assert {len(line) for line in lines} == {len(head), len(rule)}
    assert len(head) <= 80  # a terminal
    assert lines[1].split() == ["eckart-fast-0.8", "79.9%", "123456.79", "160.0", "MB", "1", "min", "1", "s"]
