"""Finds the blocks of a model and the groups of linears in them, by structure and one probe run.

No architecture is named.

A block is an item of a list of modules that hold linear layers, if the probe calls it, exactly once. Blocks are in the
order in which they are called, whatever lists they are in: of a vision tower and of the language model behind it, of an
encoder and a decoder. Where blocks of a list cannot be run alone (they are called again and again, or hand on more than
hidden states), the part of the model around that list is one block in their place.

A group is the linears of a block that are handed the same tensor, in order of execution.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from eckart.blocks.block import Block, Group, LinearRef, Why, attributes_kept, hooks
from eckart.blocks.block_arguments import BlockArguments, Inputs, body_of, failures_named, inputs_on
from eckart.blocks.causal import is_causal
from eckart.blocks.experts import with_experts
from eckart.blocks.families import families
from eckart.blocks.finite import check_finite
from eckart.blocks.fused_runs import with_runs
from eckart.blocks.hidden_units import HiddenUnits, find_hidden_units
from eckart.blocks.lone_linear import LoneLinear
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.blocks.pairs import Pair, find_pairs
from eckart.blocks.probe import probe_inputs
from eckart.blocks.residual import check_residuals, residual_places
from eckart.blocks.routers import routers
from eckart.blocks.separable import inseparable, tapped_blocks
from eckart.blocks.shared_weights import linears_in_plain_lists, shared_linears
from eckart.blocks.siblings import Names, routed_groups, with_siblings
from eckart.blocks.towers import tower_of
from eckart.blocks.trace import Trace, TracedCall, trace
from eckart.data.context import token_embedding
from eckart.errors import UnsupportedModelError
from eckart.layers import bias_vector, input_of, is_linear, is_replaced, weight_matrix
from eckart.layers.fused import runs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU = torch.device("cpu")


def block_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Return the path of each list of modules that have linears inside and of no such list in one, and the list."""
    found: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        # Nor is a list of lists: those are not called, but what is in them. Nor one with gaps.
        if not isinstance(module, nn.ModuleList) or inside or not all(map(_may_be_block, module._modules.values())):
            continue
        # A list of bare linears is no list of blocks.
        children = (child for block in module for child in block.modules() if child is not block)
        if any(is_linear(child) or is_replaced(child) for child in children):
            found.append((path, module))
    return found


def _may_be_block(module: nn.Module | None) -> bool:
    return module is not None and not isinstance(module, nn.ModuleList)


def find_blocks(
    model: PreTrainedModel,
    weights: WeightSource | None = None,
    inputs: Inputs | None = None,
    *,
    residuals: bool = False,
    units: bool = False,
    pairs: bool = False,
    gradients: bool = False,
    outside: Callable[[str], bool] = lambda path: False,
) -> list[Block]:
    """Return the blocks of a model with their groups, in the order in which they are called, by a probe on the CPU.

    Each weight that the probe reaches is looked at once on the way. Blocks and linears that it does not reach are left
    out.

    Args:
        model: to look into.
        weights: where its tensors are; in memory by default.
        inputs: of the probe, a small batch; by default made up from the model's configuration.
        residuals: whether to find the residual streams that outputs of linears are added to, too.
        units: whether to find the hidden units between linears, too.
        pairs: whether to find the pairs of linears between which a width can shrink, too.
        gradients: whether to leave out the linears that the model runs without gradients.
        outside: whether a linear that is in no list of blocks, such as a projector or the head, is to be found too.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: no blocks, or no residual streams, or a model that fails on these inputs.
    """
    probe = _Probe(
        model,
        weights or ResidentWeights(),
        inputs or probe_inputs(model),
        residuals=residuals,
        units=units,
        pairs=pairs,
        gradients=gradients,
        outside=outside,
    )
    if not any(is_linear(module) or is_replaced(module) for module in model.modules()):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no linear layers that can be factored; its modules are: "
            f"{', '.join(sorted({type(module).__name__ for module in model.modules()}))}."
        )
    candidates = {f"{path}.{n}": block for path, blocks in block_lists(model) for n, block in enumerate(blocks)}
    candidates |= linears_outside(model, candidates, outside)
    candidates = candidates or {_path_of(model, body_of(model, probe.inputs)): body_of(model, probe.inputs)}
    while True:
        blocks, problem = probe.run(candidates)
        if problem is None:
            break
        candidates = _widened(model, candidates, problem, probe.counts)
    if residuals:
        check_residuals((ref.residual for block in blocks for ref in block.linears), model)
    return blocks


def linears_outside(model: nn.Module, blocks: Collection[str], wanted: Callable[[str], bool]) -> dict[str, nn.Module]:
    """Return linears that are in none of the blocks, by path.

    Args:
        model: to look into.
        blocks: paths of blocks.
        wanted: whether a linear is to be returned.
    """
    return {
        path: module
        for path, module in model.named_modules()
        if is_linear(module) and not any(path.startswith(f"{block}.") for block in blocks) and wanted(path)
    }


