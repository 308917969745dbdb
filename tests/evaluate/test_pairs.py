from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.tiny import make, write_rows

from eckart.data.encoder import Encoder
from eckart.errors import EckartError
from eckart.evaluate import measure_pairs, rank_correlation, read_pairs
from eckart.evaluate.pairs import Pair, correlation_error
from eckart.evaluate.reading import read_item

PAIRS = [Pair("a", "b", 1.0), Pair("c d", "d", 0.5)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.tsv", "sentence1\tsentence2\tscore\na\tb\t1\nc d\td\t.5\n"),
        ("x.tsv", "a\tb\t1.0\n\nc d\td\t0.5\n"),
        ("x.csv", "score,text1,text2\n1,a,b\n0.5,c d,d\n"),
        ("x.jsonl", '{"text1": "a", "text2": "b", "label": 1}\n{"text1": "c d", "text2": "d", "label": 0.5}'),
    ],
)
def test_pairs_of_all_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_pairs(tmp_path / name) == PAIRS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n", r"line 1 has the columns .*expected sentence1, sentence2 and score"),
        ("a\tb\tmuch\nc\td\t1", r"line 1 has no two texts and a finite score"),
        ("a\tb\tnan\nc\td\t1", r"line 1 has no two texts and a finite score"),
        ("a\tb\t1\n", "has 1 pairs; expected two or more"),
    ],
)
def test_what_is_no_pair(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(EckartError, match=message):
        read_pairs(tmp_path / "x.tsv")


def test_the_correlation_of_ranks() -> None:
    assert rank_correlation([1, 2, 3], [0.1, 5, 700]) == pytest.approx(1)
    assert rank_correlation([3, 2, 1], [0.1, 5, 700]) == pytest.approx(-1)
    # By hand: ranks 1.5 1.5 3 against 1 2 3.
    assert rank_correlation([4, 4, 9], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    with pytest.raises(EckartError, match="equally alike"):
        rank_correlation([1, 1], [1, 2])
    with pytest.raises(EckartError, match="finite"):
        rank_correlation([1, float("nan")], [1, 2])


def test_the_error_is_the_spread_over_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        a = torch.randn(100, generator=generator)
        found.append(rank_correlation(a.tolist(), (a + torch.randn(100, generator=generator)).tolist()))
    mean = sum(found) / len(found)
    assert correlation_error(mean, 100) == pytest.approx(float(torch.tensor(found).std()), rel=0.15)


def test_cosines_of_a_model(tmp_path: Path) -> None:
    model, names = make("bert")
    encoder = Encoder.of(model, names, 32)
    texts = ["a", "some words", "others", "more of them", "x"]
    with torch.no_grad():
        vectors = [read_item(model, dict(names([text], return_tensors="pt"))).vectors[0] for text in texts]
    cosines = [float(torch.nn.functional.cosine_similarity(vectors[0], vector, dim=0)) for vector in vectors[1:]]
    rows = [{"text1": "a", "text2": text, "score": score} for text, score in zip(texts[1:], cosines, strict=True)]
    told: list[int] = []
    score = measure_pairs(
        model,
        encoder,
        read_pairs(write_rows(tmp_path / "x.jsonl", rows)),
        baseline=make("bert", seed=1)[0],
        on_item=lambda done, total: told.append(done),
    )
    assert score.value == pytest.approx(1)
    assert score.baseline is not None
    assert score.difference == pytest.approx(1 - score.baseline)
    assert (score.of, told) == ("4 pairs", [1, 2, 3, 4])
