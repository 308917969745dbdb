"""``eckart bench``."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from tests.cli.helpers import run, words
from transformers import PreTrainedModel

from eckart.evaluate.speed.passes import Forward, compiled_forward


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


def test_decoding_is_compiled_where_that_is_asked_for(
    compressed: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a backend that needs no compiler of C++."""
    made: list[object] = []

    def compiled(model: PreTrainedModel) -> Forward:
        made.append(model)
        return compiled_forward(model, "aot_eager")

    # The package has a function of the module's name.
    monkeypatch.setattr(import_module("eckart.evaluate.speed.compare"), "compiled_forward", compiled)
    options = ["--prompt", 8, "--generate", 3, "--repeats", 1, "--compile"]
    shown = run("bench", model_folder, compressed, *options)
    assert shown.exit_code == 0, shown.output
    assert "compiled on a cache of fixed size" in words(shown.output)
    assert len(made) == 2


def test_first_factors_are_joined_where_that_is_asked_for(compressed: Path, model_folder: Path) -> None:
    shown = run("bench", model_folder, compressed, "--prompt", 8, "--generate", 3, "--repeats", 1, "--join")
    assert shown.exit_code == 0, shown.output
    assert "first factors joined" in words(shown.output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--join", "--compile"], "--join is for plain calls: products in a compiled graph stay apart."),
        (["--join", "--engine", "vllm"], "--compile and --join are for transformers: vLLM does both by itself."),
        (["--cache", "latent", "--compile"], "--compile decodes on a cache of fixed size."),
        (["--cache", "latent", "--engine", "vllm"], "--cache is for transformers: vLLM has a cache of its own."),
        (["--cache", "static"], "No cache is called 'static'. Use dense, latent, latent:BITS"),
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


def test_a_row_for_each_cache(factored: Path) -> None:
    options = ["--prompt", 8, "--generate", 3, "--repeats", 1, "--cache", "dense", "--cache", "latent", "--json"]
    speeds = json.loads(run("bench", factored, *options).stdout)["speeds"]
    assert [speed["model"] for speed in speeds] == [f"{factored} (dense)", f"{factored} (latent:16)"]
    dense, latent = (speed["cache_bytes_per_token"] for speed in speeds)
    assert latent < 0.6 * dense
