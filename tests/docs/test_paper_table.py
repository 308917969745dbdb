"""The table of papers is that of the recipes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from eckart.methods.recipes.published import RECIPES

SCRIPT = Path(__file__).parents[2] / "docs" / "plugins" / "paper_table.py"


def test_the_page_has_the_table_of_the_recipes() -> None:
    spec = importlib.util.spec_from_file_location("paper_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.with_table(page) == page, f"Run {SCRIPT.name}: a recipe has changed."


def test_every_published_recipe_names_its_paper() -> None:
    own = {"auto", "auto-speed", "auto-trained", "eckart", "eckart-fast", "eckart-q"}
    baselines = {"int8", "int4", "hybrid-anchored", "fewer-units"}
    for name, recipe in RECIPES.items():
        assert bool(recipe.paper) == (name not in own | baselines), name
        assert bool(recipe.paper) == (recipe.year is not None), name
        assert recipe.arxiv or recipe.year in (None, 1936), name
        if recipe.arxiv:
            # The number starts with the year and the month in which the paper appeared.
            assert recipe.year == 2000 + int(recipe.arxiv[:2]), name
            assert recipe.citation == f"{recipe.paper} (arXiv {recipe.arxiv}, {recipe.year})"
