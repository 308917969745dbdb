from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import factored
from tests.conftest import VOCABULARY

from eckart.errors import EckartError
from eckart.evaluate.caches import CacheKind
from eckart.evaluate.perplexity import perplexity
from eckart.evaluate.pieces import PieceReader

TEXT = torch.randint(1, VOCABULARY, (100,), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("piece", [1, 7, 19])
def test_pieces_say_what_the_whole_says(piece: int) -> None:
    model = factored()
    whole = perplexity(model, TEXT, length=20)
    assert (whole.cache, whole.piece, whole.cache_token_bytes) == (None, None, None)
    for kind in ("dense", "latent"):
        found = perplexity(model, TEXT, length=20, cache=CacheKind.parse(kind), piece=piece)
        assert found.log_perplexity == pytest.approx(whole.log_perplexity, rel=1e-5)
        assert found.piece == piece
        assert found.cache_token_bytes == (3 * 2 * 16 * 4 if kind == "dense" else pytest.approx(136, abs=1))


def test_what_is_lost_is_seen() -> None:
    model = factored()
    found = perplexity(model, TEXT, length=20, cache=CacheKind("latent", 3), piece=5)
    whole = perplexity(model, TEXT, length=20)
    assert found.log_perplexity != pytest.approx(whole.log_perplexity, rel=1e-5)


def test_errors() -> None:
    model = factored()
    with pytest.raises(EckartError, match="A piece has one token or more, found 0"):
        PieceReader(model, CacheKind("dense"), 0)
    with pytest.raises(EckartError, match="Windows of 20 tokens are one piece of 64, and nothing is read from a cache"):
        perplexity(model, TEXT, length=20, cache=CacheKind("dense"))
    reader = PieceReader(model, CacheKind("dense"), 4)
    with pytest.raises(EckartError, match="cannot read windows in pieces from a DynamicCache"):
        reader(model, torch.full((1, 8), VOCABULARY + 5))
