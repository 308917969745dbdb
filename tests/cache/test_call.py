from __future__ import annotations

import torch
from transformers import DynamicCache

from eckart.cache.call import Call, Roles, blank_like


def test_tensors_and_the_cache_are_found_wherever_they_are() -> None:
    hidden, angles, cache = torch.zeros(2, 3, 4), (torch.ones(1, 3, 2), torch.ones(1, 3, 2)), DynamicCache()
    call = Call.of((hidden,), {"position_embeddings": angles, "past": cache, "flag": True, "mask": None})
    assert call.cache is cache
    found = call.tensors()
    assert [tensor is value for tensor, value in zip(found.values(), (hidden, *angles), strict=True)] == [True] * 3
    other = DynamicCache()
    again = call.replaced(lambda path, tensor: None if tensor is hidden else tensor + 1, other)
    assert again.args == (None,)
    assert again.kwargs["past"] is again.cache is other
    assert again.kwargs["flag"] is True
    assert torch.equal(again.kwargs["position_embeddings"][1], angles[1] + 1)
    assert call.args[0] is hidden  # not changed
    assert Call.of((), {"x": 1}).cache is None


def test_what_grows_with_the_tokens_is_told_from_masks_and_constants() -> None:
    def call(tokens: int, past: int) -> dict[str, torch.Tensor]:
        return {
            "hidden": torch.zeros(2, tokens, 8),
            "angles": torch.zeros(3, 2, tokens, 4),  # of several axes
            "mask": torch.zeros(2, 1, tokens, past + tokens),
            "padding": torch.zeros(2, past + tokens),
            "scale": torch.zeros(4),
            "flat": torch.zeros(2 * tokens, 8),
            "other": torch.zeros(2) if past else torch.zeros(2, 2),
        }

    roles = Roles.seen_in((call(7, 0), call(3, 7) | {"new": torch.zeros(1)}), (7, 3))
    assert roles.stored == {"hidden": 1, "angles": 2}
    assert roles.constant == {"scale"}
    fewer = roles.without("hidden")
    assert (fewer.stored, fewer.blank) == ({"angles": 2}, {"hidden": 1})
    assert roles.blank == {}


def test_zeros_take_no_memory() -> None:
    blank = blank_like(torch.ones(2, 3, 8, dtype=torch.bfloat16), 1, 1000)
    assert blank.shape == (2, 1000, 8)
    assert blank.dtype == torch.bfloat16
    assert blank.untyped_storage().nbytes() == 2
    assert not blank.any()
