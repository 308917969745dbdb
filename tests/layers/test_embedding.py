"""An embedding of codes against the one that it stands for, with the rounded rows."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from eckart.layers import QuantizedEmbedding, TiedHead, fill_table
from eckart.maths.quantization import QuantScheme

SCHEMES = [QuantScheme(8), QuantScheme(4, 8), QuantScheme(3, 8, scale_bits=8), QuantScheme(2, 8)]


def make(scheme: QuantScheme, embedding: nn.Embedding | None = None) -> tuple[nn.Embedding, QuantizedEmbedding]:
    torch.manual_seed(0)
    embedding = embedding or nn.Embedding(30, 16, padding_idx=3)
    layer = QuantizedEmbedding.empty_like(embedding, scheme)
    fill_table(layer.table, embedding.weight)
    return embedding, layer


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["plain", "scaled"])
def test_it_is_the_embedding_with_its_rounded_rows(scheme: QuantScheme, kind: str) -> None:
    scaled = Gemma3TextScaledWordEmbedding(30, 16, 0, embed_scale=7.0)
    embedding, layer = make(scheme, scaled if kind == "scaled" else None)
    before = embedding.weight.clone()
    dense = layer.to_dense()
    assert type(dense) is type(embedding)
    assert dense.padding_idx == embedding.padding_idx
    tokens = torch.randint(30, (2, 5, 3))
    assert torch.equal(layer(tokens), dense(tokens))
    assert torch.equal(layer.weight, dense.weight)
    assert layer(tokens[:0]).shape == (0, 5, 3, 16)
    most = {8: 0.01, 4: 0.1, 3: 0.2, 2: 0.5}[scheme.bits]
    assert (layer.weight - before).norm() < most * before.norm()
    assert torch.equal(embedding.weight, before)  # the replaced one stays as it is


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tied_head_multiplies_with_the_same_rows(scheme: QuantScheme) -> None:
    _, layer = make(scheme)
    for bias in (None, nn.Parameter(torch.randn(30))):
        head = TiedHead(layer, bias, nn.Linear)
        x = torch.randn(4, 16)
        dense = head.to_dense()
        torch.testing.assert_close(head(x), dense(x))
        assert torch.equal(head.weight, layer.weight)
        assert list(head.state_dict()) == ([] if bias is None else ["bias"])  # the table is stored once


def test_a_head_follows_its_embedding_into_copies() -> None:
    _, layer = make(QuantScheme(8))
    model = nn.ModuleDict({"embedding": layer, "head": TiedHead(layer, None, nn.Linear)})
    for double in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        head = double["head"]
        assert isinstance(head, TiedHead)
        assert head.embedding is double["embedding"]
        with torch.no_grad():
            double["embedding"].table.scale.zero_()
        assert not head(torch.randn(2, 16)).any()
    assert model["head"](torch.randn(2, 16)).any()


def test_rows_make_up_for_their_own_losses_where_a_head_multiplies_with_them() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(200, 16)
    x = torch.randn(500, 16) @ torch.randn(16, 16)
    moment = (x.T @ x).double()

    def loss(second_moment: torch.Tensor | None) -> float:
        layer = QuantizedEmbedding.empty_like(embedding, QuantScheme(3, 8))
        fill_table(layer.table, embedding.weight, second_moment)
        error = layer.weight - embedding.weight
        return float((x @ error.detach().T).square().sum())

    assert loss(moment) < 0.8 * loss(None)


def test_many_rows_are_rounded_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(30, 16)
    _, whole = make(QuantScheme(4, 8), embedding)
    monkeypatch.setattr("eckart.layers.embedding.ROWS_AT_ONCE", 7)
    _, parts = make(QuantScheme(4, 8), embedding)
    assert torch.equal(whole.weight, parts.weight)


def test_tables_that_are_elsewhere_come_when_they_are_called() -> None:
    """As accelerate moves them, by what it hooks into each module that holds tensors."""
    _, layer = make(QuantScheme(5, 8, scale_bits=8))
    model = nn.ModuleDict({"embedding": layer, "head": TiedHead(layer, None, nn.Linear)})
    tokens = torch.arange(12).view(3, 4)
    with torch.no_grad():
        rows = layer(tokens)
        expected = model["head"](rows)
        cpu_offload(model, offload_buffers=True)
        assert layer.table.codes.is_meta
        assert torch.equal(model["embedding"](tokens), rows)
        torch.testing.assert_close(model["head"](rows), expected)
