"""Learned: Dobi-SVD's trained truncation positions (arXiv 2502.02723, section 3.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from eckart.methods.allocation.base import Allocation, gain_per_byte_of_shares
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.rank_budget import LayerStatistics, Needs, RankBudget, Ranks
from eckart.methods.layout import dense_bytes


class Learned(Allocation):
    """Each linear's outputs are truncated at a position that is trained with the model's loss.

    The outputs of a sequence, (tokens, m), are cut by a soft gate over their singular values. Only the positions are
    trained, by Adam, with a penalty on the distance of the bytes from the budget. The rank is the position as a share
    of min(m, n).

    Attributes:
        epochs: passes over the training samples; 20 in the paper.
        training_samples: calibration samples that are trained on; 256 in the paper.
        training_length: tokens of each that are looked at; None for all. The cost of an SVD grows with its square.
        learning_rate: of Adam, in positions a step, at the start; 5 in the paper.
        final_learning_rate: at the end of a cosine; 4 in the paper.
        penalty: on the distance of the share of bytes from the budget; 200 in the paper.
        sharpness: of the gate; 10 in the paper.
    """

    name: Literal["learned"] = "learned"
    needs: ClassVar[Needs] = Needs.TRUNCATION_POINT

    epochs: int = Field(20, ge=1)
    training_samples: int = Field(256, ge=1)
    training_length: int | None = Field(None, ge=2)
    learning_rate: float = Field(5.0, gt=0)
    final_learning_rate: float = Field(4.0, gt=0)
    penalty: float = Field(200.0, ge=0)
    sharpness: float = Field(10.0, gt=0)

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the rank at each position."""
        return {linear.path: _rank(linear) for linear in problem.linears}

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return how far a step starts below the trained position."""
        shares = {
            linear.path: problem.cost(linear, _rank(linear)) / dense_bytes(*linear.shape) for linear in problem.linears
        }
        return gain_per_byte_of_shares(problem, shares)


def _rank(linear: LayerStatistics) -> int:
    assert linear.truncation_point is not None
    return max(1, round(linear.truncation_point * min(linear.shape)))
