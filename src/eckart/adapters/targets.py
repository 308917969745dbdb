"""Which layers of a compressed model an adapter is put on: whole ones, and not what is inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from peft import LoraConfig, TaskType
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND, SEQ_CLS_HEAD_NAMES
from torch import nn
from transformers import PreTrainedModel

from eckart.adapters.place import whole_layers
from eckart.errors import AdapterError
from eckart.layers import EmbeddingTable, TiedHead
from eckart.layers.linear_stack import linear_stacks


def name_whole_layers(config: LoraConfig, model: nn.Module, matches: Callable[[LoraConfig, str], bool]) -> None:
    """Replace ``"all-linear"``, or a pattern that finds layers and layers inside them, by the names of whole layers.

    Args:
        config: is changed in place.
        model: compressed.
        matches: whether a config finds a path.
    """
    pattern = config.target_modules
    if not isinstance(pattern, str):
        return
    tuned = [path for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    whole = [path for path, _ in whole_layers(model) if not _inside(path, tuned)]
    if pattern.lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND:
        heads = _heads(config, model)
        tables = {path for path, module in model.named_modules() if isinstance(module, EmbeddingTable)}
        found = set(_maybe_include_all_linear_layers(config, model).target_modules) - tables
        config.target_modules = {
            path for path in found.union(whole) if path not in heads and not _inside(path, [*whole, *tuned])
        }
        return
    found = {path for path, _ in model.named_modules() if matches(config, path)}
    outer = {path for path in found if not _inside(path, found.intersection([*whole, *tuned]))}
    if outer != found:
        config.target_modules = outer


def check_saved_modules(config: LoraConfig, model: nn.Module) -> None:
    """Raise if a head is to be trained whose numbers are those of an embedding in few bits: nothing of it would be.

    Args:
        config: that names modules to train and save.
        model: compressed.

    Raises:
        AdapterError: names the head, and how to compress so that it can be trained.
    """
    names = config.modules_to_save or ()
    heads = [path for path, module in model.named_modules() if isinstance(module, TiedHead)]
    found = [path for path in heads if any(path == name or path.endswith(f".{name}") for name in names)]
    if found:
        raise AdapterError(
            f"modules_to_save names {found[0]}, whose weight is the table of an embedding in few bits: nothing of it "
            "would be trained. Leave it out, or compress the model with the embedding in 16 bits "
            "(--set embedding=16-bit)."
        )


def check_parameters(config: LoraConfig, model: nn.Module, targeted: Iterable[str]) -> None:
    """Raise if an adapter is asked for on a tensor in whose place there are layers, none of which has it.

    Args:
        config: that names parameters.
        model: compressed.
        targeted: paths of the layers that the adapter is on.

    Raises:
        AdapterError: names them, and what to name instead.
    """
    stacks = [
        path
        for path in linear_stacks(model)
        if any(path == name or path.endswith(f".{name}") for name in config.target_parameters or ())
        and not any(name.startswith(f"{path}.") for name in targeted)
    ]
    if stacks:
        raise AdapterError(
            f"An adapter is asked for on the tensors {', '.join(stacks[:2])}{', ...' if len(stacks) > 2 else ''}, "
            "which this model holds as one compressed layer for each expert. An adapter of the dense model's tensor "
            "cannot be put onto them. Train one of their own: name the layers in target_modules, as a list of paths "
            f"such as '{stacks[0]}.0', or \"all-linear\"."
        )


def _inside(path: str, outer: Iterable[str]) -> bool:
    return any(path.startswith(f"{name}.") for name in outer)


def _heads(config: LoraConfig, model: nn.Module) -> set[str]:
    """Return the paths of what PEFT leaves out of all linear layers: the head, which is no part of what is adapted."""
    if not isinstance(model, PreTrainedModel):
        return set()
    output = model.get_output_embeddings()
    if output is not None:
        return {path for path, module in model.named_modules() if module is output}
    named = [name for name in SEQ_CLS_HEAD_NAMES if name in dict(model.named_children())]
    return set(named[:1]) if config.task_type == TaskType.SEQ_CLS else set()
