"""Tiny random models that vLLM can serve on a CPU, which wants heads of 32 numbers or more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as t
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import eckart

VOCABULARY = 264  # of the tokenizer of tests.tiny
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2}
DECODER: dict[str, Any] = {
    **COMMON,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
NEOX = {key: value for key, value in DECODER.items() if key not in ("num_key_value_heads", "head_dim")}
KINDS: dict[str, Any] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**DECODER, tie_word_embeddings=False)),
    "llama-tied-biases": lambda: t.LlamaForCausalLM(
        t.LlamaConfig(**DECODER, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**DECODER)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**DECODER)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**DECODER)),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(**COMMON, n_embd=128, n_layer=2, n_head=4, n_positions=256, n_inner=192)
    ),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**NEOX)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2)),
}
LAYOUTS: dict[str, list[str]] = {
    "two-factor": [],
    "two-factor-8": ["precision=8-bit"],
    "two-factor-4": ["precision=4-bit"],
    "pivoted": ["structure=pivoted"],
    "pivoted-4": ["structure=pivoted", "precision=4-bit"],
    "shared": ["sharing=shared"],
    "shared-pivoted": ["sharing=shared", "structure=pivoted"],
    "hybrid": ["structure=hybrid"],
    "hybrid-8": ["structure=hybrid", "precision=8-bit"],
    "hybrid-sparse": ["structure=hybrid", "structure.base=2-of-4"],
    "remapped": ["structure=remapped"],
}
# Where enough is kept to leave nothing factored, the folder is in another format.
SIZES: dict[str, float] = {"two-factor-8": 0.4, "two-factor-4": 0.2, "pivoted-4": 0.2, "hybrid-8": 0.45}
PROMPTS = [[5, 17, 200, 3], [9], [100, 101, 102, 103, 104, 105, 106], [77, 31]]


def make(kind: str = "llama") -> PreTrainedModel:
    """Return a model whose biases and norms are not what they begin with."""
    torch.manual_seed(0)
    model: PreTrainedModel = KINDS[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def compressed(
    folder: Path,
    *overrides: str,
    kind: str = "llama",
    recipe: str = "svd",
    keep: float = 0.6,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """Write a compressed model, and return its folder."""
    model = make(kind)
    ids = torch.randint(VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(0))
    report = eckart.compress(model, recipe, keep, ids, overrides=list(overrides))
    eckart.save(model, report, folder, tokenizer=tokenizer)
    return folder


@torch.no_grad()
def greedy(folder: Path, tokens: int = 64, prompts: list[list[int]] = PROMPTS) -> list[list[int]]:
    """Return the most likely tokens behind each prompt, by transformers in float32."""
    return greedy_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokens, prompts)


@torch.no_grad()
def greedy_of(model: Any, tokens: int = 64, prompts: list[list[int]] = PROMPTS) -> list[list[int]]:
    """Return the most likely tokens behind each prompt."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        outputs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **GREEDY)
        found.append(outputs[0, len(prompt) :].tolist())
    return found


GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
