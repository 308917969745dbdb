"""Whether linears with inputs of one kind share a basis too: then one matrix ``first`` serves them all.

A shared basis is nothing else than one low-rank weight for the stack of theirs, so that they are fused to one linear
layer before anything is measured. All objectives, allocations and structures then apply as they are.

The first linears of the experts of a mixture are handed different tokens of the same hidden states. Fused, their inputs
are those of all experts, and the basis is that of

    minimise over V (r, n), U_e (2 f, r)   sum_e || (W_e - U_e V) X ||^2,   X the tokens of all experts,

after which each ``U_e`` is fitted to the tokens of its own expert (see :mod:`eckart.maths.shared_basis`). They take
``r (2 f E + n)`` numbers for E experts, where factors of their own take ``E r (2 f + n)``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.methods.choice import Choice


class Sharing(Choice):
    """A choice of which linears share a basis."""

    fuses_all: ClassVar[bool] = False  # whether every group that can be fused is, before anything is measured
    fuses_experts: ClassVar[bool] = False  # whether the first linears of experts are, each in a run of its own
    measures: ClassVar[bool] = False  # whether groups are measured apart and fused, to choose among them

    @property
    def fuses(self) -> bool:
        """Whether any linears are fused before anything is measured."""
        return self.fuses_all or self.fuses_experts


class Separate(Sharing):
    """Every linear has factors of its own, as in all published recipes but Basis Sharing."""

    name: Literal["separate"] = "separate"


class Shared(Sharing):
    """All linears that are handed the same tensor, such as q, k and v, or gate and up, have one basis.

    Basis Sharing (arXiv 2410.03765) shares one between neighbouring blocks instead, whose inputs are not the same.
    """

    name: Literal["shared"] = "shared"
    fuses_all: ClassVar[bool] = True


class AcrossExperts(Sharing):
    """The linears of all experts of a block that are handed its hidden states, such as gate and up, have one basis.

    All others have factors of their own. Basis Sharing (arXiv 2410.03765), with experts in the place of blocks.
    """

    name: Literal["experts"] = "experts"
    fuses_experts: ClassVar[bool] = True


class SharedByLoss(Sharing):
    """Those groups share a basis that lose less with it at the same bytes, all groups cut to the share ``keep``.

    Of experts, those of a block share one, or the linears of each, or none do.

    The loss is that of the objective, in its output metric if it has one; to know it takes two more measurements, or
    three where there are experts.
    """

    name: Literal["by-loss"] = "by-loss"
    measures: ClassVar[bool] = True


AnySharing = Separate | Shared | AcrossExperts | SharedByLoss
