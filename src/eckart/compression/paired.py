"""Leaves in blocks only the linears between which a width can shrink."""

from __future__ import annotations

from dataclasses import replace

from eckart.blocks.block import Block, Why
from eckart.compression.targets import Targets
from eckart.errors import UnsupportedModelError
from eckart.methods.pairs import Narrow, Pairs

KINDS = ("units", "values", "keys")


def pairs_alone(targets: Targets, chosen: Pairs) -> Targets:
    """Return the targets that are in a pair whose width shrinks; all others stay as they are.

    Where the choice leaves out a kind of pairs, they are left by the recipe; else they are what cannot shrink.

    Args:
        targets: blocks with their pairs.
        chosen: says which kinds of pairs shrink.

    Raises:
        UnsupportedModelError: there are none.
    """
    assert isinstance(chosen, Narrow)
    kinds = {kind for kind in KINDS if getattr(chosen, kind) != "none"}
    by_choice = kinds != set(KINDS)
    blocks = [_alone(block, kinds, by_choice=by_choice) for block in targets.blocks]
    if not any(block.pairs for block in blocks):
        raise UnsupportedModelError(
            f"No widths were found between the linear layers of {len(blocks)} blocks that could shrink; looked for "
            f"{', '.join(sorted(kinds)) or 'none'}. Both linears of a pair have to be targets. Use pairs=none, which "
            "factors each linear layer."
        )
    found = replace(targets, blocks=blocks)
    return replace(found, left=targets.left | (targets.paths - found.paths)) if by_choice else found


def _alone(block: Block, kinds: set[str], *, by_choice: bool) -> Block:
    pairs = tuple(pair for pair in block.pairs if pair.kind in kinds)
    names = {name for pair in pairs for name in pair.names}
    groups = [replace(g, linears=tuple(ref for ref in g.linears if ref.name in names)) for g in block.groups]
    others = {} if by_choice else {ref.name: Why.ALONE for ref in block.linears if ref.name not in names}
    return replace(
        block,
        groups=tuple(group for group in groups if group.linears),
        left={**block.left, **others},
        pairs=pairs,
    )
