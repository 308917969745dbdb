"""Tiny random models of many kinds, each with samples of unequal lengths as its forward takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from torch import Tensor

from eckart.blocks.block_arguments import completed
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.data.calibration import Calibration
from eckart.data.samples import LABELS, as_samples

VOCABULARY = 256
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
DECODER = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 128}
IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
STACKS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "dropout": 0.0,
}
Samples = list[dict[str, Tensor]]
SAMPLES = 3
LENGTHS = 5  # different ones


class _Draw:
    """Draws samples, always the same."""

    def __init__(self, count: int) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.more = [n % LENGTHS for n in range(count)]  # tokens than in the first sample

    def ids(self, length: int) -> Tensor:
        return torch.randint(10, 200, (1, length), generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def with_image(self, length: int, places: Tensor) -> Tensor:
        ids = self.ids(length)
        return torch.cat([ids[:, :3], places[None], ids[:, 3:]], 1)


def _texts(draw: _Draw) -> Samples:
    return [{"input_ids": draw.ids(9 + n)} for n in draw.more]


def _answered(draw: _Draw) -> Samples:
    return [{"input_ids": draw.ids(9 + n), "labels": draw.ids(5 + n)} for n in draw.more]


def _images(draw: _Draw) -> Samples:
    return [{"pixel_values": draw.normal(1, 3, 16, 16)} for _ in draw.more]


def llama() -> t.PreTrainedModel:
    return t.LlamaForCausalLM(t.LlamaConfig(**DECODER))


def gemma3n() -> t.PreTrainedModel:
    """Return a decoder with several hidden states a token, inputs of each block's own, and shared keys and values."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2, "head_dim": 8}
    inputs = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "laurel_rank": 8}
    sizes = {**DECODER, "num_hidden_layers": 4}
    return t.Gemma3nForCausalLM(t.Gemma3nTextConfig(**sizes, **kinds, **inputs, activation_sparsity_pattern=[0.0] * 4))


