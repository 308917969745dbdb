"""Makes a config small, by the names of its numbers.

A config is a tree of fields. Fields with names of the same sort get the same number, so that what was equal stays
equal: every width is 64, every head 16 wide. What no rule knows is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiny_models.rules import (
    COUNTS,
    FILLED,
    HEAD_WIDTH,
    LAYERS,
    MEASURES,
    POSITIONS,
    STAGES,
    WIDTH,
    WIDTHS,
    Sizes,
)

MOST_LAYERS = 6  # where layers differ
SMALL = 8  # numbers up to this one are choices, not sizes
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers")
UNTOUCHED = {"id2label", "label2id", "quantization_config", "task_specific_params"}
ROTATIONS = {"rope_parameters", "rope_scaling"}
DERIVED = {"stage_names", "out_features"}  # which follow from other fields


def shrink(fields: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Return the fields of a config with small numbers, and those of the configs in it.

    Args:
        fields: as ``config.to_dict()`` gives them.
        sizes: of what images and sounds there are.
    """
    kept = _kept_layers(fields)
    small: dict[str, Any] = {}
    for name, value in fields.items():
        if name in DERIVED:
            continue
        if name == "image_grid_pinpoints" and value and not sizes.shallow:
            small[name] = [[sizes.image, 2 * sizes.image], [2 * sizes.image, sizes.image]]
            continue
        if name == "per_layer_config" and value and kept:
            small[name] = _shrunk_overrides(kept.renumbered_keys(value), fields, sizes)
        elif name in ROTATIONS and isinstance(value, dict):
            small[name] = _shrunk_rotation(value)
        elif name in UNTOUCHED or isinstance(value, bool) or value is None:
            small[name] = value
        elif isinstance(value, dict):
            small[name] = shrink(value, sizes) if all(isinstance(key, str) for key in value) else value
        elif kept and name == "out_indices" and isinstance(value, list | tuple):
            small[name] = list(range(len(kept.indices) - len(value) + 1, len(kept.indices) + 1))
        elif kept and name.endswith("source_layers") and value:
            small[name] = [kept.place(value[index]) for index in kept.indices]
        elif kept and isinstance(value, list | tuple) and len(value) == kept.of:
            small[name] = [_shrunk(name, value[index], fields, sizes) for index in kept.indices]
        elif kept and name in LAYER_COUNTS and value == kept.of:
            small[name] = len(kept.indices)
        elif kept and _is_list_of_layers(name, value, kept.of):
            small[name] = kept.renumbered(value)
        elif isinstance(value, list | tuple):
            small[name] = _shrunk_list(name, list(value), fields, sizes)
        else:
            small[name] = _shrunk(name, value, fields, sizes)
    return small


@dataclass(frozen=True)
class _Kept:
    of: int
    indices: tuple[int, ...]

    def place(self, layer: int) -> int:
        """Return the number of a layer, or of the last one before it, among those that are kept."""
        return max((new for new, old in enumerate(self.indices) if old <= layer), default=0)

    def renumbered_keys(self, layers: Mapping[Any, Any]) -> dict[int, Any]:
        """Return what is said of single layers, for those that are kept."""
        return {new: layers[key] for new, old in enumerate(self.indices) for key in layers if int(key) == old}

    def renumbered(self, layers: list[int]) -> list[int]:
        """Return the numbers of those of some layers that are kept, or the last layer where there are none."""
        return [new for new, old in enumerate(self.indices) if old in layers] or [len(self.indices) - 1]


def _kept_layers(fields: Mapping[str, Any]) -> _Kept | None:
    """Return which layers stand for all of them: the first of each sort, and at least two."""
    of = next((fields[name] for name in LAYER_COUNTS if isinstance(fields.get(name), int)), None)
    if of is None or of <= LAYERS or any(name in fields for name in STAGES):
        return None
    alone = {int(layer) for layer in fields.get("per_layer_config") or ()}
    columns = [
        value for value in fields.values() if isinstance(value, list | tuple) and len(value) == of and of > MOST_LAYERS
    ]
    members = [
        value
        for name, value in fields.items()
        if _is_list_of_layers(name, value, of) and isinstance(value, list | tuple)
    ]
    sorts: dict[Any, int] = {}
    for layer in range(of):
        sort = (layer in alone, *(repr(column[layer]) for column in columns), *(layer in chosen for chosen in members))
        sorts.setdefault(sort, layer)
    indices = sorted(sorts.values())[:MOST_LAYERS]
    outputs = fields.get("out_indices") or ()
    least = max(LAYERS, len(outputs) if isinstance(outputs, list | tuple) else 1)
    indices += [layer for layer in range(of) if layer not in indices][: max(least - len(indices), 0)]
    indices.sort()
    return _Kept(of, tuple(indices))


