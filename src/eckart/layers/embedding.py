"""The embedding of a vocabulary, and a head that shares its weight, with a few bits for each number."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eckart.layers.linear import dense_like
from eckart.layers.quantized import QuantizedLinear
from eckart.maths.packing import unpack
from eckart.maths.quantization import QuantScheme, find_scales, from_codes, round_to_scheme

ROWS_AT_ONCE = 8192  # that are rounded at once; a vocabulary has up to some hundred thousand


class EmbeddingTable(QuantizedLinear):
    """The rows of an embedding: gives those of some tokens, or multiplies with all of them as a head does.

    Both by being called, so that whoever moves a module's tensors when it is called moves them here, too.
    """

    def forward(self, inputs: Tensor, rows: slice | None = None) -> Tensor:
        """Map tokens, (...) of whole numbers, to (..., width), or states, (..., width), to (..., tokens)."""
        if inputs.is_floating_point():
            return super().forward(inputs, rows)
        tokens = inputs.flatten()
        codes = unpack(self.codes[tokens], self.scheme.bits, self.in_features)
        found = from_codes(codes, self.scales(tokens), self.scheme)
        return found.view(*inputs.shape, self.in_features)


class QuantizedEmbedding(nn.Module):
    """Gives the rows of a table of codes, each row with scales of its own.

    What a class of embedding does with its rows, such as scaling them, it still does.

    Attributes:
        table: the rows, as the weight of a linear layer, (tokens, width), which is that of a tied head.
        lookup: the embedding that this one stands for, without its weight.
        num_embeddings: tokens.
        embedding_dim: width.
        padding_idx: of the replaced one; it says which row has no gradient, and no row here has one.
    """

    def __init__(self, table: EmbeddingTable, lookup: nn.Embedding) -> None:
        super().__init__()
        self.table, self.lookup = table, lookup
        self.num_embeddings, self.embedding_dim = table.out_features, table.in_features
        self.padding_idx, lookup.padding_idx = lookup.padding_idx, None  # which a table of no rows has no place for

    @classmethod
    def empty_like(
        cls,
        embedding: nn.Embedding,
        scheme: QuantScheme,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> QuantizedEmbedding:
        """Return one in the place of ``embedding``, which stays as it is; its numbers are not yet set.

        Args:
            embedding: gives the shape.
            scheme: of the codes.
            device: of the tensors; by default that of the embedding.
            dtype: of the scales, and so of what is given for tokens; by default that of the embedding.
        """
        tokens, width = embedding.weight.shape
        device, dtype = device or embedding.weight.device, dtype or embedding.weight.dtype
        table = EmbeddingTable(width, tokens, scheme, bias=False, device=device, dtype=dtype)
        lookup = _double(embedding)
        del lookup._parameters["weight"]
        # Classes of transformers set the weight of each embedding that they find to something: here to nothing.
        lookup.register_buffer("weight", torch.empty(0, width, device=device, dtype=dtype), persistent=False)
        return cls(table, lookup)

    @property
    def weight(self) -> Tensor:
        """All rows, (tokens, width): a new tensor, of which writing to it changes nothing."""
        return self.table.weight

    def forward(self, input: Tensor) -> Tensor:
        """Map tokens, (...), to what the replaced embedding gives for them, (..., width)."""
        if type(self.lookup) is nn.Embedding:
            return cast(Tensor, self.table(input))
        rows = self.table(input.flatten())
        places = torch.arange(rows.shape[0], device=input.device).view(input.shape)
        return cast(Tensor, functional_call(self.lookup, {"weight": rows}, (places,)))

    def to_dense(self) -> nn.Embedding:
        """Return an embedding of the replaced class with those rows."""
        dense = _double(self.lookup)
        del dense.weight
        dense.padding_idx = self.padding_idx
        dense.weight = nn.Parameter(self.weight.detach())
        return dense

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


class TiedHead(nn.Module):
    """A linear layer whose weight is the table of an embedding, and is stored there.

    Attributes:
        bias: (tokens,), or None.
        replaced: class of the layer that this one stands for.
    """

    bias: nn.Parameter | None

    def __init__(self, embedding: QuantizedEmbedding, bias: nn.Parameter | None, replaced: type[nn.Module]) -> None:
        super().__init__()
        # Not as a child: its tensors would be there twice.
        vars(self)["_embedding"] = embedding
        self.register_parameter("bias", bias)
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings
        self.replaced = replaced

    @property
    def embedding(self) -> QuantizedEmbedding:
        """The embedding whose table it is; of a copy of the model that of the copy."""
        return cast(QuantizedEmbedding, vars(self)["_embedding"])

    @property
    def weight(self) -> Tensor:
        """The numbers that it multiplies with, (tokens, width): a new tensor."""
        return self.embedding.weight

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., width) to (..., tokens)."""
        outputs = cast(Tensor, self.embedding.table(input))
        return outputs if self.bias is None else outputs + self.bias

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class with those numbers."""
        return dense_like(self.replaced, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _double(module: nn.Embedding) -> nn.Embedding:
    """Return a module with the same tensors, of which others may take their places without a change of the first."""
    double = copy.copy(module)
    double._parameters, double._buffers = dict(module._parameters), dict(module._buffers)
    double._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    # Whoever hooked into the first one may have left it a forward of its own, which is that of the first.
    vars(double).pop("forward", None)
    return double


def fill_table(
    table: QuantizedLinear, weight: Tensor, second_moment: Tensor | None = None, stored: torch.dtype | None = None
) -> None:
    """Set the codes and scales of rows, some thousand rows at a time.

    Args:
        table: is changed in place.
        weight: (tokens, width).
        second_moment: of what the rows are multiplied with in a head, (width, width) float64: the numbers of a row
            then make up for one another. None to round each to what is nearest.
        stored: dtype in which scales will be stored; by default that of the table.
    """
    from eckart.maths.feedback import round_with_feedback, spread_of

    second_moment = None if second_moment is None else second_moment.to(weight.device)
    spread = None if second_moment is None else spread_of(second_moment)
    importance = None if second_moment is None else second_moment.diagonal()
    scheme, codes, scales = table.scheme, [], []
    # Numbers of 16 bits are exact in float32, in which rounding with feedback takes two thirds of the time.
    exact = torch.float32 if weight.element_size() == 2 else torch.float64
    spread = None if spread is None else spread.to(exact)
    with torch.no_grad():
        for start in range(0, len(weight), ROWS_AT_ONCE):
            rows = weight[start : start + ROWS_AT_ONCE].to(exact)
            found = find_scales(rows, scheme, importance, stored or table.scale_parameter.dtype)
            nearest = spread is None
            codes.append(
                round_to_scheme(rows, found, scheme) if nearest else round_with_feedback(rows, found, scheme, spread)
            )
            scales.append(found)
        table.set_scales(torch.cat(scales))
        table.set_codes(torch.cat(codes))