def _widened(
    model: nn.Module, candidates: Mapping[str, nn.Module], problem: str, counts: Mapping[str, int]
) -> dict[str, nn.Module]:
    """Return other blocks: the part of the model around one that cannot be run alone, in the place of all inside it."""
    outer = problem
    while outer:
        outer = outer.rpartition(".")[0]
        # A list is not called; nor is what stands for several models at once.
        if counts.get(outer, 0) == 1:
            break
    if not problem:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be run in parts. It cannot be compressed yet.")
    inside = f"{outer}." if outer else ""
    others = {path: module for path, module in candidates.items() if not path.startswith(inside)}
    return {**others, outer: model.get_submodule(outer)}


@dataclass
class _Probe:
    """Runs the model with some of its modules as blocks."""

    model: PreTrainedModel
    weights: WeightSource
    inputs: Inputs
    residuals: bool
    units: bool
    pairs: bool
    gradients: bool
    outside: Callable[[str], bool]

    def __post_init__(self) -> None:
        self.counts: Mapping[str, int] = {}
        self.groups: dict[str, tuple[tuple[Group, ...], tuple[HiddenUnits, ...], dict[str, Why]]] = {}
        self.found: dict[str, tuple[Pair, ...]] = {}
        self.causal: set[str] = set()

    def run(self, candidates: Mapping[str, nn.Module]) -> tuple[list[Block], str | None]:
        """Return the blocks, or the path of one that cannot be run alone."""
        self.groups.clear()
        head = self.model.get_output_embeddings()
        body = body_of(self.model, self.inputs, candidates)
        for path, module in candidates.items():
            if any(map(is_replaced, module.modules())):
                raise UnsupportedModelError(
                    f"{path} is already compressed. Start from the original model, or multiply the factors back "
                    "with `eckart merge`."
                )
        skip = (*candidates.values(), None if body is self.model else head)
        with self.weights.onload(self.model, CPU, skip=skip):
            check_finite(self.model, skip=skip)
            inputs = inputs_on(CPU, self.inputs, _float_dtype(self.model))
            with failures_named(self.model, inputs):
                traced = trace(body, candidates, inputs, self._around, self._look)
                self.counts = traced.counts
                if body is not self.model:
                    self.counts = {**_prefixed(traced.counts, _path_of(self.model, body))}
                problem = inseparable(traced, self.groups)
                if problem is not None:
                    return [], problem
                blocks = [self._block(call) for call in traced.calls]
                tapped, problem = tapped_blocks(self.model, blocks, traced, inputs, self._around)
        if problem is not None:
            return [], problem
        if head is not None and body is not self.model and not _is_tied(head, self.model):
            with self.weights.onload(head, CPU):
                check_finite(head, _path_of(self.model, head))
        return [replace(block, tapped=number in tapped) for number, block in enumerate(blocks)], None

    def _block(self, call: TracedCall) -> Block:
        groups, units, left = self.groups[call.path]
        return Block(
            call.path,
            self._module(call),
            groups,
            units,
            call.arguments.site,
            enters=call.enters,
            hands_more=call.hands_more,
            fixed=call.made_of if call.hands_more else frozenset(),
            tower=tower_of(self.model, call.path),
            rows=call.rows,
            width=call.behind.shape[-1],
            causal=call.path in self.causal,
            left=left,
            pairs=self.found.get(call.path, ()),
        )

    @contextmanager
    def _around(self, module: nn.Module, path: str) -> Iterator[None]:
        with self.weights.onload(module, CPU):
            if path not in self.groups:
                check_finite(module, path)
            yield

    def _module(self, call: TracedCall) -> nn.Module:
        """Return what a block is run as."""
        if not is_linear(call.module):
            return call.module
        owner, _, name = call.path.rpartition(".")
        return LoneLinear(self.model.get_submodule(owner), name)

    def _look(self, call: TracedCall) -> None:
        if call.path in self.groups:  # it is called again, and will be no block
            return
        with attributes_kept(call.module):
            self._look_into(self._module(call), call)

    def _left_in(self, module: nn.Module, call: TracedCall) -> dict[str, Why]:
        """Return the linears in a block that stay, whatever they are handed."""
        left = dict.fromkeys(shared_linears(self.model, module), Why.SHARED)
        left |= dict.fromkeys(linears_in_plain_lists(module), Why.HELD)
        head = self.model.get_output_embeddings()
        for name, part in module.named_modules() if head is not None and module is call.module else ():
            inside = ".".join(filter(None, (call.path, name)))
            if part is head and not self.outside(inside):
                left[name] = Why.HEAD
        return left

    def _look_into(self, module: nn.Module, call: TracedCall) -> None:
        arguments, hidden = call.arguments, call.front
        places = residual_places(module, arguments, hidden) if self.residuals and module is call.module else {}
        outer = call.path if module is call.module else call.path.rpartition(".")[0]
        left = self._left_in(module, call)
        groups = _find_groups(module, outer, arguments, hidden, places, left, gradients=self.gradients)
        groups = tuple(group for group in groups if left.keys().isdisjoint(ref.name for ref in group.linears))
        names = [[ref.name for ref in group.linears] for group in groups if group.runs_once]
        found = find_hidden_units(module, arguments, hidden, names) if self.units else ()
        self.groups[call.path] = groups, found, left
        if self.pairs and module is call.module:
            alone = [[ref.name for ref in group.linears] for group in groups if group.runs_once and not group.routed]
            self.found[call.path] = find_pairs(module, arguments, hidden, alone)
        if call.enters and is_causal(module, arguments, hidden, self.model):
            self.causal.add(call.path)


