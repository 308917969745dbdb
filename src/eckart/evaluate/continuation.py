"""What a model writes, to be read by people."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 40


def continuation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int = NEW_TOKENS
) -> str:
    """Return the most likely token after token behind ``prompt``, as text without the prompt.

    Args:
        model: a causal language model.
        tokenizer: of it.
        prompt: not empty.
        tokens: to write; fewer if the text ends.
    """
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
