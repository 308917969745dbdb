"""``eckart compress``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.helpers import run, words
from tests.conftest import contents
from transformers import AutoModelForCausalLM

import eckart
from eckart.checkpoint.records import read_report


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


def test_what_a_sketch_loses_is_told(model_folder: Path, tmp_path: Path) -> None:
    options = ("--recipe", "svd", "--keep", 0.4, "--set", "solver=randomized", "--set", "solver.limit=1")
    result = run("compress", model_folder, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "more than an exact solution" in words(result.output)
    assert read_report(tmp_path / "out").largest_excess is not None
    exact = run("compress", model_folder, "-o", tmp_path / "exact", *options[:4])
    assert "exact solution" not in words(exact.output)


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


@pytest.mark.parametrize("name", [".", "", "/", "..", "n" * 245, "link", "u"])
@pytest.mark.parametrize("command", ["compress", "merge"])
def test_outputs_that_cannot_be_are_refused_before_the_work(
    command: str, name: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "u" / "thesis").mkdir(parents=True)
    (tmp_path / "here" / "u" / "thesis" / "ch1").write_text("x")
    (tmp_path / "here" / "link").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("eckart.run.compress_checkpoint.open_model", None)
    monkeypatch.setattr("eckart.cli.merge.load_model", None)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = run(command, model_folder, "-o", name, "--overwrite")
    assert done.exit_code == 2, done.output
    assert "Error: " in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_patterns_say_what_is_compressed(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    arguments = ["compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd-llm", "--keep", 0.5]
    arguments += ["--calibration", text_file, "--samples", 4, "--length", 32]
    options = ["--only", "LlamaMLP", "--only", "*.q_proj", "--ignore", "model.layers.0.*"]
    options += ["--set", "targets.*.up_proj.rank=3"]
    done = run(*arguments, *options)
    assert done.exit_code == 0, done.output
    text = words(done.output)
    assert "left alone what it is size of the model why" in text
    assert "model.layers.*.self_attn.k_proj linear layer" in text
    assert "left by the recipe" in text
    shown = words(run("inspect", tmp_path / "out").output)
    for row in ("*.up_proj rank 3 * left as they are LlamaMLP targets again *.q_proj", "linear layers become"):
        assert row in shown
    assert "model.embed_tokens embedding" in shown
    report = read_report(tmp_path / "out")
    ranks = {layer.path: layer.rank for layer in report.layers}
    assert len(ranks) == 2 * 4
    assert {rank for path, rank in ranks.items() if "up_proj" in path} == {3}
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    again = eckart.compress(
        model,
        "svd-llm",
        0.5,
        str(text_file),
        samples=4,
        length=32,
        only=["LlamaMLP", "*.q_proj"],
        ignore="model.layers.0.*",
        overrides=["targets.*.up_proj.rank=3"],
    )
    assert (again.recipe, again.ranks) == (report.recipe, report.ranks)
    resumed = run(*arguments, *options, "--resume")
    assert "is finished already" in words(resumed.stdout)
    other = run(*arguments, *options, "--ignore", "*.q_proj", "--resume")
    assert other.exit_code == 2
    assert "recipe.targets was" in words(other.stderr)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "*.q_prj"], "No linear layer is named by '*.q_prj'; did you mean '*.q_proj'"),
        (["--ignore", "LlamaMPL"], "did you mean 'LlamaMLP'"),
        (["--set", "targets.*.q_prj.keep=0.5"], "did you mean '*.q_proj'"),
        (["--set", "towers.vision=0.5"], "The model has no tower 'vision'"),
        (["--recipe", "mine.yaml"], "did you mean '*.q_proj'"),
    ],
)
def test_patterns_that_name_nothing_are_refused(
    options: list[str], said: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("objective: weight\ntargets: {'*.q_prj': leave}\n")
    refused = run("compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd", *options)
    assert refused.exit_code == 2
    assert said in words(refused.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("recipe", "pattern"), [("svd", "eckart-part-*"), ("int8", "model-*")])
def test_numbers_and_files_as_they_are_asked_for(recipe: str, pattern: str, model_folder: Path, tmp_path: Path) -> None:
    options = ("--recipe", recipe, "--keep", 0.6)
    asked = ("--dtype", "bfloat16", "--max-shard-size", "20KB")
    for name, more in (("asked", asked), ("plain", ())):
        result = run("compress", model_folder, "-o", tmp_path / name, *options, *more)
        assert result.exit_code == 0, result.output
    files = list((tmp_path / "asked").glob("*.safetensors"))
    assert len(files) > 2
    assert set(files) == set((tmp_path / "asked").glob(f"{pattern}.safetensors"))
    assert max(path.stat().st_size for path in files) < 30_000  # with its header, and what the standard format adds
    found, plain = (eckart.load_model(tmp_path / name) for name in ("asked", "plain"))
    assert (found.dtype, plain.dtype) == (torch.bfloat16, torch.float32)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        ours, theirs = found(ids).logits.float(), plain(ids).logits
    assert (ours - theirs).abs().max() < 0.1 * theirs.abs().max()
    resumed = run("compress", model_folder, "-o", tmp_path / "asked", *options, "--resume")
    assert resumed.exit_code == 2
    assert "model.config was" in words(resumed.output)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dtype", "int3", "No dtype is called 'int3'. Use auto, float32, bfloat16, float16."),
        ("--max-shard-size", "large", "--max-shard-size takes a size such as 8GB or 500MB, found 'large'."),
    ],
)
def test_numbers_and_files_that_cannot_be(
    option: str, value: str, message: str, model_folder: Path, tmp_path: Path
) -> None:
    result = run("compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd", option, value)
    assert result.exit_code == 2
    assert message in words(result.stderr)


def test_a_size_of_the_whole_model(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    whole = (model_folder / "model.safetensors").stat().st_size
    options = ("--calibration", text_file, "--samples", 8, "--length", 24)
    asked = f"{0.25 * whole:.0f}B"
    result = run("compress", model_folder, "-o", tmp_path / "out", "--size", asked, *options)
    assert result.exit_code == 0, result.output
    text = words(result.output)
    assert "recipe auto" in text
    assert "Chose by the predicted loss a byte:" in text
    assert "nats a token; with 10% more bytes" in text
    assert "; the embedding in " in text
    assert "The embedding model.embed_tokens and lm_head, a table each, 256x32, is in " in text
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) <= 0.25 * whole
    small = run("compress", model_folder, "-o", tmp_path / "small", "--size", "1KB", *options)
    assert small.exit_code == 2
    assert "the model cannot take less than" in words(small.output)
    both = run("compress", model_folder, "-o", tmp_path / "both", "--size", "1KB", "--keep", 0.5)
    assert both.exit_code == 2
    assert "Give one of them" in words(both.output)
    assert not (tmp_path / "small").exists()
    assert not (tmp_path / "both").exists()


def test_a_goal_stands_for_a_recipe(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    options = ("--calibration", text_file, "--samples", 8, "--length", 24, "--keep", 0.45)
    result = run("compress", model_folder, "-o", tmp_path / "out", "--goal", "speed", *options)
    assert result.exit_code == 0, result.output
    text = words(result.output)
    assert "recipe auto-speed" in text
    assert "0 layers with factors" in text
    ranks = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ranks"]
    assert set(ranks.values()) == {None}
    assert "The embedding" not in words(run("inspect", tmp_path / "out").output)


def test_a_size_above_that_of_the_model_copies_it(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(model_folder).bfloat16().save_pretrained(model_folder)
    options = ("--size", "1GB", "--calibration", text_file, "--samples", 8, "--length", 24)
    result = run("compress", model_folder, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "there is nothing to compress" in words(result.output)
    found, expected = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (tmp_path / "out", model_folder))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert eckart.load_tokenizer(tmp_path / "out") is not None
    assert not list(tmp_path.glob("*.unfinished"))
    again = run("compress", model_folder, "-o", tmp_path / "out", *options)
    assert again.exit_code == 2
    assert "exists" in words(again.output)


def test_a_model_that_fits_in_16_bits_is_copied_in_16_bits(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    whole = (model_folder / "model.safetensors").stat().st_size  # in float32
    options = ("--size", f"{0.7 * whole:.0f}B", "--calibration", text_file, "--samples", 8, "--length", 24, "--quiet")
    result = run("compress", model_folder, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) <= 0.7 * whole