def _is_list_of_layers(name: str, value: Any, layers: int) -> bool:
    if not isinstance(value, list | tuple) or not value or not all(type(item) is int for item in value):
        return False
    named = re.search(r"(index(es)?|indices|idxs?|layers|layer_ids|blocks|moe_layers)$", name) is not None
    return named and all(0 <= item <= layers for item in value) and len(set(value)) == len(value)


def _shrunk_overrides(layers: dict[int, Any], fields: Mapping[str, Any], sizes: Sizes) -> dict[int, Any]:
    """Return what is said of single layers; what differs from the other layers goes on doing so."""
    small = {}
    for layer, changes in layers.items():
        small[layer] = shrink({**fields, "per_layer_config": None, **changes}, sizes)
        small[layer] = {name: small[layer][name] for name in changes}
        for name, value in changes.items():
            other = fields.get(name)
            if type(value) is int and type(other) is int and value != other > 0:
                small[layer][name] = max(_shrunk(name, other, fields, sizes) * value // other, 1)
    return small


def _shrunk_rotation(rotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of rotary embeddings, of which some count the pairs of a head."""
    small: dict[str, Any] = {}
    for name, value in rotation.items():
        if isinstance(value, dict):
            small[name] = _shrunk_rotation(value)
        elif name == "mrope_section" and value:
            small[name] = _shrunk_sections(value, rotation.get("partial_rotary_factor", 1.0))
        else:
            small[name] = min(value, POSITIONS // 2) if name == "original_max_position_embeddings" else value
    return small


def _shrunk_sections(sections: list[int], rotated: float) -> list[int]:
    """Return as large a share of the rotated pairs of a head for each axis."""
    pairs = int(HEAD_WIDTH * rotated) // 2
    small = [section * pairs // sum(sections) for section in sections]
    for index in range(pairs - sum(small)):
        small[index] += 1
    return small


def _shrunk(name: str, value: Any, fields: Mapping[str, Any], sizes: Sizes) -> Any:
    """Return a number as its name's first rule says; what is no number, or known to no rule, as it is."""
    if type(value) is not int or value in _stage_counts(fields):
        return value
    for pattern, rule in COUNTS if sizes.shallow else COUNTS + MEASURES:
        if re.search(pattern, name):
            return rule(value, fields, sizes)
    if sizes.shallow or value <= SMALL or not re.search(WIDTHS, name):
        return value
    staged = name == "embed_dim" and any(stages in fields for stages in STAGES)
    return min(value, WIDTH // 4 if staged else WIDTH)  # it is doubled from stage to stage


def _stage_counts(fields: Mapping[str, Any]) -> set[int]:
    """Return how many stages there are, if any: a number that is no count of layers."""
    return {len(fields[name]) for name in STAGES if isinstance(fields.get(name), list | tuple)}


def _shrunk_list(name: str, values: list[Any], fields: Mapping[str, Any], sizes: Sizes) -> list[Any]:
    """Return a list with small numbers: those of stages keep their proportions."""
    if not values or not all(type(value) is int for value in values):
        return [shrink(value, sizes) if isinstance(value, dict) else value for value in values]
    if re.search(r"depths|num_blocks|block_sizes|blocks_per_stage", name):
        return [min(value, 1) for value in values]
    if sizes.shallow:
        return values
    if re.search(r"heads", name):
        return [max(value // min(values), 1) for value in values]
    if len(set(values)) > 1 and re.search(WIDTHS, name) and not re.search("kernel|patch|ratio", name):
        return [max(round(value * WIDTH / max(values) / 8) * 8, 8) if value > SMALL else value for value in values]
    return [_shrunk(name, value, fields, sizes) for value in values]


def fill(fields: dict[str, Any]) -> None:
    """Give numbers to what is None in the fields of a config and of the configs in it."""
    for name, value in fields.items():
        if isinstance(value, dict):
            fill(value)
        elif value is None and name in FILLED:
            fields[name] = FILLED[name]
