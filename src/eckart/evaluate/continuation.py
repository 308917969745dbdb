"""What a model writes, to be read by people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.data.context import check_ids, context_of
from eckart.errors import EckartError
from eckart.files.decoding import half_character

if TYPE_CHECKING:
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
        tokens: to write; fewer if the text ends, or the model's context.

    Raises:
        EckartError: the prompt is empty, no text, or longer than the model can take, or the model's embedding lacks
            some of its tokens.
    """
    ids = prompt_ids(model, tokenizer, prompt).to(model.device)
    context = context_of(model)
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens if context is None else min(tokens, context - ids.shape[1]),
            pad_token_id=tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


def prompt_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tensor:
    """Return the token ids of a prompt, (1, length) int64; arguments and errors as for :func:`continuation`."""
    if not prompt or half_character(prompt):
        raise EckartError(f"A prompt is text of a character or more, found {prompt!r}.")
    ids: Tensor = torch.tensor([tokenizer(prompt)["input_ids"]], dtype=torch.int64)
    context = context_of(model)
    if not ids.numel() or (context is not None and ids.shape[1] >= context):
        raise EckartError(
            f"The prompt has {ids.shape[1]} tokens; expected at least one, and room for another in the model's context"
            f"{'' if context is None else f' of {context}'}. Use another prompt."
        )
    check_ids(model, ids, "The prompt")
    return ids
