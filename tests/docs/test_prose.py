"""Lines of Markdown are short, the README is, and every relative link leads to a file and a heading that exist."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
LONGEST = 100
README_LINES = 120
LINK = re.compile(
    r"\]\((?P<inline>[^()\s]+)\)|^\[[^\]]+\]: (?P<below>\S+)$|(?:src|srcset)=\"(?P<html>[^\"]+)\"", re.MULTILINE
)
CODE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK_ONLY = re.compile(r"\s*(?:[-*] )?!?(?:\[[^\]]*\]\([^()\s]+\)|\[[^\]]+\]: \S+|<\S+>)[.,;:]?$")
ELSEWHERE = re.compile(r"[a-z]+:")
SCHEMES = re.compile(r"#only-(?:light|dark)$")  # of a picture, for the theme of the site


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def includes() -> ModuleType:
    """What puts files of the root into the pages of the site."""
    spec = importlib.util.spec_from_file_location("includes", DOCS / "plugins" / "includes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_lines_are_short(page: Path) -> None:
    lines = _prose(page.read_text())
    assert not [number for number, line in lines if len(line) > LONGEST and not LINK_ONLY.match(line)]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Path, includes: ModuleType) -> None:
    for target in _links(includes.on_page_markdown(page.read_text())):
        if ELSEWHERE.match(target):
            continue
        name, _, heading = SCHEMES.sub("", unquote(target)).partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert path.is_relative_to(DOCS if page.is_relative_to(DOCS) else ROOT), target
        if heading:
            assert heading in _headings(includes.on_page_markdown(path.read_text())), target


def test_parts_of_the_readme_have_the_links_of_the_page(includes: ModuleType) -> None:
    text = includes.on_page_markdown("# Start\n\n<!-- include README.md: pays -->\n")
    assert "**Does it pay?**" in text
    assert "](recipes.md)" in text
    assert "](docs/" not in text
    assert "<!--" not in text


def test_what_is_wrong_is_found(includes: ModuleType) -> None:
    text = (
        f"# A `title`: so\n\n{'x' * 101}\n\n```text\n{'y' * 101}\n```\n\n| {'z' * 101} |\n\n[a](b.md#c)\n\n[d]: e.md\n"
    )
    assert [number for number, line in _prose(text) if len(line) > LONGEST] == [3]
    assert list(_links(text)) == ["b.md#c", "e.md"]
    assert _headings(text) == {"a-title-so"}


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines outside of blocks of code and of tables, with their numbers from 1."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith(("|", "<div")):
            yield number, line


def _links(text: str) -> Iterator[str]:
    for found in LINK.finditer(CODE.sub("", text)):
        yield next(target for target in found.groups() if target)


def _headings(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the site and GitHub make them."""
    return {
        slugify(re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#")).strip(), "-")
        for _, line in _prose(text)
        if re.match(r"#+ ", line)
    }
