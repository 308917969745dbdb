"""Whether the inner widths between linears shrink, in place of factors: hidden units, values, rotary planes of keys.

MoDeGPT (arXiv 2408.09632) compresses modules in pairs. What is between two matrices, such as the hidden units of an
MLP, gets fewer; both matrices shrink, none is added, and there is no rank below which a layer has to be to save bytes.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from eckart.methods.choice import Choice


class Pairs(Choice):
    """A choice of what becomes of pairs of linears."""

    narrows: ClassVar[bool] = False  # whether widths between linears shrink, in place of factors


class NoPairs(Pairs):
    """Each linear is factored on its own."""

    name: Literal["none"] = "none"


class Narrow(Pairs):
    """Widths between linears shrink by the share that the allocation gives the pair; all other linears stay dense.

    - Hidden units are chosen, and the linear behind them is fitted again by least squares on their second moment
      (section 3.2 of the paper).
    - Of queries and keys rotary planes are chosen, the same for all heads that share a key (section 3.3). Logits keep
      their scale: the others count as zero.
    - Values keep some directions of a head, those that the output projection makes most of (section 3.4).

    Attributes:
        units: how hidden units are chosen. ``leverage``: by ridge leverage, as published, which does not look at the
            weight behind them. ``greedy``: one after another, each by what it lowers the loss; ours.
        ridge: of the leverage. The paper's number is not known to us; 0.01 is that of a re-implementation.
        ridge_scale: ``tokens``: the ridge is in the units of a token's second moment, as published. ``mean``: a share
            of the mean second moment of a unit; ours.
        keys: how planes are chosen. ``product``: by the sizes of queries and keys in each direction, as published.
            ``averaged``: by those averaged over relative positions; ours.
        values: how directions are chosen. ``inputs``: by the values of all tokens, as published for heads with values
            of their own; for heads that share some the exact joint form, where the paper gives none. ``mixed``: by what
            attention makes of them, the projection fitted to that by least squares, with all that heads have in common;
            ours.
        sweeps: of ``mixed``: how often directions and projection are fitted in turn, each to the other. Their number is
            fixed: no tokens are held out that could say when to stop.
    """

    name: Literal["narrow"] = "narrow"
    narrows: ClassVar[bool] = True

    units: Literal["leverage", "greedy", "none"] = "greedy"
    ridge: float = Field(0.01, gt=0.0)
    ridge_scale: Literal["tokens", "mean"] = "mean"
    keys: Literal["product", "averaged", "none"] = "averaged"
    values: Literal["inputs", "mixed", "none"] = "mixed"
    sweeps: int = Field(0, ge=0, le=8)

    @model_validator(mode="after")
    def _sweeps_fit_what_is_mixed(self) -> Self:
        if self.sweeps and self.values != "mixed":
            raise ValueError(
                f"sweeps fit directions of values and their projection in turn, and values={self.values} fits no "
                "projection. Use values=mixed, or sweeps=0."
            )
        return self


AnyPairs = NoPairs | Narrow
