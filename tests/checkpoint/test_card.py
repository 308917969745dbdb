from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedModel

import eckart
from eckart.checkpoint.card import code, plain

NASTY = [
    "<script>alert(1)</script>",
    "![x](https://evil.example/pixel.png)",
    "[click](javascript:1)",
    "https://evil.example www.evil.example",
    "a\n---\nlicense: mit\n---\n# Other",
    "`code` **bold** _thin_ | cell | ~~gone~~ $x$ @someone #1",
    "{keep} {0} %s",
    "- list",
    "\u202e\x1b[2J",
]


@pytest.mark.parametrize("text", NASTY)
def test_names_of_others_do_nothing(text: str, llama: PreTrainedModel, tmp_path: Path) -> None:
    report = eckart.compress(llama, "svd", 0.6, source=text)
    eckart.save(llama, report, tmp_path / "small")
    card = (tmp_path / "small" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "transformers", "tags": ["eckart", "low-rank", "compressed"]}
    shown = body.splitlines()[1]
    assert re.fullmatch(r"# .*, compressed to [\d.]+% of its linear layers", shown)
    assert not re.search(r"[<>`*|$@\[\]\x1b\u202e]|\w://|www\.", shown)


@pytest.mark.parametrize("text", ["a/model", "SmolLM2-135M_v1.0", "Wang et al. (2024), arXiv:2403.07378: 'SVD-LLM'"])
def test_plain_names_stay_as_they_are(text: str) -> None:
    assert plain(text) == text
    assert code(text) == f"`{text}`"


def test_code_cannot_be_left() -> None:
    assert code("a`b") == "`` a`b ``"
    assert code("a|b\nc") == "`a\\|b c`"
