"""Makes a config small, by the names of its numbers.

A config is a tree of fields. Fields with names of the same sort get the same number, so that what was equal stays
equal: every width is 64, every head 16 wide. What no rule knows is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH, INNER, EXPERT, HEADS, HEAD_WIDTH, RANK = 64, 128, 64, 4, 16, 32
LAYERS, EXPERTS, VOCABULARY, POSITIONS, WINDOW = 2, 4, 256, 128, 16
IMAGE_TOKEN, AUDIO_TOKEN, VIDEO_TOKEN = 150, 151, 152
MOST_LAYERS = 6  # where layers differ
SMALL = 8  # numbers up to this one are choices, not sizes
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers")
STAGES = ("depths", "blocks_per_stage")  # lists of how many layers the stages of a tower have
UNTOUCHED = {"id2label", "label2id", "quantization_config", "task_specific_params"}
ROTATIONS = {"rope_parameters", "rope_scaling"}
DERIVED = {"stage_names", "out_features"}  # which follow from other fields


@dataclass
class Sizes:
    """What the numbers of images are, which differ between towers.

    Attributes:
        image: pixels on a side.
        patch: pixels on a side of a patch.
        mels: bins of a spectrogram.
        shallow: whether only layers, experts and vocabularies get fewer, and widths stay.
        tokens: new ids of special tokens, by their old ones; filled on the way.
    """

    image: int = 32
    patch: int = 8
    mels: int = 32
    shallow: bool = False
    tokens: dict[int, int] = field(default_factory=dict)

    def token(self, old: int) -> int:
        """Return a special token's id in the small vocabulary; the same for the same."""
        if old < 0:
            return old
        return self.tokens.setdefault(old, old if old <= 4 else VOCABULARY - 2 - len(self.tokens))


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


Rule = Callable[[int, Mapping[str, Any], Sizes], int]


def _at_most(limit: int) -> Rule:
    return lambda value, fields, sizes: min(value, limit)


def _heads(value: int, fields: Mapping[str, Any], sizes: Sizes) -> int:
    return min(value, HEADS)


