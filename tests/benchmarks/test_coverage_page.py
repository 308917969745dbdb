from __future__ import annotations

from coverage_page import latest_of, page_of, worst

ABOUT = {"kind": "causal", "model_class": "AForCausalLM", "transformers": "5.0", "eckart": "1.0"}


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


def test_the_page_names_each_class_and_counts_them():
    page = page_of(
        [
            row("a", "svd-llm", "pass", 1.0),
            row("a", "zs-svd", "refused", detail="Says | what `is` missing."),
            row("b", "svd-llm", "pass", 1.0),
            row("e", "svd-llm", "pass", 1.0),
            row("c", "", "not built", detail="needs timm"),
            row("d", "svd-llm", "pass", 1.0, kind="image", model_class="DModel"),
        ]
    )
    lines = page.splitlines()
    assert "2 pass: `b`, `e`." in lines
    assert "1 pass: `d`." in lines
    refused = lines.index("| `a` | `AForCausalLM` | refused (zs-svd) |  | `Says / what 'is' missing.` |")
    assert lines[refused + 1] == "| `c` | `AForCausalLM` | not built |  | `needs timm` |"
    assert "| Causal language models | 4 | 3 | 2 | 0 | 1 | 0 | 0 | 66.7% |" in lines
    assert "| all | 5 | 4 | 3 | 0 | 1 | 0 | 0 | 75.0% |" in lines
    assert "| `svd-llm` | 4 | 100.0% |" in lines
    assert "| `zs-svd` | 1 | 0.0% |" in lines
    assert "## Encoders of images" in lines
    assert "## Encoders of sounds" not in lines
    assert "transformers 5.0" in page
    assert "Eckart 1.0" in page


def test_a_row_of_later_counts_and_long_messages_are_cut():
    page = page_of([row("a", "x", "crashed", detail="word " * 100), row("a", "x", "partial", 0.5, "long " * 100)])
    [line] = [line for line in page.splitlines() if line.startswith("| `a`")]
    assert "| partial | 50% |" in line
    assert "crashed" not in line
    assert len(line) < 260
    assert line.endswith("…` |")


def test_a_class_that_is_not_built_has_one_row():
    built, failed = [row("a", "x", "pass"), row("a", "y", "pass")], row("a", "", "not built")
    assert latest_of([*built, failed]) == [failed]
    assert latest_of([failed, *built]) == built


def test_lines_outside_of_tables_are_short():
    page = page_of([row(f"name-of-{number}", "svd-llm", "pass", 1.0) for number in range(50)])
    assert [line for line in page.splitlines() if not line.startswith("|") and len(line) > 100] == []
