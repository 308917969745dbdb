"""The documentation site is built without a warning, and is read without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?P<address>(?:https?:)?//[^\"'> ]+)"
)
SHIPPED = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / (place.parent if place.name == "index" else place) / "index.html").is_file(), place
    assert "SmolLM2-135M-Instruct" in (site / "results" / "index.html").read_text()
    assert (site / "figures" / "sensitivity.png").is_file()
    assert not (site / "plugins").exists()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert pages
    for page in pages:
        loaded = [found["address"] for found in LOADED.finditer(page.read_text()) if "canonical" not in found[0]]
        assert not loaded, (page, loaded)
    for style in site.rglob("*.css"):
        assert not SHIPPED.search(style.read_text()), style


def test_docstrings_have_links_and_no_markup_of_another_kind(site: Path) -> None:
    text = "".join(page.read_text() for page in (site / "reference").rglob("*.html"))
    assert not re.search(r":(?:func|class|meth|data|attr|mod):", text)
    assert (
        'href="../recipes/#eckart.methods.recipe.Recipe"' in text
        or 'href="recipes/#eckart.methods.recipe.Recipe"' in text
    )
