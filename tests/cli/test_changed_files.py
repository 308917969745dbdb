"""Commands that hold a model in memory say nothing of it if its files change meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.helpers import run, words

import eckart

COMMANDS = [
    ("eckart.cli.evaluate.perplexity", ["eval", "{model}", "--text", "{text}", "--length", "16", "--windows", "1"]),
    ("eckart.cli.merge.load_tokenizer", ["merge", "{model}", "-o", "{out}"]),
    ("eckart.cli.bench.measure_machine", ["bench", "{model}", "--prompt", "4", "--generate", "2", "--repeats", "1"]),
    ("eckart.sweep.runner.stored_bytes", ["sweep", "{model}", "-o", "{out}", "--recipes", "svd", "--text", "{text}"]),
]


@pytest.mark.parametrize(("step", "words_of"), COMMANDS, ids=lambda value: str(value)[:20])
def test_a_file_that_changes(
    step: str,
    words_of: list[str],
    compressed: Path,
    model_folder: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = compressed if words_of[0] == "merge" else model_folder
    weights = max(folder.glob("*.safetensors"))
    module, _, name = step.rpartition(".")
    whole: Callable[..., object] = getattr(__import__(module, fromlist=[name]), name)

    def changing(*arguments: object, **options: object) -> object:
        with weights.open("r+b") as file:  # in place, as `cp` does
            file.seek(-64, 2)
            file.write(bytes(64))
        return whole(*arguments, **options)

    monkeypatch.setattr(step, changing)
    result = run(*(word.format(model=folder, text=text_file, out=tmp_path / "new") for word in words_of))
    assert result.exit_code == 2, result.output
    assert f"{weights.name} was changed while the run read it" in words(result.stderr).replace("- ", "-")
    if words_of[0] == "merge":
        assert not (tmp_path / "new").exists()


def test_compress_in_memory(model_folder: Path, text_file: Path) -> None:
    model = eckart.load_model(model_folder)
    weights = model_folder / "model.safetensors"

    class Changes(eckart.Callback):
        def on_block(self, finished: int) -> None:
            weights.write_bytes(weights.read_bytes())

    with pytest.raises(eckart.errors.CheckpointError, match="was changed"):
        eckart.compress(model, "svd", 0.5, callback=Changes())
