"""The loss of next-token predictions: of the text's own tokens, or of tokens that the model itself draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LabelSource:
    """Where the labels of a cross-entropy come from.

    Attributes:
        sampled: whether they are drawn from the model's own predictions; else they are the text's next tokens.
        top_k: sampled labels are among this many of the most likely; None for all.
    """

    sampled: bool = False
    top_k: int | None = None


NEXT_TOKENS = LabelSource()


def label_loss(
    logits: Tensor, tokens: Tensor, source: LabelSource = NEXT_TOKENS, generator: torch.Generator | None = None
) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of one batch, in nats, and how many tokens were predicted.

    Args:
        logits: (batch, length, vocabulary).
        tokens: (batch, length) int64.
        source: of the labels.
        generator: on the CPU, for labels that are sampled.
    """
    logits = logits.float()
    if not source.sampled:
        logits, labels = logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    else:
        logits = logits.flatten(0, 1)
        if source.top_k is not None:
            # The curvature of the distribution over the leading tokens alone.
            logits = logits.topk(min(source.top_k, logits.shape[-1]), dim=-1).values
        labels = draw_labels(logits.detach().softmax(-1), generator)
    return functional.cross_entropy(logits, labels, reduction="sum"), len(labels)


def draw_labels(odds: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a label for each row of ``odds``, (tokens, vocabulary): where a random number falls among their sums.

    The number comes from the CPU, so that labels are the same on every device and only the numbers are moved.
    """
    sums = odds.cumsum(-1)
    places = torch.rand(len(odds), 1, generator=generator).to(sums) * sums[:, -1:]
    return torch.searchsorted(sums, places, right=True)[:, 0].clamp_max(odds.shape[1] - 1)
