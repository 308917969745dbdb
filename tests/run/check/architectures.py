"""Tiny models of many classes of transformers, by what they are examples of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

TEXT: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DECODER: dict[str, Any] = {
    **TEXT,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
IMAGE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
STACKS = {
    "vocab_size": 256,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
}


def mixtral(**more: Any) -> t.PreTrainedModel:
    return t.MixtralForCausalLM(t.MixtralConfig(**DECODER, num_local_experts=4, **more))


def qwen3_moe() -> t.PreTrainedModel:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    return t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**DECODER, **sizes))


def gpt_oss() -> t.PreTrainedModel:
    return t.GptOssForCausalLM(t.GptOssConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2, head_dim=8))


def llava(layers_of_images: int) -> t.PreTrainedModel:
    """Return a language model beside a tower for images."""
    images = t.CLIPVisionConfig(**IMAGE, num_hidden_layers=layers_of_images)
    config = t.LlavaConfig(text_config=t.LlamaConfig(**DECODER), vision_config=images, image_token_index=255)
    return t.LlavaForConditionalGeneration(config)


def t5() -> t.PreTrainedModel:
    sizes = {"vocab_size": 256, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, decoder_start_token_id=0))


def bart() -> t.PreTrainedModel:
    return t.BartForConditionalGeneration(t.BartConfig(**STACKS, max_position_embeddings=64))


def whisper() -> t.PreTrainedModel:
    sizes = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64}
    return t.WhisperForConditionalGeneration(t.WhisperConfig(**STACKS, **sizes))


def whisper_decoder() -> t.PreTrainedModel:
    """Return a decoder whose configuration calls its positions by another name than most."""
    return t.WhisperForCausalLM(t.WhisperConfig(**STACKS, max_target_positions=64))


def roberta() -> t.PreTrainedModel:
    """Return a decoder that counts positions behind the number of padding, so that it takes 64 tokens."""
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return t.RobertaForCausalLM(t.RobertaConfig(**TEXT, **ids, max_position_embeddings=66, is_decoder=True))


def git() -> t.PreTrainedModel:
    """Return a language model beside a deeper tower for images that is as near to the embedding of tokens."""
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    images = {**IMAGE, "num_hidden_layers": 4}
    return t.GitForCausalLM(t.GitConfig(**TEXT, **ids, vision_config=images, max_position_embeddings=64))


def diff_llama() -> t.PreTrainedModel:
    """Return a model of which transformers leaves some parameters in memory when all are to stay on the disk."""
    return t.DiffLlamaForCausalLM(t.DiffLlamaConfig(**DECODER))


def vit() -> t.PreTrainedModel:
    return t.ViTForImageClassification(t.ViTConfig(**IMAGE, num_hidden_layers=2))


def clip() -> t.PreTrainedModel:
    words = {**TEXT, "bos_token_id": 0, "eos_token_id": 0}
    return t.CLIPModel(t.CLIPConfig(text_config=words, vision_config={**IMAGE, "num_hidden_layers": 2}))


def wav2vec2() -> t.PreTrainedModel:
    convolutions = {"conv_dim": (32, 32), "conv_kernel": (3, 3), "conv_stride": (2, 2)}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return t.Wav2Vec2Model(t.Wav2Vec2Config(**{**TEXT, "vocab_size": 32}, **convolutions, **positions))


def cpmant() -> t.PreTrainedModel:
    """Return a model that puts a prompt of its own in front of the tokens."""
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 64}
    prompts = {"prompt_length": 4, "prompt_types": 1, "segment_types": 4}
    return t.CpmAntForCausalLM(t.CpmAntConfig(**sizes, **prompts, num_hidden_layers=2))


def gemma3n() -> t.PreTrainedModel:
    """Return a model whose blocks are handed several hidden states, and an input each of their own."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "head_dim": 8}
    inputs = {"vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 8, "laurel_rank": 8}
    config = t.Gemma3nTextConfig(**DECODER, **kinds, **inputs, activation_sparsity_pattern=[0.0, 0.0])
    return t.Gemma3nForCausalLM(config)


def hrm_text() -> t.PreTrainedModel:
    """Return a model that runs its blocks many times."""
    return t.AutoModelForCausalLM.from_config(
        t.AutoConfig.for_model("hrm_text", **{**DECODER, "num_key_value_heads": 4})
    )


def sarvam_moe() -> t.PreTrainedModel:
    """Return a model that is saved with queries, keys and values in one tensor."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8}
    config = t.AutoConfig.for_model("sarvam_moe", **DECODER, **experts, first_k_dense_replace=2)
    return t.AutoModelForCausalLM.from_config(config)


def nomic_bert() -> t.PreTrainedModel:
    return t.NomicBertModel(t.NomicBertConfig(**TEXT))


def falcon() -> t.PreTrainedModel:
    """Return a model whose linear layers are a subclass that is written in other words."""
    kind = {"multi_query": True, "parallel_attn": True, "bias": False, "alibi": False, "num_attention_heads": 4}
    config = t.FalconConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, **kind, bos_token_id=0, eos_token_id=0)
    return t.FalconForCausalLM(config)


def recurrent_gemma() -> t.PreTrainedModel:
    """Return a model whose initialisation reads the biases of linear layers."""
    sizes = {**DECODER, "num_hidden_layers": 3, "num_key_value_heads": 1}
    sizes.pop("max_position_embeddings")
    config = t.RecurrentGemmaConfig(**sizes, lru_width=32, attention_window_size=16, head_dim=8)
    return t.RecurrentGemmaForCausalLM(config)


def xlstm() -> t.PreTrainedModel:
    """Return a model whose initialisation takes it that layers of some names have biases."""
    sizes = {"hidden_size": 64, "num_heads": 4, "chunk_size": 16, "qk_dim_factor": 1.0}
    return t.xLSTMForCausalLM(t.xLSTMConfig(vocab_size=256, num_hidden_layers=2, **sizes))


def mamba() -> t.PreTrainedModel:
    """Return a model that uses the weight of a linear layer which it does not run."""
    config = t.MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0)
    return t.MambaForCausalLM(config)


def mamba2(**more: Any) -> t.PreTrainedModel:
    sizes = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return t.Mamba2ForCausalLM(
        t.Mamba2Config(vocab_size=256, hidden_size=32, num_hidden_layers=2, **sizes, **tokens, **more)
    )


def bamba() -> t.PreTrainedModel:
    states = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
    return t.BambaForCausalLM(t.BambaConfig(**DECODER, attn_layer_indices=[1], **states))


def deepseek_v32() -> t.PreTrainedModel:
    """Return a model with linear layers that are run without gradients."""
    latents = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 2}
    index = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8, "n_group": 2, "topk_group": 1}
    config = t.DeepseekV32Config(**{**DECODER, "num_key_value_heads": 4}, **latents, **experts, **index)
    return t.DeepseekV32ForCausalLM(config)


def bert(head: Callable[[Any], t.PreTrainedModel], **more: Any) -> t.PreTrainedModel:
    return head(t.BertConfig(**TEXT, **more))


def llama(head: Callable[[Any], t.PreTrainedModel]) -> t.PreTrainedModel:
    return head(t.LlamaConfig(**DECODER))


def hand_over_ids(model: t.PreTrainedModel) -> None:
    """Change a model so that its second block is handed the token ids, behind the hidden states."""

    class Layer(type(model.model.layers[1])):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor, ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return super().forward(hidden_states, **kwargs)  # type: ignore[no-any-return]

        def __call__(self, hidden_states: torch.Tensor, *args: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return super().__call__(hidden_states, *(args or (model.last,)), **kwargs)  # type: ignore[no-any-return]

    model.model.embed_tokens.register_forward_hook(lambda _, args, __: setattr(model, "last", args[0]))
    model.model.layers[1].__class__ = Layer


def made(build: Callable[[], t.PreTrainedModel]) -> t.PreTrainedModel:
    """Return a model with random numbers that are always the same, in its biases too."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.bias"):
                parameter.normal_()
    return model
