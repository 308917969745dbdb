"""What a step of writing costs on this machine: a pass over a few new tokens behind a cache."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eckart.device import synchronize
from eckart.errors import EckartError
from eckart.evaluate.windows import name_of_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM_UP = 1  # rounds that do not count


@dataclass(frozen=True)
class StepCosts:
    """Seconds of passes behind a prompt, medians.

    Attributes:
        draft: of one new token of the draft.
        model: of the model, by the number of new tokens.
    """

    draft: float
    model: dict[int, float]


def time_steps(
    model: PreTrainedModel, draft: PreTrainedModel, prompt: Tensor, most: int, *, repeats: int = 5
) -> StepCosts:
    """Time steps of a draft, and passes of its model over 1 to ``most`` new tokens.

    They take turns, so that what else the machine does falls on all of them alike.

    Args:
        model: in evaluation mode.
        draft: the same.
        prompt: (1, length) int64, in the caches.
        most: new tokens of a pass.
        repeats: rounds that count.

    Raises:
        EckartError: a cache cannot forget tokens, as it must when some are refused.
    """
    cases = [(draft, 1), *((model, size) for size in range(1, most + 1))]
    taken: list[list[float]] = [[] for _ in cases]
    with torch.inference_mode():
        caches = {id(either): _cache_of(either, prompt) for either in (model, draft)}
        for done in range(WARM_UP + repeats):
            for (either, size), seconds in zip(cases, taken, strict=True):
                found = _time_pass(either, caches[id(either)], prompt[:, :1].expand(1, size))
                if done >= WARM_UP:
                    seconds.append(found)
    of_draft, *of_model = map(median, taken)
    return StepCosts(of_draft, dict(enumerate(of_model, start=1)))


def _cache_of(model: PreTrainedModel, prompt: Tensor) -> Any:
    output = model(input_ids=prompt.to(model.device), use_cache=True, logits_to_keep=1)
    return output[name_of_cache(model)]


def _time_pass(model: PreTrainedModel, cache: Any, ids: Tensor) -> float:
    """Return the seconds of a pass over ``ids`` (1, tokens), which the cache then forgets."""
    ids = ids.to(model.device)
    synchronize(model.device)
    start = perf_counter()
    model(input_ids=ids, use_cache=True, **{name_of_cache(model): cache})
    synchronize(model.device)
    seconds = perf_counter() - start
    try:
        cache.crop(-ids.shape[1])
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise EckartError(
            f"{type(model).__name__} cannot be sped up by a draft: its cache cannot forget tokens that were refused "
            f"({error})."
        ) from error
    return seconds
