"""``eckart inspect``: what it shows is what the folder's report says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.helpers import run, words
from tests.report.helpers import report

from eckart.checkpoint.records import write_records
from eckart.compression.embedding import EmbeddingRecord
from eckart.compression.result import CompressionResult
from eckart.methods.precision import Bits4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a report of everything and two weight files."""
    place = tmp_path / "small"
    place.mkdir()
    write_records(place, report().model_copy(update={"warnings": ["[bold]Few tokens"]}))
    for number in range(2):
        (place / f"eckart-{number}.safetensors").write_bytes(bytes(1000 + number))
    (place / "odd.safetensors").mkdir()
    return place


def test_json_is_the_report_and_the_bytes_on_disk(folder: Path) -> None:
    shown = json.loads(run("inspect", folder, "--json").stdout)
    assert shown.pop("bytes_on_disk") == 2001
    told = CompressionResult.model_validate(shown)
    expected = report()
    assert (shown["keep"], shown["keep_whole_model"]) == (expected.keep, expected.keep_whole_model)
    assert (told.layers, told.refinements, told.blocks) == (expected.layers, expected.refinements, expected.blocks)


def test_the_page_for_people(folder: Path) -> None:
    done = run("inspect", folder)
    assert done.exit_code == 0, done.output
    text = words(done.stdout)
    for layer in report().layers:
        assert f"{layer.path} 64x64 16 4,096 50.0% 0.100" in text
    assert "model.layers.3 0.5000 0.2000 1 1" in text
    assert "all blocks 0.9000 0.4000 2 2" in text
    assert "Recipe svd-llm. Kept 50.00% of the bytes of the linear layers and 83.62% of the whole model's" in text
    assert "0.0 MB on disk" in text
    assert "Calibrated on 4,096 tokens of text.txt (64 x 64, seed 0, SHA-256 0000000000000000)." in text
    assert "Warning: [bold]Few tokens" in text


def test_tables_that_were_rounded(tmp_path: Path) -> None:
    record = EmbeddingRecord(
        embedding="model.embed_tokens", head="lm_head", tied=True, tokens=1000, width=500, precision=Bits4(group=100)
    )
    for made, sentence in (
        (record, "The embedding model.embed_tokens and lm_head, one table, 1000x500, is in 4-bit: 0.3 MB in place of"),
        (record.model_copy(update={"head": None, "loss": 0.0123}), "1.0 MB; alone that costs 0.012 nats a token."),
    ):
        folder = tmp_path / str(made.loss)
        folder.mkdir()
        write_records(folder, report().model_copy(update={"embedding": made}))
        assert sentence in words(run("inspect", folder).stdout)


def test_the_map_stands_in_place_of_the_table(folder: Path) -> None:
    text = run("inspect", folder, "--map").stdout
    assert "q_proj" in text
    assert "model.layers.0.self_attn.q_proj" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--map"], "--json and --map both say what to print; found both. Choose one of them."),
        (["--map-image", "ranks.pdf"], "ends in .png or .svg; found ranks.pdf. Change the ending."),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], message: str, folder: Path) -> None:
    refused = run("inspect", folder, *options)
    assert refused.exit_code == 2
    assert message in words(refused.stderr)


def test_what_its_cache_can_keep(factored: Path, model_folder: Path) -> None:
    shown = run("inspect", factored, "--cache")
    assert shown.exit_code == 0, shown.output
    assert "keys and values 384 100.0%" in words(shown.stdout)
    facts = json.loads(run("inspect", factored, "--cache", "--json").stdout)
    stored = [sum(layer["stored"] for layer in size["layers"]) for size in facts.values()]
    assert list(facts) == ["16", "8", "6", "5", "4", "3"]
    assert stored == sorted(stored, reverse=True)
    refused = run("inspect", factored, "--cache", "--map")
    assert refused.exit_code == 2
    assert "--cache shows the cache" in words(refused.stderr)
    dense = run("inspect", model_folder, "--cache")
    assert "3 attention modules keep keys and values: its projections are not factored." in words(dense.stdout)
