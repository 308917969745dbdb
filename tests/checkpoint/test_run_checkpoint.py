"""Finished blocks in the folder of a run: kept, found again, and refused where they are not what they were.

That a killed run goes on to the same bytes is tested in tests/run/test_compress_checkpoint.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_model
from torch import Tensor

from eckart.blocks.argument_table import ARGUMENTS
from eckart.blocks.block import Block
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace, TensorCache
from eckart.checkpoint.run_checkpoint import DiskRunCheckpoint, check_same_run, read_manifest
from eckart.checkpoint.run_folder import RunFolder
from eckart.compression.records import LayerRecord, Records
from eckart.compression.state import WalkState
from eckart.errors import CheckpointError, DamagedRunError

IDENTITY = {"keep": 0.6, "recipe": {"name": "svd"}}


class Run:
    """A run of a model of three blocks, each of which keeps one tensor."""

    def __init__(self, place: Path, *, distils: bool = False) -> None:
        self.folder = RunFolder(place / "out")
        self.model = make_model("llama")
        self.blocks: list[Block] = find_blocks(self.model, ResidentWeights())
        self.distils = distils

    @contextmanager
    def opened(self, *, clear: bool = False, identity: dict[str, Any] = IDENTITY) -> Iterator[DiskRunCheckpoint]:
        """Give what one process has of it."""
        self.folder.open()
        try:
            self.folder.begin(clear=clear, overwrite=False)
            scratch = ScratchSpace(True, self.folder.streams)
            yield DiskRunCheckpoint(self.folder, identity, self.model, scratch, distils=self.distils)
        finally:
            self.folder.close()

    def state(self, finished: int) -> WalkState:
        """Return the state behind a number of blocks, with hidden states that tell it from others."""
        stream = TensorCache(torch.float32)
        stream.append(torch.full((2, 3), float(finished)))
        paths = [block.linears[0].path for block in self.blocks[:finished]]
        layers = [
            LayerRecord(path=path, out_features=4, in_features=4, rank=1, bytes=16, error=0.25, unresolved=0.0)
            for path in paths
        ]
        spectra = {path: torch.full((2, 5), float(n)) for n, path in enumerate(paths)}
        return WalkState(finished, compressed=stream, records=Records(layers=layers, spectra=spectra))

    def tensors(self, number: int) -> dict[str, Tensor]:
        return {"mlp.up_proj.weight": torch.full((2, 2), float(number))}

    def save(self, checkpoint: DiskRunCheckpoint, finished: int) -> None:
        number = finished - 1
        checkpoint.save(self.state(finished), self.blocks[number], self.tensors(number))


@pytest.fixture(params=[False, True], ids=["", "distils"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """A run that was stopped behind its second block."""
    run = Run(tmp_path, distils=request.param)
    with run.opened(clear=True) as checkpoint:
        assert checkpoint.resume() is None
        for finished in (1, 2):
            run.save(checkpoint, finished)
    return run


def test_what_was_finished_is_found_again(run: Run) -> None:
    expected = run.state(2)
    with run.opened() as checkpoint:
        found = checkpoint.resume()
    assert found is not None
    assert (found.finished, found.original, found.followed) == (2, None, None)
    assert found.compressed is not None
    assert torch.equal(found.compressed[0], torch.full((2, 3), 2.0))
    assert found.records.layers == expected.records.layers
    assert found.records.spectra.keys() == expected.records.spectra.keys()
    assert all(torch.equal(found.records.spectra[path], values) for path, values in expected.records.spectra.items())


def test_shards_hold_what_the_model_calls_its_tensors(run: Run) -> None:
    shards = sorted(run.folder.model.iterdir())
    assert [path.name for path in shards] == ["eckart-block-00000.safetensors", "eckart-block-00001.safetensors"]
    for number, path in enumerate(shards):
        (name,) = load_file(path)
        assert name == f"model.layers.{number}.mlp.up_proj.weight"
        assert torch.equal(load_file(path)[name], torch.full((2, 2), float(number)))


def test_only_the_streams_of_the_last_block_are_kept(run: Run) -> None:
    assert len(list(run.folder.streams.iterdir())) == 1


def test_a_block_that_was_not_noted_down_is_not_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shard and its streams are there, and the process was killed in front of the manifest."""

    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with run.opened() as checkpoint:
        checkpoint.resume()
        with monkeypatch.context() as patch:
            patch.setattr("eckart.checkpoint.run_checkpoint.write_text", killed)
            with pytest.raises(KeyboardInterrupt):
                run.save(checkpoint, 3)
    assert len(list(run.folder.model.iterdir())) == 3
    with run.opened() as checkpoint:
        found = checkpoint.resume()
        assert found is not None
        assert found.finished == 2
        assert len(list(run.folder.model.iterdir())) == 2
        run.save(checkpoint, 3)
    with run.opened() as checkpoint:
        again = checkpoint.resume()
    assert again is not None
    assert again.finished == 3


