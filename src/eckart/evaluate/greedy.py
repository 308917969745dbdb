"""Answers that a model writes itself, or chooses, beside the one that was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from eckart.data.answers import IGNORED, decoder_inputs
from eckart.data.processor import Inputs
from eckart.data.samples import Sample
from eckart.errors import EckartError
from eckart.evaluate.reading import placed, read_item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MORE = 4  # tokens that a model may write beyond the answer, to see that it stops


def answers_right(model: PreTrainedModel, sample: Sample, tokenizer: PreTrainedTokenizerBase | None) -> float:
    """Return 1 if a model's greedy answer is the last one in a sample, or 0.

    Args:
        model: that writes.
        sample: with labels.
        tokenizer: to compare texts, without spaces around them and letter case; without it tokens are compared.

    Raises:
        EckartError: the model cannot write.
    """
    prompt, expected = split(model, sample)
    written = write(model, prompt, len(expected) + MORE)
    return float(_plain(model, written, tokenizer) == _plain(model, expected, tokenizer))


def split(model: PreTrainedModel, sample: Sample) -> tuple[dict[str, Tensor], Tensor]:
    """Return what a sample asks, and the last answer in it, (tokens,) int64."""
    labels = sample["labels"][0]
    rest = {name: value for name, value in sample.items() if name not in ("labels", "decoder_input_ids")}
    places = (labels != IGNORED).nonzero()[:, 0]
    if Inputs.of(model).separate_decoder:
        return rest, labels[places]
    gaps = (places[1:] - places[:-1] > 1).nonzero()[:, 0]
    first = int(places[int(gaps[-1]) + 1]) if len(gaps) else int(places[0])
    shape = sample["input_ids"].shape
    return {k: v[:, :first] if v.shape == shape else v for k, v in rest.items()}, labels[places[places >= first]]


def write(model: PreTrainedModel, prompt: Sample, tokens: int) -> Tensor:
    """Return what a model writes most likely behind a prompt, (tokens,) int64, without it.

    Raises:
        EckartError: it fails.
    """
    given = placed(model, prompt)
    ids = given.get("input_ids")
    try:
        found: Tensor = model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=tokens)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise EckartError(f"{type(model).__name__} cannot write an answer: {error}") from error
    if not Inputs.of(model).separate_decoder and ids is not None:
        return found[0, ids.shape[1] :].cpu()
    # Some models leave out the token that their decoder starts from.
    starts = bool(found.shape[1]) and found[0, :1].cpu().tolist() == decoder_inputs(model, None)[0].tolist()
    return found[0, int(starts) :].cpu()


def option_chosen(model: PreTrainedModel, options: Sequence[Sample]) -> int:
    """Return the number of the answer that a model finds most likely as a whole.

    Args:
        model: that writes.
        options: a sample for each answer to one question.
    """
    losses = []
    for sample in options:
        reading = read_item(model, sample)
        if reading.logits is None or reading.targets is None:
            raise EckartError(f"{type(model).__name__} gives no predictions to choose an answer by.")
        losses.append(functional.cross_entropy(reading.logits.float(), reading.targets, reduction="sum"))
    return int(torch.stack(losses).argmin())


def _plain(model: PreTrainedModel, ids: Tensor, tokenizer: PreTrainedTokenizerBase | None) -> object:
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = [*(ends if isinstance(ends, list) else [ends]), getattr(tokenizer, "eos_token_id", None)]
    kept: list[int] = []
    for token in ids.tolist():
        if token in ends:
            break
        kept.append(token)
    if tokenizer is None:
        return kept
    return " ".join(str(tokenizer.decode(kept, skip_special_tokens=True)).split()).casefold()
