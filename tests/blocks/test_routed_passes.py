from __future__ import annotations

import copy
from typing import Any

import torch
from tests.listed import ListedConfig, ListedForCausalLM
from tests.tiny_models import blockwise
from torch import Tensor

from eckart.blocks.routed_passes import routed_moments
from eckart.blocks.tensor_cache import TensorCache

SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def cache(tensors: list[Tensor]) -> TensorCache:
    found = TensorCache(torch.float32)
    for tensor in tensors:
        found.append(tensor)
    return found


def test_pairs_are_of_one_token_and_where_there_are_none_inputs_stand_for_them() -> None:
    torch.manual_seed(0)
    model = ListedForCausalLM(ListedConfig(**SIZES)).eval()
    tokens = torch.randint(1, 250, (4, 10), generator=torch.Generator().manual_seed(0))
    walked = blockwise(model, tokens)
    stream = walked.enter()
    block, run = walked.blocks[0], walked.block_pass(0)
    stages = list(dict.fromkeys(group.stage for group in block.groups if group.routed))
    down = tuple(group for group in block.groups if group.stage == stages[1])
    handed: list[Tensor] = []
    mixture: Any = block.module.get_submodule("mlp")
    handle = mixture.register_forward_pre_hook(lambda _, args: handed.append(args[0].clone()))
    for call, hidden in run.over(stream):
        with torch.no_grad():
            call(block.module, hidden)
    handle.remove()
    originals = [hidden.flip(1) for hidden in handed]  # other hidden states than the block has
    first = {group.linears[0].name: block.module.get_submodule(group.linears[0].name) for group in block.groups}
    lent = {name: copy.deepcopy(linear) for name, linear in first.items() if "experts" in name}
    for linear in lent.values():
        with torch.no_grad():
            linear.get_parameter("weight").mul_(2)
    found = routed_moments(run, down, stream, {"mlp": cache(originals)}, lent, paired=True)
    alone = routed_moments(run, down, stream, {}, lent, paired=True)
    single = routed_moments(run, down, stream, {"mlp": cache(originals)}, lent, paired=False)
    differences = 0
    for group in down:
        shift, none = found[group].shift, alone[group].shift
        assert shift is not None
        assert none is not None
        differences += int(bool(shift.any()))
        assert not none.any()
        assert torch.equal(found[group].second_moment, alone[group].second_moment)
        assert single[group].shift is None
        torch.testing.assert_close(single[group].second_moment, found[group].second_moment, rtol=1e-4, atol=1e-6)
    assert differences == len(down)
