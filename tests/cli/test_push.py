"""``eckart push`` against a hub that only notes what it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import RepoUrl
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from tests.cli.helpers import run, words

from eckart.cli import push as module


class Hub:
    """Stands for the client of the hub."""

    calls: list[tuple[str, dict[str, Any]]]

    def create_repo(self, repo: str, **options: Any) -> RepoUrl:
        self.calls.append(("create", {"repo": repo, **options}))
        return RepoUrl(f"https://hub.example/{repo}", endpoint="https://hub.example")

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    monkeypatch.setattr("eckart.cli.push.HfApi", Hub)
    return Hub.calls


def test_what_is_sent(compressed: Path, calls: list[tuple[str, dict[str, Any]]]) -> None:
    (compressed / "notes-of-mine.txt").write_text("not for others")
    (compressed / "README.md").write_text("a card that was changed by hand")
    result = run("push", compressed, "me/small", "--private")
    assert result.exit_code == 0, result.output
    assert "to https://hub.example/me/small." in words(result.output)
    (_, created), (_, uploaded) = calls
    assert created == {"repo": "me/small", "private": True, "exist_ok": True}
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("me/small", compressed)
    names = set(uploaded["allow_patterns"])
    assert {"config.json", "README.md", "eckart/report.json", "eckart.safetensors.index.json"} < names
    assert all((compressed / name).is_file() for name in names)
    assert "notes-of-mine.txt" not in names


def test_nothing_is_sent_in_a_dry_run(compressed: Path, calls: list[tuple[str, dict[str, Any]]]) -> None:
    result = run("push", compressed, "me/small", "--dry-run")
    assert result.exit_code == 0, result.output
    assert calls == []
    assert "eckart/report.json" in result.output
    assert "would go to me/small. Nothing was uploaded." in words(result.output)


def test_what_is_refused(
    compressed: Path, model_folder: Path, tmp_path: Path, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    def message(*arguments: object) -> str:
        result = run("push", *arguments)
        assert result.exit_code == 2
        return words(result.output)

    assert "There is no folder" in message(tmp_path / "gone", "me/small")
    assert "was not written by Eckart" in message(model_folder, "me/small")
    assert "cannot be a repository's name" in message(compressed, "me/small/more")
    (compressed / "config.json").write_text("{}")
    assert "config.json is gone, or was changed since" in message(compressed, "me/small")
    assert calls == []


def test_a_hub_that_fails(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(Hub):
        def create_repo(self, repo: str, **options: Any) -> RepoUrl:
            raise OSError("no route to host")

    monkeypatch.setattr(module, "HfApi", Closed)
    result = run("push", compressed, "me/small")
    assert result.exit_code == 2
    assert "could not be uploaded to me/small: no route to host" in words(result.output)
    assert issubclass(RepositoryNotFoundError, HfHubHTTPError)
