"""A run on disk touches nothing that is not its own, and notices what is done to its files meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Stop, contents, make_model
from transformers import AutoModelForCausalLM

import eckart
from eckart.checkpoint.output import unfinished_of
from eckart.errors import CalibrationError, CheckpointError, DamagedRunError, InterruptedRun
from eckart.run.compress_checkpoint import compress_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")


@pytest.fixture
def run(model_folder: Path, text_file: Path, tmp_path: Path) -> Callable[..., eckart.CompressionResult]:
    def run(out: str = "out", **options: Any) -> eckart.CompressionResult:
        settings: dict[str, Any] = {"recipe": "svd-llm", "keep": 0.6, "samples": 2, "length": 16, **options}
        return compress_checkpoint(
            settings.pop("source", model_folder),
            tmp_path / out,
            calibration=str(settings.pop("text", text_file)),
            **settings,
        )

    return run


def stop(run: Callable[..., eckart.CompressionResult], blocks: int = 1, **options: Any) -> None:
    with pytest.raises(InterruptedRun, match=f"{blocks} finished blocks are kept"):
        run(callback=Stop(blocks, KeyboardInterrupt()), **options)


def test_overwriting_a_folder_around_what_is_read_is_refused(
    run: Callable[..., eckart.CompressionResult], model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    for name, source in (("model", model_folder), ("text", model_folder), ("recipe", model_folder)):
        around = tmp_path / name
        around.mkdir()
        options: dict[str, Any] = {}
        if name == "model":
            options["source"] = Path(shutil.copytree(source, around / "m"))
        elif name == "text":
            options["text"] = f"{shutil.copy(text_file, around / 't.txt')}:raw"
        else:
            options["recipe"] = around / "mine.yaml"
            options["recipe"].write_text(eckart.RECIPES["svd-llm"].to_yaml())
        before = contents(around)
        for flags in ({"overwrite": True}, {"overwrite": True, "resume": True}, {}):
            with pytest.raises(CheckpointError, match="which is read"):
                run(name, **flags, **options)
        assert contents(around) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "model", "recipe", "text", "text.txt"]


def test_a_folder_of_the_user_is_kept_by_all_that_write_folders(
    run: Callable[..., eckart.CompressionResult], tmp_path: Path, tokens: torch.Tensor
) -> None:
    (tmp_path / "u" / "thesis").mkdir(parents=True)
    (tmp_path / "u" / "thesis" / "chapter-1").write_text("x")
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.6, tokens)
    for write in (lambda: run("u", overwrite=True), lambda: eckart.save(model, report, tmp_path / "u", overwrite=True)):
        with pytest.raises(CheckpointError, match="holds 'thesis/chapter-1', which Eckart did not write"):
            write()
    assert list(contents(tmp_path / "u")) == ["thesis/chapter-1"]


def test_a_model_is_not_saved_over_itself(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.6, tokens)
    eckart.save(model, report, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with pytest.raises(CheckpointError, match="which is read"):
        eckart.save(loaded, report, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("flags", [{"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}, {}])
def test_a_run_that_fails_at_once_leaves_everything_as_it_was(
    flags: dict[str, bool], run: Callable[..., eckart.CompressionResult], tmp_path: Path
) -> None:
    run(recipe="svd")
    stop(run, overwrite=True)
    before = contents(tmp_path)
    with pytest.raises((CalibrationError, CheckpointError), match="No text is called" if flags else "unfinished run"):
        run(text="nowhere.txt", **flags)
    assert {name: h for name, h in contents(tmp_path).items() if "lock" not in name} == {
        name: h for name, h in before.items() if "lock" not in name
    }
    run(resume=True)  # what it was told at first it need not be told again
    assert not unfinished_of(tmp_path / "out").exists()


def test_overwriting_that_is_killed_before_its_first_block_goes_on(
    run: Callable[..., eckart.CompressionResult], tmp_path: Path
) -> None:
    run("new")
    run(recipe="svd")
    child = os.fork() if hasattr(os, "fork") else pytest.skip("no fork")
    if child == 0:
        torch.set_num_threads(1)  # the others stayed behind

        class Kill(eckart.Callback):
            def on_start(self, *arguments: object) -> None:
                os._exit(9)

        try:
            run(overwrite=True, callback=Kill())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with pytest.raises(CheckpointError, match="Add --resume to go on with it, or --overwrite"):
        run()
    run(resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
    assert not unfinished_of(tmp_path / "out").exists()


class Change(eckart.Callback):
    """Does something to the model's file behind the first block."""

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change

    def on_block(self, finished: int) -> None:
        if finished == 1:
            self.change()