def gemma4() -> t.PreTrainedModel:
    """Return a decoder with an input of each block's own."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "head_dim": 8}
    inputs = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "global_head_dim": 8}
    return t.Gemma4ForCausalLM(t.Gemma4TextConfig(**DECODER, **kinds, **inputs))


def bert() -> t.PreTrainedModel:
    return t.BertModel(t.BertConfig(**TEXT))


def masked() -> t.PreTrainedModel:
    return t.BertForMaskedLM(t.BertConfig(**TEXT))


def bart() -> t.PreTrainedModel:
    return t.BartForConditionalGeneration(t.BartConfig(**STACKS, forced_eos_token_id=2, max_position_embeddings=64))


def t5() -> t.PreTrainedModel:
    """Return an encoder-decoder whose first blocks give a bias of positions to the others."""
    sizes = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    tokens = {"pad_token_id": 0, "decoder_start_token_id": 0}
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, **tokens, dropout_rate=0.0))


def whisper() -> t.PreTrainedModel:
    sizes = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32}
    tokens = {"suppress_tokens": None, "begin_suppress_tokens": None}
    return t.WhisperForConditionalGeneration(t.WhisperConfig(**STACKS, **sizes, **tokens))


def _sounds(draw: _Draw) -> Samples:
    return [{"input_features": draw.normal(1, 8, 32), "labels": draw.ids(5 + n)} for n in draw.more]


def vit() -> t.PreTrainedModel:
    return t.ViTForImageClassification(t.ViTConfig(**IMAGE, num_hidden_layers=2))


def swin() -> t.PreTrainedModel:
    """Return a model whose hidden states become fewer and wider on their way."""
    config = t.SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4)
    return t.SwinForImageClassification(config)


def clip() -> t.PreTrainedModel:
    """Return two towers side by side."""
    words = {**TEXT, "bos_token_id": 1, "eos_token_id": 2}
    images = {**IMAGE, "num_hidden_layers": 2}
    return t.CLIPModel(t.CLIPConfig(text_config=words, vision_config=images, projection_dim=16))


def _pairs(draw: _Draw) -> Samples:
    return [{"input_ids": draw.ids(9 + n), "pixel_values": draw.normal(1, 3, 16, 16)} for n in draw.more]


def llava() -> t.PreTrainedModel:
    """Return a language model behind a tower of three blocks, of which the last one is not looked at."""
    images = t.CLIPVisionConfig(**IMAGE, num_hidden_layers=3)
    ids = {"image_token_index": 255, "image_token_id": 255}
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(text_config=t.LlamaConfig(**DECODER), vision_config=images, **ids)
    )


def _seen(draw: _Draw) -> Samples:
    return [
        {
            "input_ids": draw.with_image(9 + n, torch.full((4,), 255)),
            "pixel_values": draw.normal(1, 3, 16, 16),
        }
        for n in draw.more
    ]


def qwen3_vl() -> t.PreTrainedModel:
    """Return a language model that is given what several blocks of a tower gave, behind its own first blocks."""
    rotary = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    words = {**DECODER, "num_hidden_layers": 3, "head_dim": 8, "rope_scaling": rotary}
    images = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 16,
    }
    ids = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
    return t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(text_config=words, vision_config=images, **ids))


def _grids(draw: _Draw) -> Samples:
    samples = []
    for n in draw.more:
        height = 4 + 4 * (n == 1)  # patches; a token stands for four
        ids = draw.with_image(9 + n, torch.tensor([252, *[250] * height, 253]))
        samples.append(
            {
                "input_ids": ids,
                "pixel_values": draw.normal(4 * height, 3 * 2 * 4 * 4),
                "image_grid_thw": torch.tensor([[1, height, 4]]),
                "mm_token_type_ids": (ids == 250).long(),
            }
        )
    return samples


def wav2vec2() -> t.PreTrainedModel:
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return t.Wav2Vec2ForCTC(t.Wav2Vec2Config(**{**TEXT, "vocab_size": 32}, **convolutions, **positions))


def _waves(draw: _Draw) -> Samples:
    return [{"input_values": draw.normal(1, 400 + 40 * n)} for n in draw.more]


MAKERS: dict[str, tuple[Callable[[], t.PreTrainedModel], Callable[[_Draw], Samples]]] = {
    "llama": (llama, _texts),
    "gemma3n": (gemma3n, _texts),
    "gemma4": (gemma4, _texts),
    "bert": (bert, _texts),
    "masked": (masked, _texts),
    "bart": (bart, _answered),
    "t5": (t5, _answered),
    "whisper": (whisper, _sounds),
    "vit": (vit, _images),
    "swin": (swin, _images),
    "clip": (clip, _pairs),
    "llava": (llava, _seen),
    "qwen3-vl": (qwen3_vl, _grids),
    "wav2vec2": (wav2vec2, _waves),
}
SEVERAL_SEGMENTS = ("bart", "t5", "whisper", "clip", "llava", "qwen3-vl")


def make(kind: str, seed: int = 0, count: int = SAMPLES) -> tuple[t.PreTrainedModel, Samples]:
    """Return a model, biases and norms random too, and samples for it."""
    torch.manual_seed(seed)
    model = MAKERS[kind][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif kind != "t5":  # of which the initialisation is large enough
                parameter.mul_(4)  # else blocks hardly change their input
    return model, MAKERS[kind][1](_Draw(count))


def forward_inputs(model: t.PreTrainedModel, sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what the whole model is run on for a sample, without labels."""
    return {name: tensor for name, tensor in completed(model, sample).items() if name != LABELS}


def blockwise(
    model: t.PreTrainedModel, samples: Samples | Tensor, scratch: ScratchSpace | None = None
) -> BlockwiseModel:
    """Return a model as it is run block by block on samples, or on rows of tokens."""
    if isinstance(samples, Tensor):
        calibration, probe = Calibration(samples, "test", 0), None
    else:
        calibration = Calibration(None, "test", 0, tuple(as_samples(samples)))
        probe = forward_inputs(model, samples[0])
    blocks = find_blocks(model, None, probe)
    scratch = scratch or ScratchSpace()
    found = BlockwiseModel(model, blocks, ResidentWeights(), torch.device("cpu"), scratch, calibration)
    return found.settled()
