"""What the rules of `rules.py` do not know, by the type of a config.

``default``: what the config is made with before it is shrunk. ``sizes``: of images and sounds. ``fields``: by path,
what the small config has instead.
"""

from __future__ import annotations

from typing import Any

_QSA = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 16,
    "ngram_vocab_size_base": 64,
    "split_ngram_parts": 4,
    "ple_embed_dim": 64,
    "make_ngram_vocab_size_divisible_by": 8,
    "output_gate_type": "sigmoid",
}
_CHAMELEON_MAP = {
    "<image>": 150,
    **{f"IMGIMG{chr(65 + code // 10)}{chr(65 + code % 10)}Z": 160 + code for code in range(32)},
}
_EMU_MAP = {
    "<image>": 150,
    "<|extra_200|>": 151,
    **{f"<|visual token {code:06d}|>": 160 + code for code in range(32)},
}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "attn_resolutions": []}
_EFFICIENT = {
    "fields": {
        "width_coefficient": 1.0,
        "depth_coefficient": 0.1,
        "image_size": 64,
        "in_channels": [32, 16, 24, 40, 80, 112, 192],
        "out_channels": [16, 24, 40, 80, 112, 192, 320],
        "hidden_dim": 1280,
    }
}
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage4"],
}
_DETR = {"default": {"use_timm_backbone": False, "backbone": None, "backbone_config": _RESNET}}
_MARKED = {
    "fields": {
        "vision_start_token_id": 160,
        "vision_end_token_id": 161,
        "audio_start_token_id": 162,
        "audio_end_token_id": 163,
    }
}
_TWO_ROTATIONS = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
_SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def _under(prefix: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in fields.items()}


def _fields(**fields: Any) -> dict[str, Any]:
    return {"fields": fields}


