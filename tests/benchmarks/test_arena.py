"""The protocol of LowRankArena, against literal counts with a tokenizer of one token a byte."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import struct
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.conftest import byte_tokenizer, make_model
from tokenizers.processors import TemplateProcessing

import eckart
from eckart.data.calibration import Calibration
from eckart.errors import EckartError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DOCUMENTS = ["abc", "", "de", "  \n", "fghij", "never read"]


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("arena")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wikitext2.test.txt").write_text("One row.\nAnother row.\n", encoding="utf-8")
    lines = [json.dumps({"text": text}) for text in DOCUMENTS]
    (folder / "c4.eval.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("wikitext2.train-head.txt",):
        (folder / name).write_text("\n".join(f"{i} squared is {i * i}." for i in range(100)), encoding="utf-8")
    return folder


def with_bos() -> object:
    """Return the tokenizer of bytes, which puts token 7 in front of a text unless it is told not to."""
    tokenizer = byte_tokenizer()
    bos = tokenizer.convert_ids_to_tokens(7)
    processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 7)])
    tokenizer._tokenizer.post_processor = processor
    assert tokenizer("a")["input_ids"][0] == 7
    return tokenizer


def text_of(ids: torch.Tensor) -> str:
    decoded: str = byte_tokenizer().decode(ids)
    return decoded


def test_tokens_by_hand(arena: ModuleType) -> None:
    tokenizer = with_bos()
    assert text_of(arena.ids_of_text("row\n\nrow", tokenizer)) == "row\n\nrow"
    for most, expected in ((100, "abc\n\nde\n\nfghij\n\nnever read"), (9, "abc\n\nde\n\n"), (10, "abc\n\nde\n\nf")):
        ids = arena.ids_of_documents(DOCUMENTS, tokenizer, most)
        assert (ids.dtype, text_of(ids)) == (torch.int64, expected)

    def endless() -> object:
        while True:
            yield "abcd"

    assert len(arena.ids_of_documents(endless(), tokenizer)) == 262_144
    blocks = arena.blocks_of(torch.arange(23), 5)
    assert blocks.tolist() == torch.arange(20).reshape(4, 5).tolist()
    expected = hashlib.sha256(struct.pack("<20q", *range(20))).hexdigest()
    assert arena.hash_of_tokens(blocks) == expected
    with pytest.raises(EckartError, match="4 tokens; the protocol scores blocks of 5"):
        arena.blocks_of(torch.arange(4), 5)


def test_the_counts_of_the_protocol(arena: ModuleType) -> None:
    blocks = arena.blocks_of(torch.zeros(arena.C4_TOKENS, dtype=torch.int64))
    assert blocks.shape == (128, 2048)
    assert blocks.numel() - len(blocks) == 128 * 2047 == 262_016


def test_perplexity_is_over_all_predictions(arena: ModuleType) -> None:
    model = make_model("llama")
    blocks = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    total = 0.0
    with torch.no_grad():
        for block in blocks:
            probabilities = model(block[None]).logits[0].double().softmax(-1)
            total -= sum(math.log(probabilities[place, block[place + 1]]) for place in range(15))
    assert arena.log_perplexity(model, blocks) == pytest.approx(total / 45, rel=1e-5)
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(EckartError, match="NaN or infinite"):
        arena.log_perplexity(model, blocks)


def test_what_a_row_departs_from(arena: ModuleType) -> None:
    for recipe, expected in (
        ("svd-llm", []),
        ("io-svd", []),
        ("gptq", ["fewer than 16 bits"]),
        ("eora", ["fewer than 16 bits"]),
        ("aa-svd-remap", ["fewer than 16 bits", "recovery training"]),
        ("svd-llm-lora", ["recovery training"]),
        ("prehab", ["recovery training"]),
    ):
        assert arena.departures(eckart.RECIPES[recipe], 0.8, 0.7991) == expected
    assert arena.departures(None, 1.0, 1.0) == []
    assert arena.departures(eckart.RECIPES["svd"], 0.8, 0.7989) == ["share 0.7989 in place of 0.8"]


def test_rows_of_the_leaderboard(
    arena: ModuleType, data: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaderboard = importlib.import_module("leaderboard")

    class Small(arena.ArenaTexts):  # type: ignore[misc, name-defined]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, length=8, most=12)

    monkeypatch.setattr(leaderboard, "ArenaTexts", Small)
    output, calibration = tmp_path / "rows.jsonl", ["wikitext2.train-head.txt"]
    options = {"samples": 4, "length": 16, "device": "cpu", "calibration": calibration, "protocol": "arena"}
    leaderboard.main(model_folder, data, output, recipe=["svd-llm", "svd"], keep=[0.7], **options)
    rows = {row["recipe"]: row for row in map(json.loads, output.read_text().splitlines())}
    assert list(rows) == ["dense", "svd-llm", "svd"]
    for row in rows.values():
        assert set(row["log_perplexity"]) == {"arena:wikitext2", "arena:c4"}
        found = row["arena"]
        assert found["runner"] == "contiguous_ppl 1.0"
        assert found["scored_predictions"] == {"arena:wikitext2": 21, "arena:c4": 7}
        # A row of the data set ends in a newline of its own.
        assert found["token_sha256"]["arena:wikitext2"] == sha("One row.\n\n\nAnother row.\n")
        assert found["token_sha256"]["arena:c4"] == sha("abc\n\nde\n")
        assert (found["bos"], found["dtype"], found["lm_eval"], found["recovery"]) == (False, "float32", None, "none")
        assert (found["share_achieved"], found["share_asked"]) == (row["kept"], row["keep"])
    assert rows["dense"]["arena"]["calibration"] is rows["svd"]["arena"]["calibration"] is None
    assert rows["svd-llm"]["arena"]["calibration"]["tokens"] == 64
    assert len(rows["svd-llm"]["arena"]["calibration"]["sha256"]) == 64
    assert rows["svd"]["arena"]["weight_bytes"] < rows["dense"]["arena"]["weight_bytes"]
    dense = eckart.load_model(model_folder)
    assert rows["dense"]["arena"]["weight_bytes"] == sum(4 * p.numel() for p in dense.parameters())
    before = output.read_text()
    leaderboard.main(model_folder, data, output, recipe=["svd"], keep=[0.7], **options)
    assert output.read_text() == before
    with pytest.raises(Exception, match="eckart or arena"):
        leaderboard.main(model_folder, data, output, **{**options, "protocol": "other"})


def sha(text: str) -> str:
    ids = byte_tokenizer()(text)["input_ids"]
    return hashlib.sha256(struct.pack(f"<{len(ids)}q", *ids)).hexdigest()


def test_facts_name_what_trained(arena: ModuleType, data: Path) -> None:
    texts = arena.ArenaTexts(data, byte_tokenizer(), torch.device("cpu"), length=4, most=9)
    calibration = Calibration(torch.zeros(2, 3, dtype=torch.int64), "text", 5)
    recipe = eckart.RECIPES["aa-svd"]
    found = arena.facts(texts, make_model("llama"), recipe, 0.8, 0.8, calibration, True)
    assert found["recovery"] == "block"
    assert found["lm_eval"].endswith(" hf")
    assert (found["calibration"]["seed"], found["calibration"]["source"]) == (5, "text")
