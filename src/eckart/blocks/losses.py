"""The loss of a model, whatever it predicts: tokens, classes or vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from eckart.data.samples import IDS, LABELS
from eckart.errors import UnsupportedModelError
from eckart.maths.labels import NEXT_TOKENS, LabelSource, draw_labels, label_loss

IGNORED = -100  # a label that does not count


def predictions(output: Any) -> Tensor:
    """Return the logits in what a model returned, or else the first of its tensors that is one of floats.

    Raises:
        UnsupportedModelError: there is none.
    """
    logits = getattr(output, "logits", None)
    found = logits if isinstance(logits, Tensor) else next(filter(_is_float, tree_leaves(output)), None)
    if found is None:
        raise UnsupportedModelError(f"A model that returns {type(output).__name__} without numbers has no loss.")
    return found


def gives_logits(output: Any) -> bool:
    """Return whether what a model returned are odds, and not vectors."""
    return isinstance(getattr(output, "logits", None), Tensor)


def model_loss(
    output: Any,
    inputs: Mapping[str, Tensor],
    source: LabelSource = NEXT_TOKENS,
    generator: torch.Generator | None = None,
    *,
    predicts_next: bool = True,
) -> tuple[Tensor, int]:
    """Return the summed loss of one batch, in nats, and how many predictions were made.

    It is the cross-entropy of labels, where the model gives logits. Labels are those of the batch; of a model that
    predicts the next token, the tokens themselves are, if there are none. Where neither is there, or where that is
    asked for, they are drawn from the predictions. For a model that gives vectors, labels are drawn around those with
    the variance 1, and the loss is half the squared distance: its gradient is a random direction of the outputs.

    Args:
        output: of the model.
        inputs: of the batch, with its labels.
        source: of the labels.
        generator: on the CPU, for labels that are drawn.
        predicts_next: whether logits in each place are of the next token.
    """
    found = predictions(output)
    if not gives_logits(output):
        noise = torch.randn(found.shape, generator=generator).to(found)
        return -(found.float() * noise.float()).sum(), max(found.numel() // max(found.shape[-1], 1), 1)
    labels = inputs.get(LABELS)
    if predicts_next and found.ndim == 3:
        if labels is None and IDS in inputs and inputs[IDS].shape == found.shape[:2]:
            return label_loss(found, inputs[IDS].to(found.device), source, generator)
        if labels is not None and labels.shape == found.shape[:2]:
            found, labels = found[:, :-1], labels[:, 1:]
    logits = found.float().flatten(0, -2)
    counts = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    if labels is not None and labels.numel() == len(logits):
        labels = labels.flatten().to(logits.device)
        counts = labels != IGNORED
        if not source.sampled:
            return functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"), int(counts.sum())
    logits = logits[counts]
    if source.top_k is not None:
        logits = logits.topk(min(source.top_k, logits.shape[-1]), dim=-1).values
    drawn = draw_labels(logits.detach().softmax(-1), generator)
    return functional.cross_entropy(logits, drawn, reduction="sum"), len(logits)


def divergence(
    ours: Any,
    theirs: Any,
    inputs: Mapping[str, Tensor],
    *,
    predicts_next: bool = True,
    temperature: float = 1.0,
    first: int = 0,
) -> tuple[Tensor, int]:
    """Return how far a model's predictions are from another one's, summed, and the number of predictions.

    It is ``KL(theirs || ours)`` of logits, at the places of labels if there are some, and half the squared distance of
    vectors.

    Args:
        ours: what the one model returned.
        theirs: what the other did.
        inputs: of the batch, with its labels.
        predicts_next: whether logits in each place are of the next token.
        temperature: by which the logits of both are divided.
        first: place in a sequence from which predictions of the next token count, if the sequence is longer.
    """
    found, expected = predictions(ours), predictions(theirs)
    if not gives_logits(ours):
        rows = max(found.numel() // max(found.shape[-1], 1), 1)
        return (found.float() - expected.float()).square().sum() / 2, rows
    counts = None
    labels = inputs.get(LABELS)
    if labels is not None and labels.numel() == found[..., 0].numel():
        counts = labels.to(found.device).view(found.shape[:-1]) != IGNORED
        if predicts_next:  # the place in front of a label predicts it
            counts = functional.pad(counts[:, 1:], (0, 1))
    if predicts_next and found.ndim == 3 and 0 < first < found.shape[1]:
        behind = (torch.arange(found.shape[1], device=found.device) >= first).expand(found.shape[:2])
        counts = behind if counts is None else counts & behind if (counts & behind).any() else counts
    found, expected = found.flatten(0, -2), expected.flatten(0, -2)
    if counts is not None:
        found, expected = found[counts.flatten()], expected[counts.flatten()]
    found, expected = found.float() / temperature, expected.float() / temperature
    loss = functional.kl_div(found.log_softmax(-1), expected.log_softmax(-1), reduction="sum", log_target=True)
    return loss, len(found)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 0
