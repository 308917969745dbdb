from __future__ import annotations

from coverage_page import page_of, worst

ABOUT = {"kind": "causal", "model_class": "AForCausalLM", "transformers": "5.0"}


def row(model_type: str, recipe: str, outcome: str, reached: float | None = None, detail: str = "", **changed: str):
    return {
        **ABOUT,
        "model_type": model_type,
        "recipe": recipe,
        "outcome": outcome,
        "reached": reached,
        "detail": detail,
        **changed,
    }


def test_the_worst_outcome_counts_and_of_such_the_one_that_reaches_least():
    rows = [row("a", "x", "partial", 0.5), row("a", "y", "partial", 0.25), row("a", "z", "pass", 1.0)]
    assert worst(rows)["recipe"] == "y"
    assert worst([*rows, row("a", "w", "crashed")])["recipe"] == "w"


def test_the_page_has_a_line_for_each_class_and_the_counts():
    page = page_of(
        [
            row("a", "svd-llm", "pass", 1.0),
            row("a", "zs-svd", "refused", detail="Says | what `is` missing."),
            row("b", "svd-llm", "pass", 1.0),
            row("c", "", "not built", detail="needs timm"),
            row("d", "svd-llm", "pass", 1.0, kind="image", model_class="DModel"),
        ]
    )
    lines = page.splitlines()
    assert "| `AForCausalLM` | `a` | refused (zs-svd) |  | `Says / what 'is' missing.` |" in lines
    assert "| `AForCausalLM` | `b` | pass | 100% |  |" in lines
    assert "| Causal language models | 1 | 0 | 1 | 0 | 0 | 1 | 3 | 50% |" in lines
    assert "| all | 2 | 0 | 1 | 0 | 0 | 1 | 4 | 67% |" in lines
    assert "## Encoders of images" in lines
    assert "## Encoders of sounds" not in lines
    assert "transformers 5.0" in page


def test_a_row_of_later_counts_and_long_messages_are_cut():
    page = page_of([row("a", "x", "crashed", detail="word " * 100), row("a", "x", "partial", 0.5, "long " * 100)])
    [line] = [line for line in page.splitlines() if line.startswith("| `AForCausalLM`")]
    assert "| partial | 50% |" in line
    assert "crashed" not in line
    assert len(line) < 260
    assert line.endswith("…` |")


def test_lines_outside_of_tables_are_short():
    page = page_of([row("a", "svd-llm", "pass", 1.0)])
    assert [line for line in page.splitlines() if not line.startswith("|") and len(line) > 100] == []
