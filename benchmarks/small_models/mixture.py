"""The mixture of experts: fused experts, two of which see each token, trained on text that comes with Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from small_models.language import Language, trained_on_text
from small_models.training import Schedule

VERSION = 1  # of the text and of training: another one is another model
END = "<end>"
BALANCE = 0.02  # weight of the loss that spreads tokens over experts


@dataclass(frozen=True)
class Settings:
    """All that the trained model depends on, but for its text and the machine's products."""

    schedule: Schedule = field(default_factory=lambda: Schedule(steps=2400, batch=8, rate=2e-3))
    length: int = 256
    vocabulary: int = 2048
    hidden: int = 192
    layers: int = 4
    experts: int = 16
    chosen: int = 2  # experts for a token
    inner: int = 192
    heads: int = 6
    seed: int = 0


QUICK = Settings(
    schedule=Schedule(steps=400, batch=8, rate=3e-3),
    length=128,
    vocabulary=512,
    hidden=64,
    layers=2,
    experts=8,
    inner=64,
    heads=4,
)


def make_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of pairs of bytes, learnt from a text."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(text.split("\n\n"), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


def make_model(settings: Settings, vocabulary: int) -> PreTrainedModel:
    """Return the model with random weights, float32."""
    torch.manual_seed(settings.seed)
    config = Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads // 2,
        head_dim=settings.hidden // settings.heads,
        intermediate_size=settings.inner,  # of a dense layer, of which there is none
        moe_intermediate_size=settings.inner,
        num_experts=settings.experts,
        num_experts_per_tok=settings.chosen,
        norm_topk_prob=True,
        router_aux_loss_coef=BALANCE,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    model: PreTrainedModel = Qwen3MoeForCausalLM(config)
    return model


def trained(settings: Settings, source: str | None = None, chosen: Path | None = None) -> Path:
    """Return the folder of the trained model; see :func:`small_models.language.trained_on_text`."""
    own = Language("mixture", VERSION, make_tokenizer, make_model, {"output_router_logits": torch.tensor(True)})
    return trained_on_text(own, settings, source, chosen)


@torch.inference_mode()
def evenness(model: PreTrainedModel, ids: Tensor) -> dict[str, float]:
    """Return how evenly the routers spread tokens over experts.

    Args:
        model: a mixture whose forward pass can give its routers' logits.
        ids: (samples, length) int64.

    Returns:
        ``entropy``: of the share of each expert, 1 where all are alike, the mean over layers; ``least``: the share of
        the least used expert of all layers, as a multiple of an even one.
    """
    experts = model.config.num_experts
    logits = model(input_ids=ids.to(model.device), output_router_logits=True).router_logits
    entropies, least = [], math.inf
    for layer in logits:
        chosen = layer.float().topk(model.config.num_experts_per_tok).indices
        share = torch.bincount(chosen.flatten().cpu(), minlength=experts) / chosen.numel()
        entropies.append(float(torch.special.entr(share).sum()) / math.log(experts))
        least = min(least, float(share.min()) * experts)
    return {"entropy": sum(entropies) / len(entropies), "least": least}
