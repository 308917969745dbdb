"""Models on disk: the same numbers as in memory, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS, Stop, byte_tokenizer, contents, dealt, make_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.checkpoint.packed import STANDARD_NAME
from eckart.checkpoint.source import FileWeights, open_model
from eckart.compression.records import LayerRecord
from eckart.errors import CalibrationError, CheckpointError, EckartError, EckartWarning, InterruptedRun, NonFiniteError
from eckart.run.compress_checkpoint import compress_checkpoint

OPTIONS: dict[str, Any] = {"samples": 6, "length": 24}
KILLS = int(os.environ.get("ECKART_KILLS", "1"))
REFINED = ["refinement.epochs=2", "refinement.batch=2"]


def unfinished(out: Path) -> Path:
    return out.with_name(out.name + ".unfinished")


IN_MEMORY = ["svd", "svd-llm", "aa-svd-anchored", "aa-svd-anchored+sharing=by-loss"]
DTYPES = [torch.bfloat16, torch.float32]
EQUAL = [
    # Two thirds of all pairs: each architecture with two of the recipes.
    *(
        (kind, IN_MEMORY[(number + place) % 3], DTYPES[place])
        for number, kind in enumerate(CONFIGS)
        for place in (0, 1)
    ),
    *((*case, dtype) for case, dtype in dealt(product(["llama", "gpt2"], IN_MEMORY[3:]), DTYPES)),
    # These take long.
    ("llama", "svd-llm+distillation=logits", torch.float32),
    ("gemma3", "svd-llm+distillation=logits", torch.bfloat16),
]


@pytest.mark.parametrize(("kind", "recipe", "dtype"), EQUAL)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_equals_the_model_in_memory_bit_by_bit(
    kind: str, recipe: str, dtype: torch.dtype, text_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    dense = tmp_path / "dense"
    make_model(kind).to(dtype).save_pretrained(dense, max_shard_size="20KB")
    tokenizer.save_pretrained(dense)
    before = contents(dense)
    recipe, *overrides = recipe.split("+")
    overrides += REFINED if recipe.startswith("aa-svd") else []
    model = AutoModelForCausalLM.from_pretrained(dense, dtype="auto")
    expected = eckart.compress(model, recipe, 0.6, str(text_file), overrides=overrides, **OPTIONS)
    # A limit of one byte: hidden states go to files, and activations are computed twice.
    for memory in (None, 1):
        out = tmp_path / f"out-{memory}"
        report = compress_checkpoint(
            dense, out, recipe, 0.6, str(text_file), overrides=overrides, memory=memory, **OPTIONS
        )
        assert report.layers == expected.layers
        assert report.whole_bytes_after == expected.whole_bytes_after
        loaded = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
        ours, theirs = loaded.state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert eckart.load_tokenizer(out) is not None
        assert not unfinished(out).exists()
    assert contents(dense) == before


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("structure", ["two-factor", "pivoted"])
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_new_biases_and_residual_streams_equal_those_in_memory_and_are_resumed(
    kind: str, structure: str, text_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    dense = tmp_path / "dense"
    make_model(kind).bfloat16().save_pretrained(dense)
    tokenizer.save_pretrained(dense)
    overrides = ["objective.affine=true", "objective.residual_anchoring=1", f"structure={structure}", *REFINED]
    model = AutoModelForCausalLM.from_pretrained(dense, dtype="auto")
    expected = eckart.compress(model, "aa-svd-anchored", 0.6, str(text_file), overrides=overrides, **OPTIONS)
    for memory in (None, 1):
        out = tmp_path / f"out-{memory}"
        settings: dict[str, Any] = {"overrides": overrides, "memory": memory, **OPTIONS}
        with pytest.raises(InterruptedRun):
            compress_checkpoint(
                dense, out, "aa-svd-anchored", 0.6, str(text_file), callback=Stop(1, KeyboardInterrupt()), **settings
            )
        assert len(list((unfinished(out) / "streams").iterdir())) == 3
        report = compress_checkpoint(dense, out, "aa-svd-anchored", 0.6, str(text_file), resume=True, **settings)
        assert report.layers == expected.layers
        assert report.whole_bytes_after == expected.whole_bytes_after
        ours = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
        theirs = model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_result_says_what_it_was_made_of(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compress_checkpoint(model_folder, out, "svd-llm", 0.6, str(text_file), seed=5, **OPTIONS)
    written = json.loads((out / "config.json").read_text())["quantization_config"]
    digest = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert written["provenance"]["model"]["files"] == {"model.safetensors": digest}
    assert written["provenance"]["source"] == "dense"
    assert written["calibration"]["seed"] == 5
    assert (out / "README.md").is_file()
    assert eckart.CompressionResult.model_validate_json((out / "eckart" / "report.json").read_text()).keep <= 0.6


class TestResume:
    @pytest.fixture
    def run(self, model_folder: Path, text_file: Path, tmp_path: Path) -> Callable[..., eckart.CompressionResult]:
        def run(out: str = "out", **options: object) -> eckart.CompressionResult:
            settings: dict[str, Any] = {"recipe": "aa-svd", "keep": 0.6, "overrides": REFINED, **OPTIONS, **options}
            return compress_checkpoint(model_folder, tmp_path / out, calibration=str(text_file), **settings)

        return run

    @pytest.fixture
    def stopped(self, run: Callable[..., eckart.CompressionResult], tmp_path: Path) -> Path:
        """A run that was interrupted behind its second block."""
        with (
            pytest.warns(UserWarning, match="optimiser steps"),
            pytest.raises(InterruptedRun, match="2 finished blocks"),
        ):
            run(callback=Stop(2, KeyboardInterrupt()))
        return unfinished(tmp_path / "out")

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    @pytest.mark.parametrize(
        ("recipe", "place"),
        [
            *dealt(["svd", "dobi-shift", "int8", "svd-llm", "saes-svd", "gptq"], [(1, None), (2, 1), (3, None)]),
            *product(["aa-svd"], [(1, None), (2, 1), (3, None)]),
        ],
    )
    def test_goes_on_behind_each_block(
        self, recipe: str, place: tuple[int, int | None], run: Callable[..., eckart.CompressionResult], tmp_path: Path
    ) -> None:
        blocks, memory = place
        overrides = {"aa-svd": REFINED, "gptq": ["precision.group=16"]}
        options = {"recipe": recipe, "overrides": overrides.get(recipe, []), "memory": memory}
        expected = run("whole", **options)
        assert (tmp_path / "whole" / STANDARD_NAME).exists() == (recipe in ("int8", "gptq"))
        with pytest.raises(InterruptedRun, match=f"{blocks} finished blocks are kept .* go on with --resume"):
            run(callback=Stop(blocks, KeyboardInterrupt()), **options)
        assert not (tmp_path / "out").exists()
        seen: list[int] = []

        class Listener(eckart.Callback):
            def on_block(self, finished: int) -> None:
                seen.append(finished)

        # Where the hidden states live may change.
        report = run(resume=True, callback=Listener(), **{**options, "memory": None})
        assert seen == list(range(blocks + 1, 4))
        assert report.layers == expected.layers
        assert report.refinements == expected.refinements
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert not unfinished(tmp_path / "out").exists()

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_goes_on_however_the_path_is_spelled(
        self, model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(model_folder.parent)
        settings: dict[str, Any] = {"recipe": "svd", "keep": 0.6, "calibration": str(text_file), **OPTIONS}
        with pytest.raises(InterruptedRun, match="1 finished block"):
            compress_checkpoint(f"./{model_folder.name}", "out", callback=Stop(1, KeyboardInterrupt()), **settings)
        compress_checkpoint(f"{model_folder.name}/", "out", resume=True, **settings)
        assert not unfinished(tmp_path / "out").exists()

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    @pytest.mark.parametrize(
        ("changed", "named"),
        [
            ({"keep": 0.5}, "keep was 0.6 and is 0.5"),
            ({"seed": 1}, "calibration.seed was 0 and is 1"),
            ({"samples": 5}, "calibration.samples was 6 and is 5"),
            ({"overrides": [*REFINED, "refinement.epochs=3"]}, "recipe.refinement.epochs was 2 and is 3"),
            ({"recipe": "aa-svd-anchored"}, "recipe.objective.name was 'input-aware' and is 'anchored'"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refuses_another_run_and_names_the_difference(
        self, changed: dict[str, Any], named: str, stopped: Path, run: Callable[..., eckart.CompressionResult]
    ) -> None:
        before = contents(stopped / "model")
        with pytest.raises(CheckpointError) as caught:
            run(resume=True, **changed)
        assert named in str(caught.value)
        assert contents(stopped / "model") == before

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_refuses_another_model_text_or_version(
        self,
        stopped: Path,
        run: Callable[..., eckart.CompressionResult],
        model_folder: Path,
        text_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("eckart.checkpoint.identity.version", lambda package: "99")
            with pytest.raises(CheckpointError, match=r"versions\.eckart was .* and is '99'"):
                run(resume=True)
        text = text_file.read_text()
        text_file.write_text(text.replace("squared", "SQUARED"))
        with pytest.raises(CheckpointError, match=r"calibration\.sha256 was"):
            run(resume=True)
        text_file.write_text(text)
        make_model("llama", seed=1).save_pretrained(model_folder)
        with pytest.raises(CheckpointError, match=r"model\.files\.model\.safetensors was"):
            run(resume=True)

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_is_not_started_over_by_accident(self, stopped: Path, run: Callable[..., eckart.CompressionResult]) -> None:
        with pytest.raises(CheckpointError, match=r"Add --resume to go on with it, or --overwrite"):
            run()
        run(overwrite=True)
        assert not stopped.exists()

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_damage_is_said(self, stopped: Path, run: Callable[..., eckart.CompressionResult]) -> None:
        (shard, *_) = sorted((stopped / "model").iterdir())
        whole = shard.read_bytes()
        shard.unlink()
        with pytest.raises(CheckpointError, match=r"eckart-block-00000\.safetensors is gone"):
            run(resume=True)
        shard.write_bytes(whole)
        (stream, *_) = (stopped / "streams").iterdir()
        whole = stream.read_bytes()
        stream.write_bytes(whole[:-8])
        with pytest.raises(CheckpointError, match=r"is damaged: .* Start again with --overwrite"):
            run(resume=True)
        stream.write_bytes(whole)
        manifest = (stopped / "manifest.json").read_text()
        (stopped / "manifest.json").write_text(manifest[: len(manifest) // 2])
        with pytest.raises(CheckpointError, match="is no manifest of an unfinished run"):
            run(resume=True)
        (stopped / "manifest.json").write_text(manifest)
        run(resume=True)

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_a_finished_run_is_finished(self, run: Callable[..., eckart.CompressionResult], tmp_path: Path) -> None:
        report = run()
        before = contents(tmp_path / "out")
        assert run(resume=True).layers == report.layers
        assert contents(tmp_path / "out") == before
        with pytest.raises(CheckpointError, match=r"keep was 0\.6 and is 0\.5"):
            run(resume=True, keep=0.5)
        with pytest.raises(CheckpointError, match="exists"):
            run()
        assert not unfinished(tmp_path / "out").exists()

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_two_at_once_are_refused(self, run: Callable[..., eckart.CompressionResult]) -> None:
        class Second(eckart.Callback):
            def on_block(self, finished: int) -> None:
                if finished == 1:
                    for options in ({"resume": True}, {"overwrite": True}):
                        with pytest.raises(CheckpointError, match="Another process is at work"):
                            run(**options)

            def on_start(self, plan: object, cost: object, finished: int) -> None:
                # Nothing is finished, and the folder must survive the refusal all the same.
                with pytest.raises(CheckpointError, match="Another process is at work"):
                    run(resume=True)

        run(callback=Second())

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    @pytest.mark.parametrize(("overwritten", "step"), [(True, "rename"), (False, "rename"), (True, "unlink")])
    def test_stopped_while_it_publishes(
        self,
        overwritten: bool,
        step: str,
        run: Callable[..., eckart.CompressionResult],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run("whole")
        if overwritten:
            run(recipe="svd", overrides=[])
        plain = getattr(os, step)
        stopped: list[object] = []

        def stop(path: str | Path, *args: object, **kwargs: object) -> None:
            if not stopped and Path(path).name == {"rename": "model", "unlink": "README.md"}[step]:
                stopped.append(path)
                raise KeyboardInterrupt
            plain(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, step, stop)
            # An older output is deleted, file by file, when the new one is in its place.
            with pytest.raises(InterruptedRun, match="out is whole" if step == "unlink" else "3 finished blocks"):
                run(overwrite=True)
        run(resume=True)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert not unfinished(tmp_path / "out").exists()

    @pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
    def test_a_full_disk_keeps_what_is_finished(
        self, run: Callable[..., eckart.CompressionResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("whole")
        synced = os.fsync
        manifest = tmp_path / "out.unfinished" / "manifest.json"

        def full(descriptor: int) -> None:
            if manifest.exists() and '"finished": 1' in manifest.read_text(encoding="utf-8"):
                raise OSError(errno.ENOSPC, "No space left on device")
            synced(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(CheckpointError, match=r"the disk is full\. 1 finished blocks are kept"):
                run()
        run(resume=True)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_one_block_is_in_memory_at_a_time(
    model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[PreTrainedModel] = []

    def opened(source: str | Path, offload: Path, **options: Any) -> tuple[PreTrainedModel, FileWeights]:
        model, weights = open_model(source, offload, **options)
        models.append(model)
        return model, weights

    class Watcher(eckart.Callback):
        def present(self) -> list[str]:
            return [name for name, parameter in models[0].named_parameters() if not parameter.is_meta]

        def on_layer(self, record: LayerRecord) -> None:
            block = ".".join(record.path.split(".")[:3])
            assert self.present()
            assert all(name.startswith(f"{block}.") for name in self.present())

        def on_block(self, finished: int) -> None:
            assert self.present() == []

    monkeypatch.setattr("eckart.run.compress_checkpoint.open_model", opened)
    compress_checkpoint(
        model_folder, tmp_path / "out", "aa-svd", 0.6, str(text_file), overrides=REFINED, callback=Watcher(), **OPTIONS
    )
    assert len(models) == 1


def test_too_little_memory_is_said(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    with pytest.warns(EckartWarning, match=r"expected to take .* more than the 0\.1 GB"):
        compress_checkpoint(
            model_folder, tmp_path / "out", "svd-llm", 0.6, str(text_file), memory=100_000_000, **OPTIONS
        )


@pytest.mark.parametrize(
    ("options", "error"),
    [({"calibration": "nowhere.txt"}, CalibrationError), ({"keep": 2}, EckartError), ({"device": "no"}, EckartError)],
    ids=str,
)
def test_a_mistake_leaves_nothing_behind(
    options: dict[str, Any], error: type[Exception], model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        compress_checkpoint(model_folder, tmp_path / "out", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense"]


def test_a_weight_that_is_nan_is_named_before_anything_is_done(model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(model_folder)
    with pytest.raises(NonFiniteError, match=r"weight of .*layers\.1\.mlp\.up_proj is NaN"):
        compress_checkpoint(model_folder, tmp_path / "out", "svd", 0.6)
    assert not list(tmp_path.glob("out*"))


def test_text_of_the_model_itself(model_folder: Path, tmp_path: Path) -> None:
    report = compress_checkpoint(model_folder, tmp_path / "out", "svd-llm", 0.6, "self", **OPTIONS)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    expected = eckart.compress(model, "svd-llm", 0.6, "self", **OPTIONS)
    assert report.calibration == expected.calibration
    with pytest.raises(EckartError, match="needs the whole model in memory"):
        compress_checkpoint(model_folder, tmp_path / "other", "svd-llm", 0.6, "self", memory=1, **OPTIONS)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_killed_at_any_moment_and_resumed_it_writes_the_same_bytes(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = f"""
