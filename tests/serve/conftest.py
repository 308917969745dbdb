"""One process of vLLM for all tests of a file: to start one takes longer than most of what it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.serve.engine import Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="vLLM is not installed: see docs/serving.md")
    found = Engine()
    yield found
    found.close()


@pytest.fixture(scope="module", autouse=True)
def _any_transformers() -> Iterator[None]:
    """Let models be compressed where vLLM is: it wants a transformers older than what compressing is checked with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eckart.run.requirements.TRANSFORMERS", (5, 19))
        yield
