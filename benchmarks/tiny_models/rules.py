"""What a number of a config becomes in a tiny one, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH, INNER, EXPERT, HEADS, HEAD_WIDTH, RANK = 64, 128, 64, 4, 16, 32
LAYERS, EXPERTS, VOCABULARY, POSITIONS, WINDOW = 2, 4, 256, 128, 16
IMAGE_TOKEN, AUDIO_TOKEN, VIDEO_TOKEN = 150, 151, 152
STAGES = ("depths", "blocks_per_stage")  # lists of how many layers the stages of a tower have


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
    (
        r"token(_type)?_(id|index)$|(?<!per)_token$|_token_ids$|(patch|start|end|newline|bos|eos|pad)_id$",
        lambda value, fields, sizes: sizes.token(value),
    ),
    (r"feat_extract_layers|index_kpool|index_block_size", lambda value, fields, sizes: value),
    (r"first_k_dense|num_dense_layers|dense_replace|mem_blocks$|layer_offset$", _at_most(1)),
    (r"(period|interval|sparse_step|frequency|every_n_layers|layer_freq)$", _at_most(2)),
    (r"(^|_)(num_\w*layers|n_layers?|\w*_layers|\w*_num_layers|layers|depth|num_blocks|num_\w*_blocks)$", _few_layers),
    (r"vocab_size|^num_embeddings$|codebook_size$|num_embeds$|vocab$", _at_most(VOCABULARY)),
    (r"mm_tokens_per_image|soft_tokens_per_image", _at_most(4)),
    (r"index_topk$", _at_most(WINDOW)),
    (r"experts_per_tok|top_?k(?!_prob)|^moe_k$|moe_topk|shared_experts|num_shared|^n_group$|expert_group", _at_most(2)),
    (r"experts?$|expert_num|num_experts|n_routed", _at_most(EXPERTS)),
    (r"hc_mult$", _at_most(2)),  # copies of the hidden states
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
    (r"time_step_rank|dt_rank|^d_rel$", _at_most(WIDTH // 16)),  # a small part of a block, of whatever size
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
