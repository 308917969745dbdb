"""``eckart recipes``."""

from __future__ import annotations

from tests.cli.helpers import run, words


def test_recipes_show_their_choices() -> None:
    listed = words(run("recipes").output)
    assert "aa-svd-anchored anchored uniform two-factor 16-bit block anchored objective" in listed
    assert "arXiv 2604.02119" in listed
    assert "learning_rate: 0.0001" in run("recipes", "aa-svd").output


def test_recipes_are_shown_for_a_size() -> None:
    assert "eckart-fast input-aware curvature" in words(run("recipes").output)
    assert "eckart-fast blended curvature" in words(run("recipes", "--keep", "0.3").output)
    assert "name: blended" in run("recipes", "eckart-fast", "--keep", "0.3").output