@pytest.mark.parametrize("change", ["damage", "delete"])
@pytest.mark.parametrize("part", ["model", "spectra", "streams", "student"])
def test_a_file_that_is_not_as_it_was_written_is_named(part: str, change: str, run: Run) -> None:
    files = sorted((run.folder.path / part).iterdir())
    if part == "student":
        assert len(files) == 2 * run.distils
    if not files or (part == "model" and run.distils):  # those are written anew
        return
    path = files[-1]
    if change == "delete":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    expected = f"{path.name} is " + ("gone" if change == "delete" else "damaged: its SHA-256")
    with run.opened() as checkpoint, pytest.raises(DamagedRunError, match=f"{expected}.*Start again with --overwrite"):
        checkpoint.resume()


def test_another_run_is_refused(run: Run) -> None:
    other = {"keep": 0.5, "recipe": {"name": "svd"}}
    with run.opened(identity=other) as checkpoint, pytest.raises(CheckpointError, match=r"keep was 0\.6 and is 0\.5"):
        checkpoint.resume()


def test_blocks_that_are_distilled_are_there_twice(tmp_path: Path) -> None:
    run = Run(tmp_path, distils=True)
    with run.opened(clear=True) as checkpoint:
        run.save(checkpoint, 1)
        checkpoint.replace(0, run.blocks[0], run.tensors(7))
        (first,), (shard,) = checkpoint.load(0).values(), run.folder.model.iterdir()
        (now,) = load_file(shard).values()
        assert (first[0, 0].item(), now[0, 0].item()) == (0, 7)
        checkpoint.check(1)
        shard.write_bytes(b"")
        with pytest.raises(DamagedRunError, match=r"block-00000\.safetensors is damaged"):
            checkpoint.check(1)
        with pytest.raises(DamagedRunError, match=r"is damaged: .*No such file.*Start again with --overwrite"):
            checkpoint.load(1)


def edited(change: Callable[[dict[str, Any]], object], run: Run) -> None:
    manifest = json.loads(run.folder.manifest.read_text())
    change(manifest)
    run.folder.manifest.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("files"), r"\(it is of an earlier version, without hashes of the files\)"),
        (lambda data: data.pop("finished"), r"is no manifest of an unfinished run \(finished: Field required\)"),
        (lambda data: data["compressed"].update(file="../x"), r"names '\.\./x' where 'compressed-00002.* belongs"),
        (lambda data: data["files"].clear(), "is damaged: its SHA-256 is not that which was written"),
    ],
)
def test_a_manifest_that_cannot_be(change: Callable[[dict[str, Any]], object], message: str, run: Run) -> None:
    edited(change, run)
    with run.opened() as checkpoint, pytest.raises(DamagedRunError, match=rf"{message}.*Start again with --overwrite"):
        checkpoint.resume()


def test_a_manifest_that_is_not_there_or_is_a_link(run: Run, tmp_path: Path) -> None:
    manifest = run.folder.manifest
    manifest.rename(tmp_path / "mine.json")
    assert read_manifest(run.folder) is None
    manifest.symlink_to(tmp_path / "mine.json")
    with pytest.raises(CheckpointError, match="outside the folder"):
        read_manifest(run.folder)


def test_all_that_differs_is_said() -> None:
    check_same_run(IDENTITY, {"keep": 0.6, "recipe": {"name": "svd"}}, Path("out"))
    with pytest.raises(CheckpointError) as caught:
        check_same_run(IDENTITY, {"keep": 0.5, "recipe": {"name": "asvd"}}, Path("out"))
    said = str(caught.value)
    assert said.startswith("out is of another run: keep was 0.6 and is 0.5; recipe.name was 'svd' and is 'asvd'.")
    assert said.endswith("use another output, or start again with --overwrite.")


def test_how_blocks_are_called_is_in_use_until_the_end(run: Run) -> None:
    with run.opened() as checkpoint:
        checkpoint.resume()
        used = run.folder.streams / f"{ARGUMENTS}-original-00000-float32.spool"
        left = run.folder.streams / "original-00000.spool"
        used.write_bytes(b"x")
        left.write_bytes(b"x")
        run.save(checkpoint, 3)
    assert used.exists()
    assert not left.exists()
