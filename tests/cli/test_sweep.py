from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.helpers import run, words

from eckart.sweep import read_failures, read_rows


@pytest.fixture
def command(model_folder: Path, text_file: Path, tmp_path: Path) -> list[object]:
    options = ["sweep", model_folder, "-o", tmp_path / "sweep.sqlite", "--calibration", text_file, "--text", text_file]
    return [*options, "--samples", "4", "--length", 24, "--windows", 3, "--window-length", 32]


def test_a_sweep_and_the_model_that_it_picks(command, model_folder, text_file, tmp_path):
    asked = [*command, "--recipes", "svd,zs-svd+allocation.multiple=4", "--keep", "0.8,0.6"]
    shown = run(*asked, "--text", f"{text_file}:raw")
    assert shown.exit_code == 0, shown.output
    assert "5 rows are in" in words(shown.output)
    rows = read_rows(tmp_path / "sweep.sqlite")
    assert [list(row.texts) for row in rows] == [["text.txt", "text.txt:raw"]] * 5
    assert rows[0].model == model_folder.name
    refused = run(*asked)
    assert refused.exit_code == 2
    assert "is of another sweep: evaluation.texts.text.txt:raw was" in words(refused.stderr)

    measured = [row for row in rows if row.label != "dense"]
    largest = max(row.texts["text.txt"].perplexity for row in measured)
    more = [*asked, "--text", f"{text_file}:raw", "--json"]
    best = json.loads(run(*more, "--target-ppl", largest).stdout)["best"]
    assert best["row"]["bytes"] == min(row.bytes for row in measured)
    limit = f"{rows[0].bytes / 1e3}KB"
    facts = json.loads(run(*more, "--target-bytes", limit).stdout)
    assert [row["label"] for row in facts["rows"]] == [row.label for row in rows]
    best = facts["best"]
    assert best["row"]["label"].startswith("zs-svd") or best["row"]["label"] == "svd"
    made = tmp_path / "made"
    words_of_it = [str(made) if word == "OUTPUT" else word for word in best["command"].split()[1:]]
    assert run(*words_of_it).exit_code == 0
    options = ["--text", text_file, "--length", 32, "--windows", 3, "--json"]
    found = json.loads(run("eval", made, *options).stdout)["texts"][0]
    assert found["log_perplexity"] == pytest.approx(best["row"]["texts"]["text.txt"]["log_perplexity"], abs=1e-4)
    none = run(*[*asked, "--text", f"{text_file}:raw"], "--target-ppl", 1)
    assert none.exit_code == 1
    assert "No compressed model of this sweep has a perplexity of at most 1 on text.txt" in words(none.stdout)


def test_a_failure_is_told_and_the_sweep_goes_on(command, tmp_path):
    result = run(*command, "--recipes", "eora,svd", "--keep", "0.2", "--samples", "4,6", "--speed")
    assert result.exit_code == 1
    text = words(result.output)
    assert "Failed: eora at 0.2: keep 0.2 allows" in text
    assert "decode" in text
    assert "Traceback" not in text
    assert [row.label for row in read_rows(tmp_path / "sweep.sqlite")] == ["dense", "svd"]
    assert [failure.samples for failure in read_failures(tmp_path / "sweep.sqlite")] == [4, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipes", "svdllm"], "did you mean 'svd-llm'"),
        (["--recipes", "svd,svd"], "The recipe svd is asked for twice"),
        (["--recipes", "svd", "--keep", "0.5,half"], "--keep takes numbers with commas between them, found '0.5,half'"),
        (["--recipes", "svd", "--keep", "0.5,1.2"], "above 0 and at most 1; found 1.2"),
        (["--recipes", "svd", "--keep", "nan"], "above 0 and at most 1; found nan"),
        (["--recipes", "svd", "--samples", "4,"], "--samples takes numbers"),
        (["--recipes", "svd", "--window-length", "4096"], "do not fit into the model's context of 128"),
        (["--recipes", "svd", "--windows", "1", "--text", "nowhere.txt"], "No text is called 'nowhere.txt'"),
        (["--recipes", "svd", "--target-bytes", "small"], "--target-bytes takes a size such as 8GB or 500MB"),
        (["--recipes", "svd", "--target-bytes", "8MB", "--target-ppl", "3"], "Use one of them"),
        (["--recipes", "svd-llm", "--length", "4096"], "context of 128"),
        (["--recipes", "asvd+allocation.shares=[0.4,2]x"], "The value of 'allocation.shares' cannot be read as YAML"),
        (["--recipes", "asvd+allocation.shares=[0.4,0.6],asvdd"], "No recipe is called 'asvdd'"),
    ],
)
def test_mistakes(command, options, message):
    result = run(*command, *options)
    assert result.exit_code == 2, result.output
    assert message in words(result.stderr)
    assert "Traceback" not in result.output


def test_a_file_that_is_no_sweep_is_refused(command, tmp_path):
    (tmp_path / "sweep.sqlite").write_text("rows\n" * 200)
    result = run(*command, "--recipes", "svd")
    assert result.exit_code == 2
    assert "is no file of a sweep" in words(result.stderr)
    assert (tmp_path / "sweep.sqlite").read_text() == "rows\n" * 200
