"""Models of which only widths got smaller that their own config names: written so that they need no Eckart.

Where every block has as many hidden units less, the same class of transformers with another number in its config, such
as ``intermediate_size``, has tensors of just these shapes. The number is found by trying, no name is looked at.

config.json               of the smaller model, without a quantization_config
model*.safetensors        the weights, under the standard names
eckart/quantization.json  what our own format has in config.json: recipe, calibration, provenance
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.pytorch_utils import Conv1D

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.files import INDEX_NAME, write_index, write_shard, write_text
from eckart.checkpoint.packed import STANDARD_NAME
from eckart.checkpoint.standard import INDEX, SINGLE
from eckart.layers import KeptLinear

Field = tuple[str, ...]


def stock_field(model: PreTrainedModel, config: EckartConfig) -> tuple[Field, int] | None:
    """Return the field of a model's config, and its value, with which the model's class has the model's shapes.

    None if there is no such field, or if anything else was done to the model.

    Args:
        model: compressed.
        config: of what was done.
    """
    layers = _narrowed(model)
    direct = layers and len(layers) == len(config.ranks) and all(layer.index is None for layer in layers.values())
    others = config.joint or config.expanded or config.embedding or config.latent_cache is not None
    widths = {(layer.full, layer.kept) for layer in layers.values()}
    if not direct or others or len(widths) != 1 or get_model_conversion_mapping(model, add_legacy=False):
        return None
    ((full, kept),) = widths
    wanted = {name: _standard(name, tensor, layers).shape for name, tensor in model.state_dict().items()}
    for field in _fields(model.config, full):
        if _shapes(model, field, kept) == wanted:
            return field, kept
    return None


def write_stock(
    folder: Path, model: PreTrainedModel, config: EckartConfig, pattern: str, field: Field, value: int
) -> list[str]:
    """Write the files of a plain model beside those of ours, and change the config.

    Args:
        folder: of a model in our own format, with its config.
        model: with its layers; their numbers are read from the files.
        config: of what was done to it.
        pattern: of its files of weights.
        field: of the model's config that changes.
        value: of it.

    Returns:
        The names of the files that are of no use any more.
    """
    layers, shards = _narrowed(model), sorted(folder.glob(pattern))
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with safe_open(shard, framework="pt") as file:
            tensors = {key: _standard(key, file.get_tensor(key), layers) for key in file.keys()}  # noqa: SIM118
        write_shard(folder / name, tensors)
    if len(shards) > 1:
        write_index(folder, "model-*.safetensors", INDEX)
    (folder / STANDARD_NAME).parent.mkdir(exist_ok=True)
    write_text(
        folder / STANDARD_NAME, json.dumps({**config.to_dict(), "weights": None}, indent=1, sort_keys=True) + "\n"
    )
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for needless in ("transformers_weights", "quantization_config"):
        written.pop(needless, None)
    inner: dict[str, Any] = written
    for part in field[:-1]:
        inner = inner.setdefault(part, {})
    inner[field[-1]] = value
    write_text(folder / "config.json", json.dumps(written, indent=2, sort_keys=True) + "\n")
    return [*(shard.name for shard in shards), INDEX_NAME]


def _narrowed(model: PreTrainedModel) -> dict[str, KeptLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, KeptLinear)}


def _standard(name: str, tensor: Tensor, layers: Mapping[str, KeptLinear]) -> Tensor:
    """Return a tensor as the class of the model has it: GPT-2's ``Conv1D`` stores the transpose."""
    path, _, leaf = name.rpartition(".")
    layer = layers.get(path)
    transposed = layer is not None and leaf == "weight" and issubclass(layer.replaced, Conv1D)
    return tensor.T.contiguous() if transposed else tensor


def _fields(config: PreTrainedConfig, value: int, at: Field = ()) -> list[Field]:
    """Return the fields of a config that have a value, then those that have none: some classes compute a width then."""
    found: list[Field] = []
    unsaid: list[Field] = []
    for name, known in vars(config).items():
        if isinstance(known, PreTrainedConfig):
            found += _fields(known, value, (*at, name))
        elif type(known) is int and known == value:
            found.append((*at, name))
        elif known is None and not name.startswith("_"):
            unsaid.append((*at, name))
    return [*found, *unsaid]


def _shapes(model: PreTrainedModel, field: Field, value: int) -> dict[str, torch.Size] | None:
    """Return the shapes that the tensors of a model's class have with another number in its config."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    inner: Any = config
    for part in field[:-1]:
        inner = getattr(inner, part)
    try:
        setattr(inner, field[-1], value)
        with torch.device("meta"):
            found = type(model)(config)
    except Exception:  # what a class raises that is handed a number that it is not made for can be anything
        return None
    return {name: tensor.shape for name, tensor in found.state_dict().items()}
