"""Finds the tensors in which blocks hold many matrices, such as fused experts, and makes linear layers of them.

No class and no name is looked at. A probe run of a block is watched: a parameter of which products take one matrix
after another is a stack. With linear layers in its place the block must give the same.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eckart.blocks.block_arguments import BlockArguments, Inputs, replaced_forwards
from eckart.blocks.discovery import block_lists, trace_probe
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.blocks.probe import probe_inputs
from eckart.blocks.shared_weights import shared_parameters
from eckart.blocks.trace import TracedCall
from eckart.layers import is_linear
from eckart.layers.linear_stack import (
    LinearStack,
    StackLayout,
    contract_parameter,
    expand_parameter,
    linear_stacks,
    owner_of,
    part_of,
)
from eckart.layers.stack_operand import FUNCTIONS as PRODUCTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUNDING = 8  # steps of the dtype by which a block may give something else


def expand(model: PreTrainedModel, weights: WeightSource, inputs: Inputs | None = None) -> None:
    """Put linear layers in the place of the stacks of matrices in the blocks of a model.

    Args:
        model: is changed in place; one without stacks is not even run.
        weights: where its tensors are; learns where those of the layers are.
        inputs: of the probe; by default made up from the model's configuration.

    Raises:
        UnsupportedModelError: the model cannot be run on these inputs.
    """
    blocks = {f"{path}.{number}": block for path, listed in block_lists(model) for number, block in enumerate(listed)}
    if not any(map(_candidates, blocks.values())):
        return
    found: dict[str, dict[str, StackLayout]] = {}

    def look(call: TracedCall) -> None:
        if call.path not in found:
            found[call.path] = find_stacks(call.module, call.arguments, call.front)

    trace_probe(model, weights, inputs or probe_inputs(model), blocks, look)
    shared = shared_parameters(model)
    for path, layouts in found.items():
        for name, layout in layouts.items():
            if id(blocks[path].get_parameter(name)) not in shared:
                _expand(blocks[path], name, layout, weights)


def expanded(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model in memory with linear layers in the place of its stacks; the model itself without any.

    Raises:
        UnsupportedModelError: as for :func:`expand`.
    """
    if not any(map(_candidates, (block for _, blocks in block_lists(model) for block in blocks))):
        return model
    twin = copy.deepcopy(model)
    expand(twin, ResidentWeights())
    return twin if linear_stacks(twin) else model


def contract(model: nn.Module, weights: WeightSource) -> None:
    """Put the parameters back in the place of those stacks whose layers are all linear."""
    for path, stack in linear_stacks(model).items():
        if all(map(is_linear, stack.layers)):
            parts = [layer.get_parameter("weight") for layer in stack.layers]
            weights.join(contract_parameter(*owner_of(model, path)), parts, stack.layout)


def find_stacks(module: nn.Module, call: BlockArguments, hidden: Tensor) -> dict[str, StackLayout]:
    """Return the layout of each parameter of a block that linear layers can stand for, by its name.

    Args:
        module: the block, with its tensors; is left as it is.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).
    """
    candidates = _candidates(module)

    def run() -> Tensor:
        with torch.no_grad():
            return call(module, hidden.clone())  # it may be written to

    with _Watch(candidates) as watch:
        expected = run()
    if len(watch.layouts) < len(candidates):  # it may be a decorator's choice that copies the matrices
        with _undecorated(module, candidates), watch, suppress(Exception):  # a class may not run so
            run()
    found: dict[str, StackLayout] = {}
    for name, layout in watch.layouts.items():
        with _on_trial(module, {**found, name: layout}):
            if _gives(run, expected):
                found[name] = layout
    return found