def test_a_model_that_is_replaced_meanwhile_is_named(
    run: Callable[..., eckart.CompressionResult], model_folder: Path, tmp_path: Path
) -> None:
    file = model_folder / "model.safetensors"
    make_model("llama", seed=1).save_pretrained(tmp_path / "other")
    run("whole")
    kept = shutil.copy(file, tmp_path / "kept")
    for change in (
        lambda: os.replace(shutil.copy(tmp_path / "other" / file.name, tmp_path / "copy"), file),
        lambda: file.write_bytes((tmp_path / "other" / file.name).read_bytes()),
    ):
        with pytest.raises(CheckpointError, match=r"model\.safetensors was changed .* 1 finished blocks are kept"):
            run(callback=Change(change))
        assert not (tmp_path / "out").exists()
        with pytest.raises(CheckpointError, match=r"model\.files\.model\.safetensors was"):
            run(resume=True)
        os.replace(shutil.copy(kept, tmp_path / "copy"), file)
        run(resume=True)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        shutil.rmtree(tmp_path / "out")


def test_a_file_that_goes_away_is_not_said_to_be_changed(
    run: Callable[..., eckart.CompressionResult], model_folder: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        run(callback=Change((model_folder / "model.safetensors").unlink))
    assert "model.safetensors cannot be read from the model's files: No such file" in str(caught.value)
    assert "changed" not in str(caught.value)


def test_a_file_that_is_touched_is_the_same(
    run: Callable[..., eckart.CompressionResult], model_folder: Path, tmp_path: Path
) -> None:
    file = model_folder / "model.safetensors"
    run("whole")
    run(callback=Change(lambda: os.replace(shutil.copy(file, tmp_path / "copy"), file)))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_change_that_no_time_and_size_tells_is_found_at_the_end(
    run: Callable[..., eckart.CompressionResult], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("llama", seed=1).save_pretrained(tmp_path / "other")
    file, other = model_folder / "model.safetensors", tmp_path / "other" / "model.safetensors"
    look, before = os.stat, os.stat(file)

    def blind(path: Any, **options: Any) -> os.stat_result:
        return before if isinstance(path, Path) and path == file else look(path, **options)

    monkeypatch.setattr(os, "stat", blind)
    with pytest.raises(DamagedRunError, match=r"model\.safetensors was changed .* Start again with --overwrite\.$"):
        run(callback=Change(lambda: os.replace(other, file)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["model", "spectra", "student", "streams"])
def test_a_file_of_a_finished_block_that_is_damaged_is_found(
    part: str, run: Callable[..., eckart.CompressionResult], tmp_path: Path
) -> None:
    options: dict[str, Any] = {}
    if part == "student":
        options["overrides"] = ["distillation=logits", "distillation.epochs=1"]
    stop(run, 2, **options)
    path = min((unfinished_of(tmp_path / "out") / part).iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(DamagedRunError) as caught:
            run(resume=True, **options)
        assert f"{path} is damaged: its SHA-256" in str(caught.value)
        assert "Start again with --overwrite." in str(caught.value)
        assert "--resume" not in str(caught.value)
    path.write_bytes(whole)
    run(resume=True, **options)
    run("whole", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_is_damaged_before_the_end_is_not_published(
    run: Callable[..., eckart.CompressionResult], tmp_path: Path
) -> None:
    def damage() -> None:
        (shard,) = (unfinished_of(tmp_path / "out") / "model").iterdir()
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)

    with pytest.raises(DamagedRunError, match=r"block-00000\.safetensors is damaged"):
        run(callback=Change(damage))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["no hashes", "other stream"])
def test_a_manifest_of_an_earlier_version_or_of_somebody_else(
    change: str, run: Callable[..., eckart.CompressionResult], tmp_path: Path
) -> None:
    import json

    stop(run)
    folder = unfinished_of(tmp_path / "out")
    (tmp_path / "victim.bin").write_text("mine")
    manifest = json.loads((folder / "manifest.json").read_text())
    if change == "no hashes":
        del manifest["files"]
        (folder / "eckart.json").unlink()
    else:
        manifest["original"]["file"] = "../../victim.bin"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    expected = "of an earlier version, without hashes" if change == "no hashes" else r"names '\.\./\.\./victim\.bin'"
    with pytest.raises(DamagedRunError, match=expected):
        run(resume=True, memory=1000)
    assert (tmp_path / "victim.bin").read_text() == "mine"
    run(overwrite=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["dense", "out", "text.txt", "victim.bin"]
