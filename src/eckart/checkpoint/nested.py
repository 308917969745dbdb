"""The file ``eckart/nested.safetensors`` of a folder that serves several sizes, and the models of those sizes.

It holds :class:`eckart.maths.nested.NestedOrder`: of each layer what its components are worth, and how large they are.
The weight files are those of any compressed model. A smaller size is loaded from them by leaving components out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.files import PREFIX, write_shard
from eckart.checkpoint.places import spellings
from eckart.errors import CheckpointError, EckartError, first_problem
from eckart.files.names import file_inside
from eckart.layers import LowRankLinear
from eckart.maths.nested import ENERGY, NATS, NestedOrder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NESTED_NAME = "eckart/nested.safetensors"
KEY = "eckart.nested"  # in the metadata of the file
KINDS = ("losses", "sizes")
SAME = 3e-7  # by which norms of the same numbers may differ, as they are float32
TOLERANCE = 1e-4  # by which they may where it is not known of which dtype the numbers were
AGAIN = "Compress the model again with nested ranks (--nested), or load the folder as it is, without keep."

_Count = Annotated[int, Field(ge=0)]


class _Numbers(BaseModel):
    """What the file holds beside its tensors."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1]
    bytes: dict[str, Annotated[int, Field(ge=1)]]
    dense_bytes: Annotated[int, Field(ge=1)]
    unfactored_bytes: _Count
    lost: Annotated[float, Field(ge=0)]
    multiple: Annotated[int, Field(ge=1)]
    unit: Literal["nats", "energy"]
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None


def write_nested(folder: Path, order: NestedOrder) -> None:
    """Write the order of the components into the folder of their model."""
    assert order.unit in (NATS, ENERGY)
    tensors = {
        f"{kind}.{path}": tensor.float().contiguous()
        for kind in KINDS
        for path, tensor in sorted(getattr(order, kind).items())
    }
    numbers = _Numbers(
        version=1,
        bytes=dict(order.bytes),
        dense_bytes=order.dense_bytes,
        unfactored_bytes=order.unfactored_bytes,
        lost=order.lost,
        multiple=order.multiple,
        unit="nats" if order.unit == NATS else "energy",
        dtype=order.dtype,  # type: ignore[arg-type]  # checked by the class
    )
    write_shard(folder / NESTED_NAME, tensors, {KEY: numbers.model_dump_json()})


def has_nested(folder: str | Path) -> bool:
    """Return whether a folder says how its components are ordered."""
    return (Path(folder) / NESTED_NAME).is_file()


def read_nested(folder: str | Path) -> NestedOrder:
    """Return the order of the components of the model in a folder.

    Raises:
        CheckpointError: the folder does not say it, or the file is damaged.
    """
    folder = Path(folder)
    if not has_nested(folder):
        raise CheckpointError(
            f"{folder} does not say in which order its components are ({NESTED_NAME}), so it is of one size. {AGAIN}"
        )
    path = file_inside(folder, NESTED_NAME)
    try:
        with safe_open(path, framework="pt") as file:
            numbers = _Numbers.model_validate(json.loads((file.metadata() or {})[KEY]))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be read ({first_problem(error)}). {AGAIN}") from error
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {AGAIN}") from error
    parts = {kind: {layer: tensors.get(f"{kind}.{layer}") for layer in numbers.bytes} for kind in KINDS}
    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for kind, part in parts.items():
        for layer, tensor in part.items():
            if tensor is None or not _is_sound(tensor) or tensor.shape != _shape(parts["losses"][layer]):
                raise CheckpointError(
                    f"{path} holds no {kind} of the components of {layer}, or other numbers than finite ones from 0 on "
                    f"in float32, as many as its rank. {AGAIN}"
                )
            found[kind][layer] = tensor
    return NestedOrder(
        losses=found["losses"],
        sizes=found["sizes"],
        bytes=numbers.bytes,
        dense_bytes=numbers.dense_bytes,
        unfactored_bytes=numbers.unfactored_bytes,
        lost=numbers.lost,
        multiple=numbers.multiple,
        unit=numbers.unit,
        dtype=numbers.dtype,
    )


def check_share(keep: float) -> None:
    """Raise unless ``keep`` is a share of bytes that can be loaded."""
    found: object = keep
    if isinstance(found, bool) or not isinstance(found, Real):
        raise EckartError(
            f"keep is the share of the bytes to load, a number above 0 and at most 1; found {type(keep).__name__}."
        )
    if not 0 < keep <= 1:
        raise EckartError(f"keep is the share of the bytes to load, above 0 and at most 1; found {keep:g}.")


def ranks_for(folder: str | Path, keep: float, stored: Mapping[str, int | None]) -> tuple[NestedOrder, dict[str, int]]:
    """Return the order of the components in a folder, and the ranks that take at most ``keep`` of the dense bytes.

    Args:
        folder: of the model.
        keep: share of the dense bytes of the layers that were compressed.
        stored: the ranks that config.json gives.

    Raises:
        CheckpointError: the folder is of one size, or has none so small, or its order is of other layers.
    """
    order = read_nested(folder)
    if order.ranks != dict(stored):
        raise CheckpointError(
            f"{NESTED_NAME} in {folder} is of other layers or ranks than config.json: the model was changed since. "
            f"{AGAIN}"
        )
    ranks = order.ranks_within(keep)
    if ranks is None:
        raise CheckpointError(
            f"{folder} holds sizes from {order.least:.4f} to {order.keep:.4f} of the bytes of its linear layers; found "
            f"keep {keep:g}. Layers that are dense stay so: compress to less with nested ranks for smaller sizes."
        )
    return order, ranks


