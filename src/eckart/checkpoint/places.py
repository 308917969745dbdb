"""Puts layers into a model, whose weights are not there yet, where a config names their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from eckart.checkpoint.config import DAMAGED, RoundedEmbedding
from eckart.errors import CheckpointError
from eckart.layers import TiedHead, fuse_modules, is_linear, weight_matrix
from eckart.layers.linear_stack import StackLayout, expand_parameter, owner_of
from eckart.layers.vocabulary import Vocabulary, find_vocabulary, place_tables
from eckart.maths.quantization import QuantScheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OTHER_CLASS = "Load the model with the class that its 'architectures' names, or AutoModel."


def spellings(model: PreTrainedModel, path: str) -> tuple[str, str, str]:
    """Return a path, also with and without the prefix by which a head's class holds its base model."""
    prefix = f"{model.base_model_prefix}."
    return path, path.removeprefix(prefix), prefix + path


def linears_of(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers of a model by their names."""
    return {name: module for name, module in model.named_modules() if is_linear(module)}


def find_linear(model: PreTrainedModel, linears: Mapping[str, nn.Module], path: str) -> str:
    """Return the name in the model of the linear at ``path``."""
    for name in spellings(model, path):
        if name in linears:
            return name
    raise CheckpointError(
        f"config.json names the linear layer {path!r}, but {type(model).__name__} has none of that name. {OTHER_CLASS}"
    )


def join(model: PreTrainedModel, paths: list[str], runs: int) -> None:
    """Fuse linears to one, computed in so many runs."""
    try:
        fuse_modules(model, paths, runs)
    except ValueError as error:
        raise CheckpointError(f"config.json says that {', '.join(paths)} were fused, but {error}.") from error


def expand(model: PreTrainedModel, path: str, described: dict[str, Any]) -> None:
    """Put the linear layers that config.json describes in the place of a parameter."""
    layout = StackLayout(**described)
    for name in spellings(model, path):
        try:
            module, leaf = owner_of(model, name)
        except AttributeError:
            continue
        if leaf in module._parameters:
            try:
                expand_parameter(module, leaf, layout)
            except ValueError as error:
                raise CheckpointError(f"config.json says that {path} is expanded, but {error}. {DAMAGED}") from error
            return
    raise CheckpointError(
        f"config.json says that the parameter {path!r} is expanded, but {type(model).__name__} has none of that name. "
        f"{OTHER_CLASS}"
    )


def round_tables(model: PreTrainedModel, stored: RoundedEmbedding, scheme: QuantScheme | None) -> None:
    """Put tables of codes into a model whose weights are not there yet.

    Args:
        model: is changed.
        stored: what its config says of them.
        scheme: of the codes, as the precision there has it; None if it has none.

    Raises:
        CheckpointError: the model has no such embedding, or no such head.
    """
    modules = dict(model.named_modules())
    path = next((name for name in spellings(model, stored.path) if name in modules), None)
    embedding = None if path is None else modules[path]
    if scheme is None or path is None or not isinstance(embedding, nn.Embedding):
        raise CheckpointError(
            f"config.json says that the embedding {stored.path!r} is stored in few bits, but {type(model).__name__} "
            f"has no embedding of that name, or the precision has none. {OTHER_CLASS}"
        )
    # A class without a head leaves the one that is stored.
    head = None
    if stored.head is not None:
        head = next((name for name in spellings(model, stored.head) if name in modules), None)
    else:  # of a model without a head, in a class whose head has the embedding's weight
        known = find_vocabulary(model)
        head = known.head if known is not None and known.tied and known.embedding == path else None
    tied = stored.tied or stored.head is None
    shape = embedding.weight.shape
    if head is not None and (not is_linear(modules[head]) or weight_matrix(modules[head]).shape != shape):
        raise CheckpointError(
            f"config.json says that the head {stored.head!r} is stored in few bits, and {type(model).__name__} has "
            f"there no linear layer over {shape[0]} tokens of width {shape[1]}. {OTHER_CLASS}"
        )
    place_tables(model, Vocabulary(path, head, tied, (shape[0], shape[1])), scheme)


def check_codes_have_a_place(model: PreTrainedModel, stored: Iterable[str]) -> None:
    """Raise if files hold codes of a linear layer that the model has as a plain one, or that shares another's table.

    Args:
        model: with the layers that its config says.
        stored: names of the tensors in its files.

    Raises:
        CheckpointError: the config does not say what the files hold.
    """
    modules = dict(model.named_modules())
    for name in stored:
        path, _, leaf = name.rpartition(".")
        path = path.removesuffix(".table")  # of an embedding
        found = next((modules[other] for other in spellings(model, path) if other in modules), None)
        plain = found is not None and (is_linear(found) or isinstance(found, nn.Embedding))
        if leaf == "codes" and (isinstance(found, TiedHead) or plain):
            raise CheckpointError(
                f"The weight files hold {name}, and by config.json {path} is "
                f"{'the table of the embedding' if isinstance(found, TiedHead) else 'not in few bits'}. {DAMAGED}"
            )