EXCEPTIONS: dict[str, dict[str, Any]] = {
    "cohere_compass": {"fields": {"text_config.rope_parameters": _TWO_ROTATIONS}},
    "cohere_compass_text": _fields(rope_parameters=_TWO_ROTATIONS),
    "dbrx": {"fields": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0}},
    "dory": _fields(
        num_hidden_layers=8,
        n_input_layers=2,
        n_recurrent_layers=4,
        n_output_layers=2,
        layer_types=["sliding_attention", "mlp", "full_attention", "mlp"] * 2,
    ),
    "dots3_note": {
        "fields": {
            "text_config.head_dim": 40,
            "audio_config.adapter_input_size": 64,
            "vision_config.num_experts_per_tok": 1,
        }
    },
    "dots3_note_text": _fields(head_dim=40),
    "falcon_h1": _fields(mamba_d_ssm=128, mamba_d_head=16),
    "gemma4_assistant": {
        "default": {
            "text_config": {
                "model_type": "gemma4_text",
                "hidden_size_per_layer_input": 0,
                "vocab_size_per_layer_input": 0,
            }
        }
    },
    "bamba": _fields(attn_layer_indices=[1]),
    "blt": _fields(use_cache=False),
    "deepseek_v2": _fields(num_experts_per_tok=2),
    "granitemoehybrid": _fields(layer_types=["linear_attention", "full_attention"]),
    "gemma3n": {"fields": {"text_config.num_kv_shared_layers": 1}},
    "gemma3n_text": _fields(num_kv_shared_layers=1),
    "hrm_text": _fields(num_hidden_layers=16, num_layers_per_stack=2),
    "recurrent_gemma": _fields(num_hidden_layers=3),
    "xmod": _fields(default_language="en_XX"),
    "xlstm": _fields(qk_dim_factor=1.0),
    "zamba2": _fields(mamba_headdim=16, n_mamba_heads=8, attention_hidden_size=128, attention_head_dim=32),
    "mistral4": {"fields": {"rope_parameters.partial_rotary_factor": 1.0}},
    "lfm2_moe": _fields(layer_types=["conv", "full_attention"], num_dense_layers=1),
    "mamba2": _fields(num_heads=8),
    "qwen4_exp": {"fields": _under("text_config", _QSA)},
    "qwen4_exp_text": {"fields": _QSA},
    "causal/reformer": _fields(axial_pos_embds_dim=[16, 48], is_decoder=True),
    "reformer": _fields(axial_pos_embds_dim=[16, 48], is_decoder=False),
    "zamba": _fields(
        attention_hidden_size=128,
        attention_head_dim=32,
        num_hidden_layers=4,
        layers_block_type=["linear_attention", "hybrid"] * 2,
    ),
    "deepseek_ocr2": {
        "fields": {"text_config.mlp_layer_types": ["dense", "sparse"], "text_config.num_experts_per_tok": 2}
    },
    "ernie4_5_vl_moe": {
        "fields": {
            "text_config.rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
        }
    },
    "fun_asr_nano": {"fields": {"adaptor_config.intermediate_size": 16}},
    "granite4_vision": {
        "fields": {"deepstack_layer_map": [[-2, 0]], "downsample_rate": "2/4", "spatial_target_layers": [0, 1]}
    },
    "granite_speech": {"fields": {"encoder_config.max_pos_emb": 512, "encoder_config.context_size": 16}},
    "granite_speech_plus": {"fields": {"encoder_config.max_pos_emb": 512, "encoder_config.context_size": 16}},
    "molmo2": {"fields": {"vision_config.num_position_embeddings": 16, "adapter_config.vision_feature_layer": [1, 0]}},
    "vibevoice_asr": {"fields": {"acoustic_tokenizer_chunk_size": 3200}},
    "cvt": _fields(depth=[1, 2, 3]),
    "wav2vec2-bert": _fields(vocab_size=32),
    "wav2vec2-conformer": _fields(vocab_size=32),
    "autoformer": _fields(prediction_length=4),
    "informer": _fields(prediction_length=4),
    "time_series_transformer": _fields(prediction_length=4),
    "efficientloftr": _fields(hidden_size=256),
    "lw_detr": {"sizes": {"image": 64}, "fields": {"projector_scale_factors": [1.0]}},
    "seggpt": _fields(image_size=[64, 32], merge_index=0, intermediate_hidden_state_indices=[1, 1, 1, 1]),
    "apertus1p5": {"fields": {"image_token_offset": 256, "audio_token_offset": 512, "text_config.vocab_size": 1024}},
    "aria": _fields(projector_patch_to_query_dict={16: 16}),
    "chameleon": {
        "fields": {"vocabulary_map": _CHAMELEON_MAP, "vq_config.num_embeddings": 32, **_under("vq_config", _VQ)}
    },
    "emu3": {
        "fields": {
            "vocabulary_map": _EMU_MAP,
            "vq_config.codebook_size": 32,
            **_under("vq_config", {**_VQ, "channel_multiplier": [1, 2]}),
        }
    },
    "conditional_detr": _DETR,
    "dab-detr": _DETR,
    "deformable_detr": _DETR,
    "detr": _DETR,
    "table-transformer": _DETR,
    "llama4": {"fields": {"vision_config.intermediate_size": 256}},
    "image/llama4": {"fields": {"vision_config.intermediate_size": 256}},
    "esm": _fields(vocab_size=64, pad_token_id=1, mask_token_id=32),
    "moonshine_streaming": _fields(num_key_value_heads=4, encoder_num_key_value_heads=4),
    "paddleocr_vl": {"fields": {"text_config.rope_parameters": _SECTIONS}},
    "qwen2_5_omni_thinker": _fields(
        vision_start_token_id=160, vision_end_token_id=161, audio_start_token_id=162, audio_end_token_id=163
    ),
    "qwen3_omni_moe_thinker": _fields(
        vision_start_token_id=160, vision_end_token_id=161, audio_start_token_id=162, audio_end_token_id=163
    ),
    "step3p7": {"fields": {"text_config.sliding_window": 16}},
    "t5gemma2_encoder": {"fields": {"text_config.dropout_rate": 0.0}},
    "vipllava": _fields(vision_feature_layers=[-1, -2]),
    "efficientnet": _EFFICIENT,
    "neucodec": _fields(encoder_hidden_size=4),
    "xcodec2": _fields(encoder_hidden_size=4),
    "pe_audio": {"fields": {"audio_config.dac_config.encoder_hidden_size": 4}},
    "pe_audio_encoder": {"fields": {"dac_config.encoder_hidden_size": 4}},
    "depth_pro": {"sizes": {"image": 64}, "fields": {"intermediate_hook_ids": [1, 0]}},
    "vision-text-dual-encoder": {
        "default": {
            "text_config": {"model_type": "bert"},
            "vision_config": {"model_type": "vit", "pooler_output_size": 64, "hidden_size": 64},
        }
    },
    "align": {"fields": _under("vision_config", _EFFICIENT["fields"])},
    "kosmos-2": _fields(latent_query_num=8),
    "muse_glimmer": _fields(out_hidden_size=256),
    "muse_spark": {"fields": {"vision_config.out_hidden_size": 256, "out_hidden_size": 256}},
    "shieldgemma2": _fields(yes_token_index=10, no_token_index=11),
    "image/shieldgemma2": _fields(yes_token_index=10, no_token_index=11),
    "t5": _fields(decoder_start_token_id=0),
    "mllama": {"fields": {"vision_config.vision_output_dim": 128}},
}
