from __future__ import annotations

import torch
from tests.cache.helpers import factored
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache

from eckart.cache.call import Call, Roles
from eckart.cache.replay import states_again, zero_output


class Attention(nn.Module):
    """Halves and shifts keys before it hands them over, and counts how often it goes on behind that."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"k": nn.Linear(4, 6), "v": nn.Linear(4, 6), "q": nn.Linear(4, 6)})
        self.passed: list[int] = []

    def forward(self, hidden: Tensor, shift: Tensor, past: Cache) -> Tensor:
        keys, values, _ = (self.inner[name](hidden).unflatten(-1, (2, 3)).transpose(1, 2) for name in "kvq")
        assert past.get_seq_length() == 0
        keys, values = past.update(keys / 2 + shift[:, None], values, 0)
        self.passed.append(1)
        total: Tensor = keys + values
        return total


def test_a_module_is_run_up_to_its_cache_with_outputs_that_are_given() -> None:
    module = Attention()
    hidden, shift = torch.randn(2, 5, 4), torch.randn(2, 5, 1)
    call = Call.of((hidden[:, :1], shift[:, :1]), {"past": DynamicCache()})
    paths = list(call.tensors())
    roles = Roles({paths[1]: 1}, {paths[0]: 1}, frozenset())
    k, v = module.inner["k"](hidden), module.inner["v"](hidden)
    outputs = {"inner.k": k, "inner.v": v, "inner.q": zero_output(k, 6)}
    before = dict(module.inner.named_children())
    states = states_again(module, call, roles, {paths[1]: shift}, outputs)
    assert states is not None
    torch.testing.assert_close(states.keys, k.unflatten(-1, (2, 3)).transpose(1, 2) / 2 + shift[:, None])
    torch.testing.assert_close(states.values, v.unflatten(-1, (2, 3)).transpose(1, 2))
    assert module.passed == []
    assert dict(module.inner.named_children()) == before


def test_a_module_that_hands_nothing_over_gives_nothing() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k_proj = nn.Linear(2, 3)

        def forward(self, hidden: Tensor, past: Cache) -> Tensor:
            return hidden

    call = Call.of((torch.zeros(1, 1, 2),), {"past": DynamicCache()})
    outputs = {"k_proj": torch.zeros(1, 2, 3)}
    assert states_again(Idle(), call, Roles({}, {}, frozenset()), {}, outputs) is None


def test_what_is_asked_of_a_projection_is_asked_of_the_layer() -> None:
    attention = factored().model.layers[0].self_attn

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k_proj = attention.k_proj

        def forward(self, past: Cache) -> None:
            dtype = self.k_proj.weight.dtype
            keys = self.k_proj(None).to(dtype)
            past.update(keys[:, None], keys[:, None], 0)

    call = Call.of((), {"past": DynamicCache()})
    states = states_again(Asking(), call, Roles({}, {}, frozenset()), {}, {"k_proj": torch.ones(1, 2, 16)})
    assert states is not None
    assert states.keys.shape == (1, 1, 2, 16)
