"""The command, as a user types it: in a process of its own where signals and exit codes matter, else in this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.cli.helpers import run, words
from tests.conftest import contents
from transformers import AutoModelForCausalLM

import eckart


def test_eval_with_a_baseline_on_two_texts(compressed: Path, model_folder: Path, text_file: Path) -> None:
    texts = ["--text", text_file, "--text", f"{text_file}:raw"]
    options = [*texts, "--length", 32, "--windows", 3, "--baseline", model_folder]
    shown = run("eval", compressed, *options)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("3 x 32") == 2
    facts = json.loads(run("eval", compressed, *options, "--json").stdout)
    assert [row["text"] for row in facts["texts"]] == [str(text_file), f"{text_file}:raw"]
    assert facts["texts"][0]["agreement"]["divergence"] > 0
    itself = json.loads(run("eval", model_folder, *options, "--json").stdout)["texts"][0]
    assert itself["agreement"]["divergence"] == pytest.approx(0, abs=1e-6)
    assert itself["agreement"]["top_1"] == 1
    assert itself["baseline"]["perplexity"] == itself["perplexity"]


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


def test_compress_eval_inspect_merge(compressed: Path, model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    shown = run("inspect", compressed)
    assert shown.exit_code == 0
    assert "model.layers.2.mlp.down_proj" in shown.output
    details = json.loads(run("inspect", compressed, "--json").output)
    assert details["keep"] <= 0.6
    assert details["bytes_on_disk"] == sum(path.stat().st_size for path in compressed.glob("*.safetensors"))
    assert len(details["layers"]) == 21

    def measure(folder: Path) -> float:
        result = run("eval", folder, "--text", text_file, "--length", 64, "--windows", 4, "--json")
        assert result.exit_code == 0, result.output
        return float(json.loads(result.stdout)["texts"][0]["perplexity"])

    merged = run("merge", compressed, "-o", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert measure(tmp_path / "merged") == pytest.approx(measure(compressed), rel=1e-3)
    assert measure(compressed) != pytest.approx(measure(model_folder), rel=1e-3)
    tensors = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert tensors.keys() == AutoModelForCausalLM.from_pretrained(model_folder).state_dict().keys()


def test_compress_tells_sizes_and_writes_the_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    result = run("compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd", "--keep", 0.5)
    assert result.exit_code == 0, result.output
    text = words(result.output)
    assert "of the bytes of the linear layers" in text
    assert "of those of the whole model" in text
    assert "Expected:" in text
    assert "peak memory" in text
    assert "model.layers.*.self_attn.q_proj" in text
    assert eckart.load_tokenizer(tmp_path / "out") is not None


def test_quiet_prints_nothing(model_folder: Path, tmp_path: Path) -> None:
    result = run("compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_set_and_a_yaml_recipe(model_folder: Path, tmp_path: Path) -> None:
    shown = run("recipes", "saes-svd")
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    common = ("--keep", 0.6, "--calibration", "self", "--samples", 4, "--length", 32, "--seed", 3)
    one = run("compress", model_folder, "-o", tmp_path / "one", "--recipe", tmp_path / "mine.yaml", *common)
    changed = ("--recipe", "dobi-shift", "--set", "objective=blended")
    two = run("compress", model_folder, "-o", tmp_path / "two", *changed, *common)
    assert one.exit_code == two.exit_code == 0, one.output + two.output
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_overwrite(compressed: Path, model_folder: Path) -> None:
    before = (compressed / "config.json").read_text()
    refused = run("compress", model_folder, "-o", compressed, "--recipe", "svd")
    assert refused.exit_code == 2
    assert "exists" in refused.output
    assert (compressed / "config.json").read_text() == before
    assert run("compress", model_folder, "-o", compressed, "--recipe", "svd", "--overwrite").exit_code == 0
    assert (compressed / "config.json").read_text() != before


def test_fewer_tokens_than_features_warn_and_work(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = ("--calibration", text_file, "--samples", 1, "--length", 16)
    result = run("compress", model_folder, "-o", out, "--recipe", "saes-svd", *few, "--quiet")
    assert result.exit_code == 0
    assert "Warning: 16 calibration tokens are fewer" in words(result.stderr)
    assert "Warning: 16 calibration tokens" in words(run("inspect", out).output)


@pytest.mark.parametrize(
    ("held_out", "shown"),
    [
        (0.125, ("held-out loss before", "at most 10 optimiser steps")),
        (0, ("training loss, first epoch", "at most 12 optimiser steps")),  # as published
    ],
)
def test_a_refined_run_is_shown_and_can_be_resumed(
    held_out: float, shown: tuple[str, str], model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["compress", model_folder, "-o", out, "--recipe", "aa-svd", "--calibration", text_file, "--keep", 0.6]
    arguments += ["--samples", 6, "--length", 32, "--set", "refinement.epochs=2", "--set", "refinement.batch=1"]
    arguments += ["--set", f"refinement.held_out={held_out:g}"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    text = words(result.output)
    for part in (*shown, "refinement", "a block", "(expected"):
        assert part in text, text
    assert shown[0] in words(run("inspect", out).output)
    before = contents(out)
    again = run(*arguments, "--resume")
    assert (again.exit_code, words(again.stdout)) == (0, f"{out} is finished already.")
    assert contents(out) == before
    other = run(*arguments, "--resume", "--seed", 1)
    assert other.exit_code == 2
    assert "calibration.seed was 0 and is 1" in words(other.stderr)


def test_recipes_show_their_choices() -> None:
    listed = words(run("recipes").output)
    assert "aa-svd-anchored anchored uniform two-factor 16-bit block AA-SVD" in listed
    assert "learning_rate: 0.0001" in run("recipes", "aa-svd").output


def test_recipes_are_shown_for_a_size() -> None:
    assert "eckart-fast input-aware curvature" in words(run("recipes").output)
    assert "eckart-fast blended curvature" in words(run("recipes", "--keep", "0.3").output)
    assert "name: blended" in run("recipes", "eckart-fast", "--keep", "0.3").output


MISTAKES = [
    (["compress", "nowhere/such-model", "-o", "{out}"], "no hub model"),
    (["compress", "{tmp}", "-o", "{out}"], "no config.json"),
    (["compress", "{tmp}/x.gguf", "-o", "{out}"], "There is no file"),
    (["compress", "{model}", "-o", "{out}", "--keep", "0"], "above 0 and at most 1; found 0"),
    (["compress", "{model}", "-o", "{out}", "--keep", "1.5"], "above 0 and at most 1; found 1.5"),
    (["compress", "{model}", "-o", "{out}", "--keep", "half"], "number"),
    (["compress", "{model}", "-o", "{out}", "--recipe", "svdllm"], "did you mean 'svd-llm'"),
    (["compress", "{model}", "-o", "{out}", "--set", "objectiv=anchored"], "did you mean 'objective'"),
    (["compress", "{model}", "-o", "{out}", "--device", "gpu"], "No device is called 'gpu'"),
    (["compress", "{model}", "-o", "{out}", "--calibration", "nowhere.txt"], "No text is called"),
    (["compress", "{model}", "-o", "{out}", "--calibration", "{tmp}/empty.txt"], "is empty"),
    (["compress", "{model}", "-o", "{out}", "--calibration", "{tmp}/short.txt", "--length", "64"], "too short"),
    (["compress", "{model}", "-o", "{out}", "--length", "1024"], "context of 128"),
    (["compress", "{model}", "-o", "{model}"], "which is read"),
    (["compress", "{model}", "-o", "{model}/small", "--overwrite"], "lies in"),
    (["compress", "{model}", "-o", "{tmp}/short.txt"], "exists"),
    (["compress", "{model}", "-o", "{out}", "--memory", "much"], "takes a size such as 8GB or 500MB, found 'much'"),
    (["compress", "{model}", "-o", "{out}", "--set", "refinement=blok"], "did you mean 'block'"),
    (
        ["compress", "{model}", "-o", "{out}", "--recipe", "saes-svd", "--set", "refinement.epochs=0"],
        "This recipe has no field 'refinement.epochs'",
    ),
    (["compress", "{model}", "-o", "{out}", "--recipe", "aa-svd", "--set", "refinement.epochs=0"], "greater than"),
    (["eval", "{model}", "--text", "nowhere.txt"], "No text is called"),
    (["eval", "{model}", "--text", "{tmp}/short.txt", "--length", "64"], "one window is 64"),
    (["eval", "nowhere/such-model", "--text", "{tmp}/short.txt"], "no hub model"),
    (["inspect", "{model}"], "expected a folder that `eckart compress` wrote"),
    (["merge", "{model}", "-o", "{out}"], "nothing to multiply back"),
    (["recipes", "svdllm"], "did you mean 'svd-llm'"),
    (["recipes", "svd", "--keep", "2"], "found 2"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_mistakes_get_a_message_and_exit_code_2(
    arguments: list[str], message: str, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("too short")
    result = run(*(a.format(out=tmp_path / "out", model=model_folder, tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in words(result.stderr)
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_model_with_nan_weights_is_named(model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    result = run("compress", tmp_path / "broken", "-o", tmp_path / "out", "--recipe", "svd")
    assert result.exit_code == 2
    assert "model.layers.1.mlp.up_proj is NaN or infinite" in words(result.stderr)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    result = run("compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd")
    assert result.exit_code == 2
    assert "No space for" in words(result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_leaves_no_folder_and_no_traceback(model_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from eckart.cli.main import main; main()"]
    command += ["compress", str(model_folder), "-o", str(tmp_path / "out"), "--recipe", "aa-svd-layer"]
    # A long run on a tiny model: many samples.
    command += ["--samples", "20000", "--length", "100"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so would what is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "out.unfinished").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(2)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    # It may have been stopped before the first block was begun, or in it.
    assert "Interrupted. " in errors
    assert "nothing was written." in errors.lower()
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
