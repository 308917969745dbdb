"""How often a draft proposes the token that the model itself would have chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.evaluate.windows import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Acceptance:
    """Where a draft agrees with what a model wrote.

    A draft is asked behind tokens that the model has accepted, which are those that the model wrote. So one look at all
    places tells what happens with any number of proposals.

    Attributes:
        agrees: (texts, tokens) bool: whether the draft's most likely token is the one that the model wrote.
    """

    agrees: Tensor

    @staticmethod
    def of(draft: PreTrainedModel, prompts: Tensor, written: Tensor) -> Acceptance:
        """Return the acceptance of a draft.

        Args:
            draft: in evaluation mode.
            prompts: (texts, length) int64.
            written: (texts, tokens) int64, what the model wrote behind them.
        """
        length, tokens = prompts.shape[1], written.shape[1]
        rows = []
        for ids, expected in zip(torch.cat([prompts, written], dim=1), written, strict=True):
            with torch.inference_mode():
                chosen = logits_of(draft, ids[None, :-1])[length - 1 :].argmax(dim=-1).cpu()
            assert len(chosen) == tokens
            rows.append(chosen == expected)
        return Acceptance(torch.stack(rows))

    @property
    def share(self) -> float:
        """The share of places at which the draft agrees."""
        return float(self.agrees.float().mean())

    def tokens_per_round(self, proposals: int) -> float:
        """Return how many tokens a round writes: those accepted of the proposals, and one of the model itself.

        It is counted, and not computed from :attr:`share` as in arXiv 2211.17192, equation 1: agreements come in runs.

        Args:
            proposals: of the draft in a round, 1 or more.
        """
        rounds = 0
        for row in self.agrees.tolist():
            place = 0
            while place < len(row):
                run = row[place : place + proposals]
                place += (run.index(False) if False in run else len(run)) + 1
                rounds += 1
        return self.agrees.numel() / rounds
