"""``eckart bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.helpers import run, words


def test_bench_compares_with_the_first(compressed: Path, model_folder: Path) -> None:
    options = ["--prompt", 8, "--generate", 3, "--repeats", 2, "--batch", "1,2"]
    shown = run("bench", model_folder, compressed, *options)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(" ms ") == 4
    assert shown.output.count("x1.00") >= 2
    assert "GB/s" in shown.output
    facts = json.loads(run("bench", model_folder, compressed, *options, "--json").stdout)
    assert [speed["batch"] for speed in facts["speeds"]] == [1, 1, 2, 2]
    assert facts["speeds"][1]["weight_bytes"] < facts["speeds"][0]["weight_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "1,zero"], "--batch takes whole numbers above 0 with commas between them, such as 1,8"),
        (["--batch", "0"], "--batch takes whole numbers above 0"),
        (["--dtype", "int3"], "No dtype is called 'int3'. Use auto, float32, bfloat16, float16."),
        (["--generate", "500"], "has room for 128 tokens; found 128 of the prompt and 500 generated"),
    ],
)
def test_bench_refuses_what_cannot_be(model_folder: Path, options: list[str], message: str) -> None:
    result = run("bench", model_folder, *options)
    assert result.exit_code == 2
    assert message in words(result.stderr)
