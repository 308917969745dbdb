"""Puts files of the repository's root into pages, so that what stands there stands nowhere else.

A page says ``<!-- include README.md: pays -->`` for what is between ``<!-- pays -->`` and ``<!-- /pays -->`` there, and
``<!-- include CONTRIBUTING.md -->`` for a whole file. Links are those of the page that they are put into.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INCLUDE = re.compile(r"^<!-- include (?P<file>[\w.]+)(?:: (?P<part>\w+))? -->$", re.MULTILINE)
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Return the page with what it includes; mkdocs calls this."""
    return INCLUDE.sub(lambda found: included(found["file"], found["part"]), markdown)


def included(file: str, part: str | None = None) -> str:
    """Return a file of the root, or a part of it, with links as they are in ``docs``."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if part is not None:
        text = text.split(f"<!-- {part} -->\n", 1)[1].split(f"<!-- /{part} -->", 1)[0].strip()
    for root, page in PAGES.items():
        text = text.replace(f"]({root}", f"]({page}")
    return text.replace("](docs/", "](")
