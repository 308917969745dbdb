from __future__ import annotations

import shlex

from tests.sweep.helpers import case_of, row_of

from eckart.data.calibration import CalibrationRecord
from eckart.sweep import best_within, command_for, smallest_within

ROWS = [
    row_of(case_of("dense", 1.0), perplexity=5, size=40),
    row_of(case_of("svd", 0.9), perplexity=30, size=90),
    row_of(case_of("svd-llm", 0.8), perplexity=20, size=80),
    row_of(case_of("zs-svd", 0.8), perplexity=15, size=80),
    row_of(case_of("zs-svd", 0.5), perplexity=50, size=50),
]


def test_the_smallest_that_is_good_enough():
    assert smallest_within(ROWS, "t", 20) is ROWS[3]
    assert smallest_within(ROWS, "t", 50) is ROWS[4]
    assert smallest_within(ROWS, "t", 14.9) is None


def test_the_best_that_is_small_enough():
    assert best_within(ROWS, "t", 90) is ROWS[3]
    assert best_within(ROWS, "t", 79) is ROWS[4]
    assert best_within(ROWS, "t", 49) is None


def test_the_command_names_all_that_matters():
    record = CalibrationRecord(source="my text.txt:lines", samples=16, length=64, tokens=1024, seed=3, sha256="")
    row = row_of(case_of("zs-svd+structure=pivoted+allocation.multiple=8", 0.85, 16), calibration=record)
    assert shlex.split(command_for(row, "some model", "a way/my text.txt:lines"))[2:] == [
        *("some model", "-o", "OUTPUT", "--recipe", "zs-svd", "--keep", "0.85"),
        *("--set", "structure=pivoted", "--set", "allocation.multiple=8"),
        *("--calibration", "a way/my text.txt:lines", "--samples", "16", "--length", "64", "--seed", "3"),
    ]
    assert "--calibration" not in command_for(ROWS[1], "model", "text")
