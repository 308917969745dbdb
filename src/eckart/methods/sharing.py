"""Whether linears that share an input share a basis too: then one matrix ``first`` serves them all.

A shared basis is nothing else than one low-rank weight for the stack of theirs, so that they are fused to one linear
layer before anything is measured. All objectives, allocations and structures then apply as they are.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.methods.choice import Choice


class Sharing(Choice):
    """A choice of which linears share a basis."""

    fuses_all: ClassVar[bool] = False  # whether every group that can be fused is, before anything is measured
    measures: ClassVar[bool] = False  # whether groups are measured apart and fused, to choose among them


class Separate(Sharing):
    """Every linear has factors of its own, as in all published recipes but Basis Sharing."""

    name: Literal["separate"] = "separate"


class Shared(Sharing):
    """All linears that are handed the same tensor, such as q, k and v, or gate and up, have one basis.

    Basis Sharing (arXiv 2410.03765) shares one between neighbouring blocks instead, whose inputs are not the same.
    """

    name: Literal["shared"] = "shared"
    fuses_all: ClassVar[bool] = True


class SharedByLoss(Sharing):
    """Those groups share a basis that lose less with it at the same bytes, all groups cut to the share ``keep``.

    The loss is that of the objective, in its output metric if it has one; to know it takes two more measurements.
    """

    name: Literal["by-loss"] = "by-loss"
    measures: ClassVar[bool] = True


AnySharing = Separate | Shared | SharedByLoss
