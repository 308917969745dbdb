from __future__ import annotations

from tests.cli.demo.helpers import row

from eckart.cli.demo.summary import summary

DENSE = row(None, 1.0, 10.0)


def test_what_is_ahead_is_said() -> None:
    rows = [DENSE, row("few", 0.3, 10.8), row("eight", 0.5, 10.0), row("ours", 0.8, 15.0), row("theirs", 0.8, 30.0)]
    assert summary(rows) == [
        "The smallest within 10% of the dense model's perplexity is few-0.3: 30% of the linear layers' bytes, "
        "+8.0% perplexity.",
        "Of those at 80% of the bytes, ours-0.8 is the nearest to the dense model (+50% perplexity), ahead of "
        "theirs-0.8 (+200%).",
        "eight-0.5 is both smaller and better than ours-0.8 and theirs-0.8.",
    ]


def test_other_numbers_say_something_else() -> None:
    rows = [DENSE, row("few", 0.3, 40.0), row("eight", 0.5, 20.0), row("ours", 0.8, 15.0), row("theirs", 0.8, 12.0)]
    assert summary(rows) == [
        "None is within 10% of the dense model's perplexity; the nearest is theirs-0.8: 80% of the linear layers' "
        "bytes, +20.0% perplexity.",
        "Of those at 80% of the bytes, theirs-0.8 is the nearest to the dense model (+20% perplexity), ahead of "
        "ours-0.8 (+50%).",
    ]


def test_of_three_that_lose_all_are_named() -> None:
    told = " ".join(summary([DENSE, row("few", 0.3, 11.0), *(row(name, 0.8, 12.0) for name in "abc")]))
    assert "few-0.3 is both smaller and better than a-0.8, b-0.8 and c-0.8." in told


def test_one_model_alone() -> None:
    assert len(summary([DENSE, row("few", 0.3, 11.0)])) == 1
