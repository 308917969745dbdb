"""The tables of a model whose rows belong to tokens: its embedding, and a head over the same vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor, nn

from eckart.layers.embedding import QuantizedEmbedding, TiedHead
from eckart.layers.linear import bias_vector, is_linear
from eckart.layers.quantized import QuantizedLinear
from eckart.maths.quantization import QuantScheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIES = ("_tied_weights_keys", "all_tied_weights_keys")  # of a model of transformers: which tensor is another one


@dataclass(frozen=True)
class Vocabulary:
    """Where they are.

    Attributes:
        embedding: path of the embedding.
        head: path of the head; None if there is none that gives one number for each token of the embedding.
        tied: whether the head has the embedding's weight.
        shape: (tokens, width).
    """

    embedding: str
    head: str | None
    tied: bool
    shape: tuple[int, int]

    @property
    def tables(self) -> int:
        """How many matrices of that shape are stored."""
        return 2 if self.head is not None and not self.tied else 1

    @property
    def parameters(self) -> int:
        """Numbers in all of them."""
        return self.tables * self.shape[0] * self.shape[1]

    def without(self, paths: set[str]) -> Vocabulary:
        """Return the tables without a head that is among some linears."""
        return replace(self, head=None) if self.head in paths else self

    @property
    def paths(self) -> list[str]:
        """Of the modules that hold a matrix."""
        return [self.embedding, self.head] if self.head is not None and not self.tied else [self.embedding]


def find_vocabulary(model: PreTrainedModel) -> Vocabulary | None:
    """Return the tables of a model, or None if it has none, or one that something else than a head shares."""
    try:
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    if not isinstance(embedding, nn.Embedding) or embedding.max_norm is not None or embedding.weight.ndim != 2:
        return None
    places = {id(module): name for name, module in model.named_modules()}
    path = places.get(id(embedding))
    if path is None:
        return None
    if head is None or not is_linear(head) or head.weight.shape != embedding.weight.shape:
        head = None
    place = None if head is None else places.get(id(head))
    sharing = _sharing(model, path, embedding.weight)
    tied = place in sharing
    if sharing - {place}:
        return None
    shape = embedding.weight.shape
    return Vocabulary(path, place, tied, (shape[0], shape[1]))


def _sharing(model: PreTrainedModel, path: str, weight: Tensor) -> set[str | None]:
    """Return the paths of the other modules that have the weight of an embedding."""
    found: set[str | None] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter is weight and name != f"{path}.weight":
            found.add(name.rpartition(".")[0])
    # Of a model without its numbers it is not seen yet which of them are one.
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        ends = {target, source}
        if f"{path}.weight" in ends and weight.is_meta:
            found |= {name.rpartition(".")[0] for name in ends - {f"{path}.weight"}}
    return found


def place_tables(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    scheme: QuantScheme,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> list[QuantizedLinear]:
    """Put tables of codes into a model, and return them in the order of :attr:`Vocabulary.paths`; their codes are zero.

    Args:
        model: is changed.
        vocabulary: of it.
        scheme: of the codes.
        device: of the tables; by default that of the embedding.
        dtype: of their scales; by default that of the embedding.
    """
    embedding = model.get_submodule(vocabulary.embedding)
    assert isinstance(embedding, nn.Embedding)
    placed = QuantizedEmbedding.empty_like(embedding, scheme, device=device, dtype=dtype)
    tables: list[QuantizedLinear] = [placed.table]
    model.set_submodule(vocabulary.embedding, placed)
    if vocabulary.head is not None:
        head = model.get_submodule(vocabulary.head)
        if vocabulary.tied:
            bias = bias_vector(head)
            assert bias is None or isinstance(bias, nn.Parameter)
            model.set_submodule(vocabulary.head, TiedHead(placed, bias, type(head)))
        else:
            tokens, width = vocabulary.shape
            own = QuantizedLinear(
                width,
                tokens,
                scheme,
                bias=False,
                replaced=type(head),
                device=device or head.weight.device,
                dtype=dtype or head.weight.dtype,
            )
            # The same object as before: who knows where it is stored knows it by that.
            own.bias = head.bias
            tables.append(own)
            model.set_submodule(vocabulary.head, own)
    _untie(model, f"{vocabulary.embedding}.weight")
    return tables


def _untie(model: PreTrainedModel, name: str) -> None:
    """Make transformers tie nothing to a parameter that is no longer there: a head looks at the table by itself."""
    for path, part in model.named_modules():
        if isinstance(part, transformers.PreTrainedModel) and (not path or name.startswith(f"{path}.")):
            own = name.removeprefix(f"{path}.") if path else name
            for keys in TIES:
                known = getattr(part, keys, None)
                if isinstance(known, dict):
                    setattr(part, keys, {target: at for target, at in known.items() if own not in (target, at)})


@contextmanager
def original_tables(model: PreTrainedModel, vocabulary: Vocabulary) -> Iterator[None]:
    """Give the model the tables back at the end that it has at the beginning."""
    paths = [path for path in (vocabulary.embedding, vocabulary.head) if path is not None]
    modules = {path: model.get_submodule(path) for path in paths}
    parts = [part for part in model.modules() if isinstance(part, transformers.PreTrainedModel)]
    ties = [(part, {keys: vars(part)[keys] for keys in TIES if keys in vars(part)}) for part in parts]
    try:
        yield
    finally:
        for path, module in modules.items():
            model.set_submodule(path, module)
        for part, known in ties:
            for keys in TIES:
                vars(part).pop(keys, None)
            vars(part).update(known)


def take_tables_back(model: PreTrainedModel) -> None:
    """Give a model dense tables in the place of those of codes, tied where they were."""
    for path, module in list(model.named_modules()):
        if not isinstance(module, QuantizedEmbedding):
            continue
        dense = module.to_dense()
        model.set_submodule(path, dense)
        for name, head in list(model.named_modules()):
            if isinstance(head, TiedHead) and head.embedding is module:
                linear = head.to_dense()
                linear.weight = dense.weight
                model.set_submodule(name, linear)
                known = getattr(model, "all_tied_weights_keys", None) or {}
                model.all_tied_weights_keys = {**known, f"{name}.weight": f"{path}.weight"}
        vars(model).pop("_tied_weights_keys", None)