def trace_probe(
    model: PreTrainedModel,
    weights: WeightSource,
    inputs: Inputs,
    blocks: Mapping[str, nn.Module],
    look: Callable[[TracedCall], None],
) -> Trace:
    """Run a model once on the CPU, block by block.

    Args:
        model: to run, without its head over the vocabulary where that can be.
        weights: where its tensors are.
        inputs: of it.
        blocks: that are onloaded one at a time, by path.
        look: is told of each call of a block.
    """
    head = model.get_output_embeddings()
    body = body_of(model, inputs, blocks)
    skip = (*blocks.values(), None if body is model else head)

    def around(module: nn.Module, path: str) -> AbstractContextManager[object]:
        return weights.onload(module, CPU)

    with weights.onload(model, CPU, skip=skip), failures_named(model, inputs):
        return trace(body, blocks, inputs_on(CPU, inputs, _float_dtype(model)), around, look)


def _float_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point() and not p.is_meta), torch.float32)


def _prefixed(counts: Mapping[str, int], path: str) -> dict[str, int]:
    return {".".join(filter(None, (path, name))): count for name, count in counts.items()}


def _is_tied(head: nn.Module, model: PreTrainedModel) -> bool:
    embedding = token_embedding(model)
    known = set() if embedding is None else {id(p) for p in embedding.parameters()}
    return {id(p) for p in head.parameters()} <= known


def _path_of(model: nn.Module, module: nn.Module) -> str:
    paths: dict[int, str] = {id(known): path for path, known in model.named_modules()}
    return paths[id(module)]


def _find_groups(
    module: nn.Module,
    path: str,
    call: BlockArguments,
    hidden: Tensor,
    places: Mapping[str, str],
    left: dict[str, Why],
    *,
    gradients: bool,
) -> tuple[Group, ...]:
    """Return the groups of a block, and add to ``left`` which linears are run and are to stay as they are."""
    inputs: dict[str, Tensor] = {}  # kept alive, so that an address belongs to one tensor
    counts: dict[str, int] = {}
    with_gradient: set[str] = set()  # in one of its runs at least: a loop may give gradients to its last round only

    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
            counts[name] = counts.get(name, 0) + 1
            inputs.setdefault(name, input_of(args, kwargs))
            if output.requires_grad:
                with_gradient.add(name)

        return hook

    leaf = hidden.detach().requires_grad_(gradients)
    # Gradients come in through what the block is handed, too, whether or not weights ask for theirs.
    call = call.differentiable()[0] if gradients else call
    with hooks() as handles, torch.set_grad_enabled(gradients):
        for name, child in module.named_modules():
            if is_linear(child):
                handles.append(child.register_forward_hook(remember(name), with_kwargs=True))
        # A copy, since a block may write into what it is given, which a leaf forbids.
        call(module, leaf.clone())
    if gradients:
        left |= dict.fromkeys(inputs.keys() - with_gradient, Why.NO_GRADIENTS)
    left |= dict.fromkeys(routers(module, call, hidden), Why.CHOOSES)
    for name in left:
        inputs.pop(name, None)
    members: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in inputs.items():  # in order of execution
        members.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)

    def ref(name: str) -> LinearRef:
        linear = module.get_submodule(name)
        out_features, in_features = weight_matrix(linear).shape
        has_bias = bias_vector(linear) is not None
        inside = f"{path}.{name}" if path else name
        runs = runs_of(module, name)
        return LinearRef(name, inside, out_features, in_features, has_bias, places.get(name), runs)

    rows = {tuple(names): inputs[names[0]].shape[:-1].numel() for names in members.values()}
    routed = routed_groups(module, rows, hidden.shape[:-1].numel())

    def group(names: Names, alike: Names, stage: str | None) -> Group:
        linears = tuple(map(ref, names))
        chosen = names != alike or stage is not None or alike in routed or linears[0].runs > 1
        return Group(linears, all(counts[name] == 1 for name in alike), chosen, stage)

    found = with_siblings(module, list(rows))
    groups = {names: group(names, alike, stage) for names, alike, stage in found}
    reached = [names for names, alike, _ in found if names == alike and groups[names].routed]
    family = families(module, call, hidden, reached)
    described = [replace(groups[names], family=family.get(alike)) for names, alike, _ in found]
    return with_runs(module, described, lambda apart: with_experts(module, call, hidden, apart))


def vocabulary_of(model: PreTrainedModel) -> int | None:
    """Return how many token ids a model knows; None if it takes none."""
    embedding = token_embedding(model)
    return None if embedding is None else cast(int, embedding.num_embeddings)
