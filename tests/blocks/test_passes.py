from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import capture_arguments
from eckart.blocks.block import LinearRef
from eckart.blocks.discovery import find_block_list, find_blocks
from eckart.blocks.passes import capture_inputs


def test_observed_inputs_are_what_the_linears_are_handed(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    block = find_blocks(llama)[0]
    hidden, arguments = capture_arguments(llama, find_block_list(llama)[1], tokens)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        block.module.get_submodule(t.name).register_forward_hook(
            lambda module, args, result, name=t.name: seen.update({name: args[0]})
        )
        for group in block.groups
        for t in group.linears
    ]
    with torch.no_grad():
        expected_output = arguments[0](block.module, hidden)
    for handle in handles:
        handle.remove()
    energies: dict[LinearRef, float] = {}
    inputs, output = capture_inputs(block.module, arguments[0], hidden, block.groups, output_energies=energies)
    assert output is not None
    assert torch.equal(output, expected_output)
    for group in block.groups:
        for ref in group.linears:
            assert torch.equal(inputs[group], seen[ref.name].flatten(0, 1))
            weight = block.module.get_submodule(ref.name).get_parameter("weight").detach()
            assert energies[ref] == pytest.approx(float((inputs[group] @ weight.T).square().sum()), rel=1e-5)
        stopped, nothing = capture_inputs(block.module, arguments[0], hidden, (group,), stop=True)
        assert torch.equal(stopped[group], inputs[group])
        assert nothing is None
    assert not any(module._forward_pre_hooks for module in block.module.modules())
