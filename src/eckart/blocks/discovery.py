"""Finds the blocks of a model and the groups of linears in them, by structure and one probe run.

No architecture is named.

A block is an item of the list of modules that holds linear layers and is nearest to the embedding of tokens. A group
is the linears of a block that are handed the same tensor, in order of execution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import BlockArguments, capture_arguments, check_hidden, failures_named
from eckart.blocks.finite import check_finite
from eckart.blocks.hidden_units import HiddenUnits, find_hidden_units
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.blocks.residual import check_residuals, residual_places
from eckart.blocks.routers import routers
from eckart.blocks.siblings import Names, with_siblings
from eckart.data.context import token_embedding
from eckart.errors import UnsupportedModelError
from eckart.layers import bias_vector, is_linear, is_replaced, weight_matrix

PROBE_TOKENS = 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LinearRef:
    """A linear layer to be factored.

    Attributes:
        name: inside its block, such as ``self_attn.q_proj``.
        path: inside the model, such as ``model.layers.3.self_attn.q_proj``.
        out_features: m.
        in_features: n.
        has_bias: whether it has one.
        residual: the place of the residual stream that its output is added to (see :mod:`eckart.blocks.residual`); None
            if there is none, or if nobody asked.
    """

    name: str
    path: str
    out_features: int
    in_features: int
    has_bias: bool = False
    residual: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out features, in features)."""
        return self.out_features, self.in_features

    @property
    def size(self) -> int:
        """Numbers in the dense weight."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class Group:
    """Linears that share an input.

    Attributes:
        linears: the first one is run first.
        runs_once: whether a forward pass calls it exactly once; if it is routed, at most once.
        routed: whether the model chooses which tokens it is handed.
        stage: the same for groups that do not depend on one another; None where nothing is known of that.
    """

    linears: tuple[LinearRef, ...]
    runs_once: bool
    routed: bool = False
    stage: str | None = None


@dataclass(frozen=True)
class Block:
    """One block of a model: its path, its module and its groups in order of execution.

    ``units``: between linears, that may be in any order (see :mod:`eckart.blocks.hidden_units`); empty if nobody asked.
    """

    path: str
    module: nn.Module
    groups: tuple[Group, ...]
    units: tuple[HiddenUnits, ...] = ()

    @property
    def linears(self) -> list[LinearRef]:
        """The linears of all groups, in order of execution."""
        return [ref for group in self.groups for ref in group.linears]


def find_block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the path and the list of the model's blocks: a list of modules that hold linears.

    Layers that stand for linear ones count like them. Lists inside another such list (the experts of a block) do not
    count. Of several, it is the one nearest to the embedding of tokens, since that of images or sound is in a part of
    its own; then one that no model inside keeps from that embedding; then the longest; then the one with more
    parameters.

    Raises:
        UnsupportedModelError: there is none.
    """
    found = block_lists(model)
    if not found:
        kinds = sorted({type(module).__name__ for module in model.modules()})
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of blocks with linear layers. "
            f"Expected a decoder built of nn.Linear layers; its modules are: {', '.join(kinds)}."
        )
    embedding = token_embedding(model)
    place = next((path for path, module in model.named_modules() if module is embedding), "").split(".")

    def shared_path(path: str) -> int:
        return len(list(takewhile(lambda parts: parts[0] == parts[1], zip(path.split("."), place, strict=False))))

    def is_beside(path: str) -> bool:
        outer = [m for name, m in model.named_modules() if isinstance(m, PreTrainedModel) and is_inside(path, name)]
        return bool(outer) and any(module is embedding for module in outer[-1].modules())

    def size(blocks: nn.ModuleList) -> int:
        return sum(parameter.numel() for parameter in blocks.parameters())

    return max(found, key=lambda item: (shared_path(item[0]), is_beside(item[0]), len(item[1]), size(item[1])))


def is_inside(path: str, outer: str) -> bool:
    """Return whether a path is below another; below the empty one all are."""
    return not outer or path.startswith(f"{outer}.")