def cut_model(model: PreTrainedModel, order: NestedOrder, ranks: Mapping[str, int]) -> None:
    """Leave out all components of a loaded model beyond some ranks; its config has the new ones then.

    Raises:
        CheckpointError: the factors are not those that the order is of, or are not in memory.
    """
    layers = _layers(model, ranks)
    for path, layer in layers.items():
        if layer is None or layer.first.weight.is_meta or layer.second.weight.is_meta:
            raise CheckpointError(
                f"The factors of {path} are not in memory; expected two factors that can be made shorter. Load the "
                "model with keep without device_map='disk', or write the smaller folder first (eckart resize)."
            )
    if not is_of(model, order):
        raise CheckpointError(
            f"The factors of the model are not those that {NESTED_NAME} is of: they were trained or changed since, and "
            f"their components have no order any more. {AGAIN}"
        )
    for path, layer in layers.items():
        assert layer is not None
        layer.cut(ranks[path])
    config = model.config.quantization_config
    config.ranks = {**config.ranks, **ranks}


def is_of(model: PreTrainedModel, order: NestedOrder) -> bool:
    """Return whether the factors of a model in memory are the first components that an order is of."""
    for path, layer in _layers(model, order.sizes).items():
        if layer is None or layer.rank > len(order.sizes[path]):
            return False
        sizes = sizes_of(layer.first.weight, layer.second.weight)
        tolerance = _tolerance(order.dtype, layer.first.weight.dtype)
        expected = order.sizes[path][: layer.rank].to(sizes)
        if not bool(((sizes - expected).abs() <= tolerance * expected).all()):
            return False
    return True


def _tolerance(stored: str | None, now: torch.dtype) -> float:
    """Return how far norms may be apart; numbers that were rounded to another dtype since are the same components."""
    if stored is None:
        return max(TOLERANCE, torch.finfo(now).eps)
    eps: float = torch.finfo(now).eps
    return SAME if eps <= torch.finfo(getattr(torch, stored)).eps else eps


def order_now(model: PreTrainedModel, order: NestedOrder) -> NestedOrder | None:
    """Return the order of the components that a model in memory has now; None if it has others."""
    config: EckartConfig = model.config.quantization_config
    if config.ranks.keys() != order.sizes.keys() or not is_of(model, order):
        return None
    ranks = {path: layer.rank for path, layer in _layers(model, order.sizes).items() if layer is not None}
    return sized(order.cut(ranks), partial(factors_in, model))


def sized(order: NestedOrder, factors: Callable[[str], tuple[Tensor, Tensor]]) -> NestedOrder:
    """Return an order with the sizes of the components that were stored.

    Args:
        order: without them.
        factors: gives first (R, n) and second (m, R) of a layer by its path, as they are stored.
    """
    sizes, dtypes = {}, set()
    for path in order.losses:
        first, second = factors(path)
        sizes[path] = sizes_of(first, second)
        dtypes |= {str(first.dtype).removeprefix("torch."), str(second.dtype).removeprefix("torch.")}
    return replace(order, sizes=sizes, dtype=dtypes.pop() if len(dtypes) == 1 else None)


def factors_in(model: PreTrainedModel, path: str) -> tuple[Tensor, Tensor]:
    """Return the factors of a layer of a compressed model in memory."""
    layer = _layers(model, {path: None})[path]
    assert layer is not None
    return layer.first.get_parameter("weight"), layer.second.get_parameter("weight")


def factors_of(folder: Path) -> Callable[[str], tuple[Tensor, Tensor]]:
    """Return what gives the factors of a layer from the weight files in a folder, by its path."""
    places: dict[str, Path] = {}
    for file in sorted(folder.glob(f"{PREFIX}*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            places |= dict.fromkeys(shard.keys(), file)

    def read(name: str) -> Tensor:
        with safe_open(places[name], framework="pt") as shard:
            tensor: Tensor = shard.get_tensor(name)
            return tensor

    return lambda path: (read(f"{path}.first.weight"), read(f"{path}.second.weight"))


def sizes_of(first: Tensor, second: Tensor) -> Tensor:
    """Return the norm of each component as a matrix, (R,) float32 on the host.

    Args:
        first: (R, n), as it is stored.
        second: (m, R), as it is stored.
    """
    rows = first.detach().cpu().double().norm(dim=1)
    columns = second.detach().cpu().double().norm(dim=0)
    sizes: Tensor = (rows * columns).float()
    return sizes


def _layers(model: PreTrainedModel, paths: Mapping[str, object]) -> dict[str, LowRankLinear | None]:
    """Return the layers of two plain factors at some paths; None where there is another one."""
    modules = dict(model.named_modules())
    found = {path: next((modules[name] for name in spellings(model, path) if name in modules), None) for path in paths}
    return {
        path: layer if isinstance(layer, LowRankLinear) and _is_plain(layer) else None for path, layer in found.items()
    }


def _is_plain(layer: LowRankLinear) -> bool:
    return type(layer) is LowRankLinear and type(layer.first) is nn.Linear and isinstance(layer.second, nn.Linear)


def _is_sound(tensor: Tensor) -> bool:
    sound = tensor.dtype == torch.float32 and tensor.ndim == 1 and len(tensor) > 0
    return sound and bool(torch.isfinite(tensor).all()) and bool((tensor >= 0).all())


def _shape(tensor: Tensor | None) -> torch.Size:
    return torch.Size() if tensor is None else tensor.shape
