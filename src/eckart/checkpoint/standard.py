"""Models in which nothing is factored, in the format of compressed-tensors: other programs load them without Eckart.

The numbers are the same, bit for bit. What the format cannot say stays in ours.

config.json               the quantization_config of compressed-tensors
model*.safetensors        the weights, under the standard names
eckart/quantization.json  what our own format has in config.json: recipe, calibration, provenance
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.files import INDEX_NAME, write_index, write_shard, write_text
from eckart.checkpoint.packed import CODES, OUR_SCALE, PACKED, SCALE, SHAPE, STANDARD, STANDARD_NAME
from eckart.layers import QuantizedLinear, is_linear
from eckart.maths.packing import unpack
from eckart.maths.quantization import QuantScheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FORMAT = "pack-quantized"  # of compressed-tensors


def nothing_is_factored(config: EckartConfig) -> bool:
    """Return whether all layers of a compressed model that were changed were only rounded, each on its own."""
    factored = config.joint or any(rank is not None for rank in config.ranks.values())
    return bool(config.ranks) and not factored


def why_not_standard(model: PreTrainedModel, config: EckartConfig) -> str | None:
    """Return why compressed-tensors cannot hold a model in which nothing is factored, or None if it can."""
    if config.embedding is not None:
        return "its embedding is in few bits"
    if config.latent_cache is not None:
        return "its key-value cache keeps latents"
    if config.expanded:
        return "its experts are one tensor in the class of the model"
    if get_model_conversion_mapping(model, add_legacy=False):
        return f"files of {type(model).__name__} have other names for its tensors than the class has"
    for name, layer in _quantized(model).items():
        if layer.scheme.scale_bits != 16:
            return f"scales of {name} have {layer.scheme.scale_bits} bits"
        if layer.replaced is not nn.Linear:
            return f"{name} is a {layer.replaced.__name__} in the class of the model"
        if _group(layer) is not None and layer.in_features % layer.scheme.group_size(layer.in_features):
            return f"the {layer.in_features} numbers in a row of {name} are no whole number of groups"
    return None


def standardise(folder: Path, model: PreTrainedModel, config: EckartConfig, pattern: str) -> list[str]:
    """Write the files of the standard format beside those of ours, and change the config.

    Args:
        folder: of a model in our own format, with its config.
        model: with its layers; their numbers are read from the files.
        config: of it.
        pattern: of its files of weights.

    Returns:
        The names of the files that are of no use any more.
    """
    layers = _quantized(model)
    shards = sorted(folder.glob(pattern))
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with safe_open(shard, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        write_shard(folder / name, standard_tensors(tensors, layers))
    if len(shards) > 1:
        write_index(folder, "model-*.safetensors", INDEX)
    (folder / STANDARD_NAME).parent.mkdir(exist_ok=True)
    ours = {**config.to_dict(), "weights": None, "stored": STANDARD}
    write_text(folder / STANDARD_NAME, json.dumps(ours, indent=1, sort_keys=True) + "\n")
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written.pop("transformers_weights", None)
    written["quantization_config"] = standard_config(model)
    write_text(folder / "config.json", json.dumps(written, indent=2, sort_keys=True) + "\n")
    return [*(shard.name for shard in shards), INDEX_NAME]


def standard_tensors(tensors: Mapping[str, Tensor], layers: Mapping[str, QuantizedLinear]) -> dict[str, Tensor]:
    """Return the tensors of a file of ours as the standard format has them.

    Args:
        tensors: by name.
        layers: those in few bits, by path.
    """
    from compressed_tensors.compressors import pack_to_int32

    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        layer = layers.get(path)
        if layer is not None and leaf == CODES:
            codes = unpack(tensor, layer.scheme.bits, layer.in_features)
            found[f"{path}.{PACKED}"] = pack_to_int32(codes, layer.scheme.bits)
            found[f"{path}.{SHAPE}"] = torch.tensor([layer.out_features, layer.in_features])
        elif layer is not None and leaf == OUR_SCALE:
            found[f"{path}.{SCALE}"] = tensor
        else:
            found[name] = tensor
    return found


def standard_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return what compressed-tensors says of a model: a group of layers for each way in which numbers are rounded."""
    import compressed_tensors
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    layers = _quantized(model)
    kinds: dict[tuple[QuantScheme, int | None], list[str]] = {}
    for path, layer in layers.items():
        kinds.setdefault((layer.scheme, _group(layer)), []).append(path)
    described = QuantizationConfig(
        config_groups={
            f"group_{number}": QuantizationScheme(
                # By their class where all are of one kind: what is none of them is left out below.
                targets=["Linear"] if len(kinds) == 1 else paths,
                weights=QuantizationArgs(
                    num_bits=scheme.bits,
                    type="int",
                    symmetric=True,
                    strategy="channel" if group is None else "group",
                    group_size=group,
                ),
                format=FORMAT,
            )
            for number, ((scheme, group), paths) in enumerate(kinds.items())
        },
        format=FORMAT,
        quantization_status="compressed",
        ignore=[name for name, module in model.named_modules() if is_linear(module)],
    )
    found: dict[str, Any] = described.model_dump(mode="json", exclude_none=True)
    return {**found, "version": compressed_tensors.__version__}


def _quantized(model: PreTrainedModel) -> dict[str, QuantizedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def _group(layer: QuantizedLinear) -> int | None:
    """Return how many neighbours in a row share a scale; None for all of them."""
    return None if layer.scheme.group is None else layer.scheme.group_size(layer.in_features)