def block_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Return the path of each list of modules that have linears inside and of no such list in one, and the list."""
    found: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        if not isinstance(module, nn.ModuleList) or inside:
            continue
        # A list of bare linears is no list of blocks.
        children = (child for block in module for child in block.modules() if child is not block)
        if any(is_linear(child) or is_replaced(child) for child in children):
            found.append((path, module))
    return found


def vocabulary_of(model: PreTrainedModel) -> int:
    """Return how many token ids a model knows.

    Raises:
        UnsupportedModelError: it takes no token ids.
    """
    embedding = token_embedding(model)
    if embedding is None:
        takes = model.main_input_name
        found = "" if takes == "input_ids" else f" (it takes {takes!r})"
        raise UnsupportedModelError(
            f"{type(model).__name__} has no embedding of token ids{found}. Only language models can be compressed yet."
        )
    return cast(int, embedding.num_embeddings)


def find_blocks(
    model: PreTrainedModel,
    weights: WeightSource | None = None,
    *,
    residuals: bool = False,
    units: bool = False,
    gradients: bool = False,
) -> list[Block]:
    """Return the blocks of a model with their groups, found by one short probe run of each block on the CPU.

    Each weight of the model is looked at once on the way. Linears that the probe does not reach are in no group and
    stay dense.

    Args:
        model: to look into.
        weights: where its tensors are; in memory by default.
        residuals: whether to find the residual streams that outputs of linears are added to, too.
        units: whether to find the hidden units between linears, too.
        gradients: whether to leave out the linears that the model runs without gradients.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: no blocks, a block or linear layer that is there twice, no residual streams, or a model
            that cannot be run on token ids alone.
    """
    path, modules = find_block_list(model)
    _check_one_stack(model, path)
    _check_distinct(path, modules)
    vocabulary = vocabulary_of(model)
    weights = weights or ResidentWeights()
    head = model.get_output_embeddings()
    outside = (*modules[1:], head)
    with weights.onload(model, CPU, skip=outside):
        check_finite(model, skip=outside)
        with failures_named(model):
            hidden, arguments = capture_arguments(model, modules, torch.arange(PROBE_TOKENS)[None] % vocabulary)
    if head is not None and not _is_tied(head, model):
        with weights.onload(head, CPU):
            check_finite(head, _path_of(model, head))
    blocks: list[Block] = []
    owners: dict[int, str] = {}
    for index, (module, call) in enumerate(zip(modules, arguments, strict=True)):
        block_path = f"{path}.{index}"
        if any(map(is_replaced, module.modules())):
            raise UnsupportedModelError(
                f"{block_path} is already compressed. Start from the original model, or multiply the factors back "
                "with `eckart merge`."
            )
        with weights.onload(module, CPU):
            check_finite(module, block_path)
            with failures_named(model):
                places = residual_places(module, call, hidden) if residuals else {}
                groups = _find_groups(module, block_path, call, hidden, places, gradients=gradients)
                names = [[ref.name for ref in group.linears] for group in groups if group.runs_once]
                found = find_hidden_units(module, call, hidden, names) if units else ()
        for ref in (ref for group in groups for ref in group.linears):
            owner = owners.setdefault(id(module.get_submodule(ref.name)), ref.path)
            if owner != ref.path:
                raise UnsupportedModelError(
                    f"{owner} and {ref.path} are one and the same layer; shared blocks cannot be compressed yet."
                )
        blocks.append(Block(block_path, module, groups, found))
    if residuals:
        check_residuals((ref.residual for block in blocks for ref in block.linears), model)
    return blocks


def _check_one_stack(model: PreTrainedModel, path: str) -> None:
    others = [other for other, _ in block_lists(model) if other != path]
    if getattr(model.config, "is_encoder_decoder", False) and others:
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder: it has blocks in {', '.join([path, *others])}. "
            "Only models of one stack can be compressed yet."
        )


def _check_distinct(path: str, modules: nn.ModuleList) -> None:
    owners: dict[int, int] = {}
    for index, module in enumerate(modules):
        owner = owners.setdefault(id(module), index)
        if owner != index:
            raise UnsupportedModelError(
                f"{path}.{owner} and {path}.{index} are one and the same block; shared blocks cannot be compressed yet."
            )


def _is_tied(head: nn.Module, model: PreTrainedModel) -> bool:
    return {id(p) for p in head.parameters()} <= {id(p) for p in model.get_input_embeddings().parameters()}


def _path_of(model: nn.Module, module: nn.Module) -> str:
    paths: dict[int, str] = {id(known): path for path, known in model.named_modules()}
    return paths[id(module)]


def _find_groups(
    module: nn.Module, path: str, call: BlockArguments, hidden: Tensor, places: Mapping[str, str], *, gradients: bool
) -> tuple[Group, ...]:
    inputs: dict[str, Tensor] = {}  # kept alive, so that an address belongs to one tensor
    counts: dict[str, int] = {}
    without_gradient: set[str] = set()

    def remember(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            counts[name] = counts.get(name, 0) + 1
            if args:  # what is handed over by name is seen by no hook
                inputs.setdefault(name, args[0])
            if gradients and not output.requires_grad:
                without_gradient.add(name)

        return hook

    leaf = hidden.detach().requires_grad_(gradients)
    with hooks() as handles, torch.set_grad_enabled(gradients):
        for name, child in module.named_modules():
            if is_linear(child):
                handles.append(child.register_forward_hook(remember(name)))
        # A copy, since a block may write into what it is given, which a leaf forbids.
        behind = call(module, leaf.clone())
    check_hidden(behind, hidden.shape[:2], f"{path} gives")
    for name in (*without_gradient, *routers(module, call, hidden)):
        inputs.pop(name, None)
    members: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in inputs.items():  # in order of execution
        members.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)

    def ref(name: str) -> LinearRef:
        linear = module.get_submodule(name)
        out_features, in_features = weight_matrix(linear).shape
        has_bias = bias_vector(linear) is not None
        return LinearRef(name, f"{path}.{name}", out_features, in_features, has_bias, places.get(name))

    tokens = hidden.shape[:2].numel()

    def group(names: Names, alike: Names, stage: str | None) -> Group:
        routed = names != alike or inputs[alike[0]].shape[:-1].numel() != tokens
        return Group(tuple(map(ref, names)), all(counts[name] == 1 for name in alike), routed, stage)

    return tuple(group(*found) for found in with_siblings(module, list(map(tuple, members.values()))))


@contextmanager
def hooks() -> Iterator[list[Any]]:
    """Give a list for the handles of hooks, and remove them all at the end."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
