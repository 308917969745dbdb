from __future__ import annotations

from pathlib import Path

from small_models.decoder import QUICK, Settings, make_model, make_tokenizer, trained
from small_models.training import Schedule
from transformers import AutoModelForCausalLM, AutoTokenizer

TINY = Settings(Schedule(steps=60, batch=4, rate=5e-3), 32, 400, 32, 2, 64, 4)


def test_all_widths_are_multiples_of_256():
    model = make_model(Settings(), Settings().vocabulary)
    widths = {parameter.shape[1] for parameter in model.parameters() if parameter.ndim == 2}
    assert widths == {256, 768}
    assert 3e6 < sum(parameter.numel() for parameter in model.parameters()) < 6e6
    assert make_model(QUICK, QUICK.vocabulary).config.tie_word_embeddings


def test_a_tokenizer_gives_back_what_it_read_and_what_it_did_not():
    tokenizer = make_tokenizer("A line of plain text, and another one.\n\n" * 20, 400)
    for text in ("A line of plain\ntext", " 漢 é and a tab\t"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<unk>").input_ids[0] == tokenizer.unk_token_id == 0


def test_a_decoder_learns_in_seconds(text_file: Path, tmp_path: Path):
    folder = trained(TINY, f"{text_file}:raw", tmp_path / "cache")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Line 3 says that 3 squared is 9.\nLine 4 says that", return_tensors="pt")["input_ids"]
    assert model(input_ids=ids, labels=ids).loss < 4.5  # of a guess: 6
