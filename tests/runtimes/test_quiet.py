"""What exporters print is dropped, and nothing else."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from eckart.runtimes.quiet import quiet


def test_what_is_printed_logged_and_warned_of_is_dropped(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with quiet():
        print("step 1 of 3")
        print("note", file=sys.stderr)
        warnings.warn("of a version", stacklevel=1)
        logging.getLogger("torch.onnx").warning("of an operator")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    logging.getLogger("torch.onnx").warning("heard again")
    assert len(caplog.records) == 1


def test_errors_come_out_and_logs_come_back() -> None:
    before = logging.root.manager.disable
    with pytest.raises(RuntimeError, match="of a graph"), quiet():
        raise RuntimeError("of a graph")
    assert logging.root.manager.disable == before
