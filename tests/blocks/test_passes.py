from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.tiny_models import blockwise, forward_inputs, make
from transformers import PreTrainedModel

from eckart.blocks.block import Block, LinearRef, hooks
from eckart.blocks.discovery import find_blocks
from eckart.blocks.entrance import enter
from eckart.blocks.passes import capture_inputs, gather, group_moments, input_moments
from eckart.blocks.tensor_cache import TensorCache
from eckart.layers import input_of

CPU = torch.device("cpu")


def test_observed_inputs_are_what_the_linears_are_handed(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    block = find_blocks(llama)[0]
    entered = enter(llama, find_blocks(llama), 0, {"input_ids": tokens})
    hidden, arguments = entered.hidden.detach(), entered.arguments
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
    run, energies = partial(arguments[0], block.module), dict[LinearRef, float]()
    inputs, output = capture_inputs(block.module, run, hidden, block.groups, output_energies=energies)
    assert output is not None
    assert torch.equal(output, expected_output)
    for group in block.groups:
        for ref in group.linears:
            assert torch.equal(inputs[group], seen[ref.name].flatten(0, 1))
            weight = block.module.get_submodule(ref.name).get_parameter("weight").detach()
            assert energies[ref] == pytest.approx(float((inputs[group] @ weight.T).square().sum()), rel=1e-5)
        stopped, nothing = capture_inputs(block.module, run, hidden, (group,), stop=True)
        assert torch.equal(stopped[group], inputs[group])
        assert nothing is None
    assert not any(module._forward_pre_hooks for module in block.module.modules())


def test_sequences_are_gathered_from_their_batches() -> None:
    rows = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    stream = TensorCache(torch.float32)
    for batch in torch.split(rows, 2):
        stream.append(batch)
    for numbers in ([0], [4, 1, 2]):
        assert torch.equal(gather(stream, torch.tensor(numbers), 2, CPU), rows[numbers])
    # Samples of any length, one by one.
    samples = [torch.randn(n, 2) for n in (3, 5, 4)]
    stream = TensorCache(torch.float32)
    for sample in samples:
        stream.append(sample)
    assert torch.equal(gather(stream, torch.tensor([1]), 1, CPU), samples[1])


def test_a_block_may_write_into_what_it_is_given(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    model = blockwise(llama, tokens)
    stream = model.enter()
    before = stream[0].clone()
    for _, hidden in model.block_pass(0).over(stream):
        hidden.zero_()
    assert torch.equal(stream[0], before)


def inputs_of(model: PreTrainedModel, samples: list[dict[str, torch.Tensor]], block: Block) -> dict[str, torch.Tensor]:
    """Return what linears are handed in runs of the whole model, by the name of the first one of each group."""
    seen: dict[str, list[torch.Tensor]] = {group.linears[0].name: [] for group in block.groups}

    def record(name: str) -> Any:
        return lambda _, args, kwargs: seen[name].append(input_of(args, kwargs).flatten(0, -2))

    with torch.no_grad(), hooks() as handles:
        for name in seen:
            module = block.module.get_submodule(name)
            handles.append(module.register_forward_pre_hook(record(name), with_kwargs=True))
        for sample in samples:
            model(**forward_inputs(model, sample))
    return {name: torch.cat(tensors) for name, tensors in seen.items()}


@pytest.mark.parametrize("kind", ["llava", "bart"])
def test_moments_are_those_of_all_samples_however_long_they_are(kind: str) -> None:
    model, samples = make(kind)
    original = blockwise(model, samples)
    streams = original.forward()
    for index, block in enumerate(original.blocks):
        seen = inputs_of(model, samples, block)
        behind = TensorCache(torch.float32)
        moments = input_moments(original.block_pass(index), block.groups, streams.fronts[index], behind)
        assert all(torch.equal(one, other) for one, other in zip(behind, streams.behinds[index], strict=True))
        for group in block.groups:
            inputs = seen[group.linears[0].name].double()
            assert moments[group].tokens == len(inputs)
            expected = inputs.T @ inputs
            torch.testing.assert_close(
                moments[group].second_moment.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
            )
            again = group_moments(original.block_pass(index), group, streams.fronts[index])
            torch.testing.assert_close(again.second_moment, moments[group].second_moment, rtol=1e-5, atol=1e-6)
