from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import capture_calls
from eckart.blocks.discovery import find_block_list, find_blocks
from eckart.blocks.passes import observe_inputs


def test_observed_inputs_are_what_the_linears_are_handed(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    block = find_blocks(llama)[0]
    hidden, calls = capture_calls(llama, find_block_list(llama)[1], tokens)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        block.module.get_submodule(t.name).register_forward_hook(
            lambda module, args, result, name=t.name: seen.update({name: args[0]})
        )
        for group in block.groups
        for t in group.targets
    ]
    with torch.no_grad():
        expected_output = calls[0](block.module, hidden)
    for handle in handles:
        handle.remove()
    energies: dict = {}
    inputs, output = observe_inputs(block.module, calls[0], hidden, block.groups, output_energies=energies)
    assert torch.equal(output, expected_output)
    for group in block.groups:
        for target in group.targets:
            assert torch.equal(inputs[group], seen[target.name].flatten(0, 1))
            weight = block.module.get_submodule(target.name).weight.detach()
            assert energies[target] == pytest.approx(float((inputs[group] @ weight.T).square().sum()), rel=1e-5)
        stopped, nothing = observe_inputs(block.module, calls[0], hidden, (group,), stop=True)
        assert torch.equal(stopped[group], inputs[group])
        assert nothing is None
    assert not any(module._forward_pre_hooks for module in block.module.modules())
