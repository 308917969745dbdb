from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

import eckart
from eckart.errors import EckartError
from eckart.run import requirements
from eckart.run.requirements import check_requirements


@pytest.mark.parametrize("found", ["5.19.0", "5.22.9", "4.57.1"])
def test_an_older_release_is_refused(
    found: str, monkeypatch: pytest.MonkeyPatch, llama: PreTrainedModel, tmp_path: Path
) -> None:
    monkeypatch.setattr(requirements, "version", lambda package: found)
    expected = rf"Compressing needs transformers 5\.23 or newer, and found {found}"
    with pytest.raises(EckartError, match=expected):
        eckart.compress(llama, "svd", 0.6)
    with pytest.raises(EckartError, match=expected):
        eckart.compress_checkpoint(tmp_path / "dense", tmp_path / "small", "svd", 0.6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", ["5.23.0", "5.23.0.dev0", "6.0.0"])
def test_a_newer_one_is_not(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "version", lambda package: found)
    check_requirements()
