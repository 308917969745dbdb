"""Leaves in blocks only the linears between which a width can shrink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eckart.blocks.block import Block, Why
from eckart.errors import UnsupportedModelError
from eckart.methods.pairs import Narrow, Pairs


def pairs_alone(blocks: Sequence[Block], chosen: Pairs) -> list[Block]:
    """Return the blocks with the linears in their groups that are in a pair; all others are left as they are.

    Args:
        blocks: with their pairs.
        chosen: says which kinds of pairs shrink.

    Raises:
        UnsupportedModelError: there are none.
    """
    assert isinstance(chosen, Narrow)
    kinds = {kind for kind in ("units", "values", "keys") if getattr(chosen, kind) != "none"}
    found = [_alone(block, kinds) for block in blocks]
    if not any(block.pairs for block in found):
        raise UnsupportedModelError(
            f"No widths were found between the linear layers of {len(blocks)} blocks that could shrink; looked for "
            f"{', '.join(sorted(kinds)) or 'none'}. Use pairs=none, which factors each linear layer."
        )
    return found


def _alone(block: Block, kinds: set[str]) -> Block:
    pairs = tuple(pair for pair in block.pairs if pair.kind in kinds)
    names = {name for pair in pairs for name in pair.names}
    others = {ref.name: Why.ALONE for ref in block.linears if ref.name not in names}
    groups = [replace(g, linears=tuple(ref for ref in g.linears if ref.name in names)) for g in block.groups]
    return replace(
        block,
        groups=tuple(group for group in groups if group.linears),
        left={**block.left, **others},
        pairs=pairs,
    )
