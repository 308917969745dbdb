"""Writes the table of papers in ``docs/recipes.md`` from the recipes themselves.

    python docs/plugins/paper_table.py

A test says when the page is behind.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

from eckart.methods.recipes.published import RECIPES

PAGE = Path(__file__).parents[1] / "recipes.md"
WIDTH = 100  # of a line
START, END = "<!-- papers -->\n", "<!-- /papers -->"


def table() -> str:
    """Return the table: a line for each recipe that is from a paper, and below it one for each paper."""
    published = [recipe for recipe in RECIPES.values() if recipe.paper]
    papers = {recipe.paper: recipe for recipe in published}
    numbers = {paper: number for number, paper in enumerate(papers, 1)}
    lines = ["| recipe | what it is | paper |", "|---|---|---|"]
    lines += [f"| `{recipe.name}` | {recipe.reference} | {numbers[recipe.paper]} |" for recipe in published]
    lines.append("")
    for paper, recipe in papers.items():
        where = f", [arXiv {recipe.arxiv}](https://arxiv.org/abs/{recipe.arxiv})" if recipe.arxiv else ""
        lines += wrap(f"{numbers[paper]}. {paper}", WIDTH, subsequent_indent="   ")
        lines.append(f"   ({recipe.year}{where})")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table in its place."""
    before, rest = page.split(START, 1)
    return before + START + table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
