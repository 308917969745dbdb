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
