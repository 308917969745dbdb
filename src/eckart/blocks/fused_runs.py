"""Groups of one linear that several experts were fused to: what each of them is handed is told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from eckart.blocks.block import Group
from eckart.layers import fused_layers
from eckart.maths.moments import Moments, summed


def with_runs(
    module: nn.Module, groups: Sequence[Group], describe: Callable[[Sequence[Group]], Sequence[Group]]
) -> tuple[Group, ...]:
    """Return groups as ``describe`` gives them, which looks at each run of a fused linear as at a group.

    Args:
        module: the block.
        groups: of it, in order of execution.
        describe: returns groups, perhaps in another order, each with what is known of its expert.
    """
    fused = {f"{first}.joint": names for first, names in fused_layers(module).items()}
    whole: dict[str, Group] = {}
    apart: list[Group] = []
    for group in groups:
        ref = group.linears[0]
        if ref.runs == 1:
            apart.append(group)
            continue
        names = fused[ref.name]
        for name in names[:: len(names) // ref.runs]:
            whole[name] = group
            apart.append(replace(group, linears=(replace(ref, name=name),)))
    parts: dict[Group, list[Group]] = {}
    found: list[Group] = []
    for group in describe(apart):
        joint = whole.get(group.linears[0].name)
        if joint is None:
            found.append(group)
        elif joint not in parts:
            parts[joint] = [group]
            found.append(joint)
        else:
            parts[joint].append(group)
    return tuple(replace(group, parts=tuple(parts.get(group, ()))) for group in found)


def put_together(groups: Iterable[Group], moments: Mapping[Group, Moments]) -> dict[Group, Moments]:
    """Return the moments of groups from those of their parts."""
    return {
        group: summed([moments[part] for part in group.parts]) if group.parts else moments[group] for group in groups
    }
