from __future__ import annotations

import pytest
import torch
from tests.conftest import CONFIGS, VOCABULARY, make_model
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import capture_arguments, check_calls_are_independent_of_tokens
from eckart.blocks.discovery import find_block_list
from eckart.errors import UnsupportedModelError

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
def test_calling_the_blocks_one_by_one_equals_the_model(kind: str, batch: int, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    ids = tokens[:batch]
    hidden, arguments = capture_arguments(model, find_block_list(model)[1], ids)
    with torch.no_grad():
        reference = model.base_model(ids, output_hidden_states=True).hidden_states
        for index, (block, call) in enumerate(zip(find_block_list(model)[1], arguments, strict=True)):
            torch.testing.assert_close(hidden, reference[index], rtol=0, atol=0)
            hidden = call(block, hidden)


def test_capturing_leaves_the_model_as_it_was(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        before = llama(tokens).logits
        capture_arguments(llama, find_block_list(llama)[1], tokens)
        assert torch.equal(llama(tokens).logits, before)
    assert all("forward" not in vars(block) for block in find_block_list(llama)[1])


def test_a_call_that_depends_on_the_text_is_refused(llama: PreTrainedModel) -> None:
    check_calls_are_independent_of_tokens(llama, llama.model.layers, 16, VOCABULARY, CPU)
    decoder = llama.model
    layer = decoder.layers[1]
    plain = layer.forward
    layer.forward = lambda hidden, **kwargs: plain(hidden, **{k: v for k, v in kwargs.items() if k != "extra"})
    embed = decoder.embed_tokens
    original_call = type(layer).__call__

    class Layer(type(layer)):  # type: ignore[misc]
        def __call__(self, hidden: torch.Tensor, **kwargs: object) -> torch.Tensor:
            result: torch.Tensor = original_call(self, hidden, extra=embed.last, **kwargs)
            return result

    embed.register_forward_hook(lambda module, args, result: setattr(module, "last", result.detach()))
    layer.__class__ = Layer
    with pytest.raises(UnsupportedModelError, match="'extra', which depends on the text"):
        check_calls_are_independent_of_tokens(llama, llama.model.layers, 16, VOCABULARY, CPU)