def _key_heads(value: int, fields: Mapping[str, Any], sizes: Sizes) -> int:
    queries = next((fields[name] for name in ("num_attention_heads", "n_heads", "num_heads") if name in fields), value)
    return min(HEADS, value) if value == queries else min(value, HEADS // 2)


def _state_heads(value: int, fields: Mapping[str, Any], sizes: Sizes) -> int:
    """Return as many heads of a state space as share its width, which is a multiple of the model's."""
    wider = next((fields[name] for name in ("mamba_expand", "expand") if fields.get(name)), None)
    return _heads(value, fields, sizes) if wider is None else wider * WIDTH // HEAD_WIDTH


def _side(value: int, fields: Mapping[str, Any], sizes: Sizes) -> int:
    """Return the side of an image, which in stages is halved again and again."""
    return min(value, sizes.image * 4 if any(stages in fields for stages in STAGES) else sizes.image)


def _few_layers(value: int, fields: Mapping[str, Any], sizes: Sizes) -> int:
    return min(value, LAYERS)


# What is counted: names of such numbers, and how many there are at most.
COUNTS: tuple[tuple[str, Rule], ...] = (
    (r"token(_type)?_(id|index)$|(?<!per)_token$|_token_ids$|(patch|start|end|newline|bos|eos|pad)_id$", lambda value, fields, sizes: sizes.token(value)),
    (r"feat_extract_layers|index_kpool|index_block_size", lambda value, fields, sizes: value),
    (r"first_k_dense|num_dense_layers|dense_replace|mem_blocks$|layer_offset$", _at_most(1)),
    (r"(period|interval|sparse_step|frequency|every_n_layers|layer_freq)$", _at_most(2)),
    (r"(^|_)(num_\w*layers|n_layers?|\w*_layers|\w*_num_layers|layers|depth|num_blocks|num_\w*_blocks)$", _few_layers),
    (r"vocab_size|^num_embeddings$|codebook_size$|num_embeds$|vocab$", _at_most(VOCABULARY)),
    (r"mm_tokens_per_image|soft_tokens_per_image", _at_most(4)),
    (r"index_topk$", _at_most(WINDOW)),
    (r"experts_per_tok|top_?k(?!_prob)|^moe_k$|moe_topk|shared_experts|num_shared|^n_group$|expert_group", _at_most(2)),
    (r"experts?$|expert_num|num_experts|n_routed", _at_most(EXPERTS)),
)
# What is measured: heads, widths, lengths and sizes of images.
MEASURES: tuple[tuple[str, Rule], ...] = (
    (r"num_position_embeddings$", _at_most(64)),
    (r"rotary_dim$", _at_most(HEAD_WIDTH // 2)),
    (r"qk_head_dim$", _at_most(2 * HEAD_WIDTH)),
    (r"(^|_)(num_key_value_heads|kv_n_heads|num_kv_heads|key_value_attention_heads|key_heads)$", _key_heads),
    (r"(head_dim|head_size|d_kv|d_head|dim_head|headdim|head_width|kv_channels)$", _at_most(HEAD_WIDTH)),
    (r"^(mamba_n_heads|mamba_num_heads)$", _state_heads),
    (r"((num|n)_(\w+_)?heads?|attention_heads|nheads)(_per_layer)?$|num_groups$|num_filters$", _heads),
    (r"lora_rank|_rank$|rank_", _at_most(RANK)),
    (r"upsample_groups", _at_most(WIDTH)),
    (r"(expert|moe)\w*(size|dim)$", _at_most(EXPERT)),
    (
        r"intermediate_(size|dim)|ffn_?(hidden_size|dim)|mlp_(dim|size|hidden_size)|^d_?ff$|^d_inner$|dim_ff|"
        r"feed_?forward\w*(dim|size)?$|(dim_|^)inner|linear_units|ffn_size",
        _at_most(INNER),
    ),
    (
        r"position_embeddings|n_positions|max_\w*positions|^n_ctx$|seq_len(gth)?$|model_max_length|max_length|"
        r"context_length$",
        _at_most(POSITIONS),
    ),
    (r"sliding_window(_size)?$|attention_window\w*$|window_len$|chunk_size$|local_attention$", _at_most(WINDOW)),
    (r"image_size$|img_size|^input_size$", _side),
    (r"patch_size$", lambda value, fields, sizes: min(value, sizes.patch)),
    (
        r"num_mel_bins|n_mels|model_in_dim|mel_dim|n_mel_bins|feature_size|input_feat_size",
        lambda value, fields, sizes: min(value, sizes.mels),
    ),
    (r"num_queries|num_query_tokens|latents$|n_latents|num_latents|query_num$", _at_most(WINDOW)),
)
WIDTHS = (
    r"(hidden|embed|embedding|emb|d_model|n_embd|proj|projection|projector)\w*(_size|_dim|s|_in|_out)?$|"
    r"_dim$|^dim$|_width$|_units$|_channels$|^width$|^d_model$|^n_embd$"
)


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


# What some default configs leave open, though their models need it.
FILLED: dict[str, Any] = {
    "head_dim": HEAD_WIDTH,
    "num_key_value_heads": HEADS // 2,
    "vocab_size": VOCABULARY,
    "layer_types": ["full_attention"] * LAYERS,
    "mlp_layer_types": ["dense", "sparse"],
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "prediction_length": 4,
    "image_token_id": IMAGE_TOKEN,
    "image_token_index": IMAGE_TOKEN,
    "audio_token_id": AUDIO_TOKEN,
    "audio_token_index": AUDIO_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "video_token_index": VIDEO_TOKEN,
    "num_experts": EXPERTS,
    "top_k_experts": 2,
    "moe_intermediate_size": EXPERT,
    "sliding_window": WINDOW,
}


def fill(fields: dict[str, Any]) -> None:
    """Give numbers to what is None in the fields of a config and of the configs in it."""
    for name, value in fields.items():
        if isinstance(value, dict):
            fill(value)
        elif value is None and name in FILLED:
            fields[name] = FILLED[name]