def _candidates(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a block that may hold many matrices: those of no linear layer, by their names."""
    return {
        f"{path}.{leaf}" if path else leaf: parameter
        for path, part in module.named_modules()
        if not is_linear(part) and not isinstance(part, LinearStack | nn.Embedding)
        for leaf, parameter in part.named_parameters(recurse=False)
        if parameter.ndim in (2, 3) and parameter.is_floating_point()
    }


class _Watch(TorchFunctionMode):
    """Sees which parameters, one matrix after another, are the weights of products.

    Args:
        parameters: to watch, with their numbers, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._places = {name: (p.data_ptr(), p.nbytes, p) for name, p in parameters.items()}
        self._aliases: dict[int, str] = {}  # by address: copies of parts, and the parameter
        self._copies: list[Tensor] = []  # held, so that their addresses stay theirs
        self._seen: dict[str, set[StackLayout]] = {}

    @property
    def layouts(self) -> dict[str, StackLayout]:
        """How the matrices lie in each parameter that is used in one way."""
        return {name: next(iter(layouts)) for name, layouts in self._seen.items() if len(layouts) == 1}

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note a product, and run the function."""
        name = getattr(function, "__name__", "")
        if name in PRODUCTS and len(args) > 1 and isinstance(args[1], Tensor) and args[1].ndim > 1:
            self._note(args[1] if name == "linear" else args[1].mT)
        result = function(*args, **(kwargs or {}))
        if name == "float" and args:
            self._follow(args[0], result)
        return result

    def _follow(self, part: Tensor, copy: Tensor) -> None:
        """Take a copy of a part of a parameter, in another dtype, for that part."""
        names = [name for name, (start, size, _) in self._places.items() if start <= part.data_ptr() < start + size]
        if names and copy.data_ptr() != part.data_ptr():
            self._copies.append(copy)
            self._aliases[copy.data_ptr()] = names[0]

    def _note(self, weight: Tensor) -> None:
        """Note a weight, (out features, in features) or several of them."""
        alias = self._aliases.get(weight.data_ptr())
        for name, (start, size, parameter) in self._places.items():
            if name == alias or start <= weight.data_ptr() < start + size:
                number = parameter.numel() // math.prod(weight.shape[-2:])
                if parameter.ndim == 3 or number > 1:
                    self._seen.setdefault(name, set()).add(StackLayout(number, weight.stride(-1) != 1))


@contextmanager
def _undecorated(module: nn.Module, names: Mapping[str, Any]) -> Iterator[None]:
    """Let the modules that hold parameters run the forwards of their classes without decorators."""
    owners = [owner_of(module, name)[0] for name in names]
    plain = {id(owner): owner for owner in owners if hasattr(type(owner).forward, "__wrapped__")}
    modules = list(plain.values())
    with replaced_forwards(modules, lambda n, _: MethodType(inspect.unwrap(type(modules[n]).forward), modules[n])):
        yield


@contextmanager
def _on_trial(module: nn.Module, layouts: Mapping[str, StackLayout]) -> Iterator[None]:
    """Put linear layers, which share the numbers, in the place of parameters, and take them out again."""
    before: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
    try:
        for name, layout in layouts.items():
            part, leaf = owner_of(module, name)
            before.append((part, dict(part._parameters), dict(part._modules)))
            parameter = part.get_parameter(leaf)
            stack = expand_parameter(part, leaf, layout)
            for number, layer in enumerate(stack.layers):
                layer.weight = nn.Parameter(part_of(parameter.detach(), layout, number), requires_grad=False)
        yield
    finally:
        for part, parameters, modules in reversed(before):
            part._parameters, part._modules = parameters, modules


def _gives(run: Callable[[], Tensor], expected: Tensor) -> bool:
    """Return whether a run gives what is expected, to rounding."""
    try:
        found = run()
    except Exception:  # what a class raises that does something else with its parameter can be anything
        return False
    if found.shape != expected.shape:
        return False
    error, size = (found - expected).float().norm(), expected.float().norm()
    return bool(error <= ROUNDING * torch.finfo(expected.dtype).eps * size)


def _expand(module: nn.Module, name: str, layout: StackLayout, weights: WeightSource) -> None:
    part, leaf = owner_of(module, name)
    parameter = part.get_parameter(leaf)
    stack = expand_parameter(part, leaf, layout)
    weights.split(parameter, [layer.get_parameter("weight") for layer in stack.layers], layout)