import warnings, eckart
warnings.simplefilter("ignore")
print("ready", flush=True)
eckart.compress_checkpoint({str(model_folder)!r}, {str(out)!r}, "aa-svd", 0.6, {str(text_file)!r}, samples=16,
    length=48, resume=True,
    overrides=["refinement.epochs=4", "refinement.batch=2", "distillation=logits", "distillation.epochs=3"])
"""

    def run(limit: float | None = None) -> float | None:
        """Return the seconds of a run without its imports; None if it was killed at the limit."""
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            begun = time.monotonic()
            try:
                assert process.wait(limit) == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                return None
            return time.monotonic() - begun

    whole = run()
    assert whole is not None
    expected = contents(out)
    moments = random.Random(KILLS)
    for number in range(1, KILLS + 1):
        shutil.rmtree(out)
        if run(moments.uniform(0, 0.95 * whole)) is None:
            shards = [path.name for path in unfinished(out).rglob("*.safetensors")]
            print(f"kill {number}: {len(shards)} blocks were written", flush=True)
            run()
        assert contents(out) == expected
        assert not unfinished(out).exists()


def test_a_gguf_file_is_converted_first(llama: PreTrainedModel, tmp_path: Path) -> None:
    written = eckart.export(llama, "gguf", tmp_path / "gguf", processor=byte_tokenizer(), dtype=torch.bfloat16)
    (source,) = written.folder.glob("*.gguf")
    report = compress_checkpoint(source, tmp_path / "out", "svd", 0.9)
    assert 0.85 < report.keep <= 0.9
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert list(config["provenance"]["model"]["files"]) == [source.name]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert loaded.num_parameters() * 2 == report.whole_bytes_after
    assert eckart.load_tokenizer(tmp_path / "out") is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gguf", "out"]
