"""Passes of a block for the moments of routed groups, whose tokens are paired under the compressed model's routing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from torch import Tensor, nn

from eckart.blocks.block import Group
from eckart.blocks.fused_runs import put_together
from eckart.blocks.input_sums import InputSums
from eckart.blocks.mixture_run import MixtureRun, lending, watched
from eckart.blocks.passes import BlockPass, HiddenStates, capture_inputs
from eckart.blocks.rankings import OtherRankingsError
from eckart.blocks.tensor_cache import TensorCache
from eckart.maths.moments import Moments


def routed_moments(
    block: BlockPass,
    groups: tuple[Group, ...],
    stream: HiddenStates,
    originals: Mapping[str, TensorCache],
    linears: Mapping[str, nn.Module],
    *,
    paired: bool,
) -> dict[Group, Moments]:
    """Return the moments of groups that are routed and do not depend on one another, in one pass.

    Where nothing is known of the mixture the compressed model's inputs are taken for the original ones: what is fitted
    is then the original output for the inputs that there are.

    Args:
        block: as compressed so far.
        groups: whose inputs are summed.
        stream: in front of the block, of the compressed model.
        originals: what mixtures are handed in the original model, batch by batch, by their names in the block.
        linears: of the original model in experts, by their names in the block.
        paired: whether pairs are wanted.
    """
    apart = tuple(part for group in groups for part in group.apart)
    sums = InputSums(apart, block.device, paired=paired)
    for index, (call, hidden) in enumerate(block.over(stream)):
        with watched(block.module, apart) as runs:
            inputs, _ = capture_inputs(block.module, partial(call, block.module), hidden, apart)
        pairs: dict[Group, Tensor] = {}
        for name, run in runs.items():
            if paired and name in originals:
                pairs |= _original_inputs(block, inputs, run, name, originals[name][index], linears)
        sums.add(inputs, runs, pairs)
    return put_together(groups, sums.result())


def _original_inputs(
    block: BlockPass,
    inputs: Mapping[Group, Tensor],
    run: MixtureRun,
    name: str,
    hidden: Tensor,
    linears: Mapping[str, nn.Module],
) -> dict[Group, Tensor]:
    """Return what groups of a mixture are handed of the tokens of ``inputs`` in the original model.

    Args:
        block: as compressed so far.
        inputs: of groups in the compressed model.
        run: of the mixture there.
        name: of the mixture.
        hidden: that it is handed in the original model.
        linears: of the original model in experts.
    """
    groups = tuple(group for group in inputs if group.expert is not None and group.expert.mixture == name)
    found: dict[Group, Tensor] = {}
    with lending(block.module, linears), suppress(OtherRankingsError):
        found, _ = capture_inputs(block.module, run.again, hidden, groups)
    return {group: tokens for group, tokens in found.items() if tokens.shape == inputs[group].shape}
