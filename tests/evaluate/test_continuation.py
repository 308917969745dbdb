from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from tests.evaluate.helpers import with_an_end
from transformers import PreTrainedTokenizerFast

from eckart.errors import EckartError
from eckart.evaluate import continuation


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_writes_as_far_as_there_is_room(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, tokenizer = make_model(kind), with_an_end(tokenizer)
    prompt = "x" * 120
    with torch.no_grad():
        first = int(model(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].argmax())
    written = continuation(model, tokenizer, prompt, tokens=1)
    assert written == tokenizer.decode([first], skip_special_tokens=True)
    long = tokenizer(continuation(model, tokenizer, prompt), verbose=False)["input_ids"]
    assert 0 < len(long) <= 3 * 8  # bytes that are no character become three


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "A prompt is text of a character or more, found ''"),
        ("a\ud83d", r"found 'a\\ud83d'"),
        ("x" * 128, "has 128 tokens; expected at least one, and room for another in the model's context of 128"),
        ("x" * 500, "has 500 tokens"),
        ("a word", "The prompt has the token id 256, and the model's embedding has 256 rows"),
    ],
)
def test_prompts_that_cannot_be_continued(prompt: str, message: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens(["word"])
    with pytest.raises(EckartError, match=message):
        continuation(make_model("gpt2"), with_an_end(tokenizer), prompt)
