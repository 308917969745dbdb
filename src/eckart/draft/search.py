"""The public verb: compresses a model in several ways, and writes the one that is the best draft of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import Tensor

from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.save import check_new_folder, save
from eckart.compression.plan import check_keep
from eckart.compression.result import CompressionResult
from eckart.data.calibration import DEFAULT_SAMPLES, calibrate
from eckart.data.draw import draw_samples, tokenize
from eckart.data.text import PYTHON_DOCS, read_text
from eckart.device import compute_dtype, resolve_device
from eckart.draft.acceptance import Acceptance
from eckart.draft.costs import time_steps
from eckart.draft.generation import Generation, measure_generation, set_proposals
from eckart.draft.speedup import expected_speedup
from eckart.errors import EckartError, warn
from eckart.evaluate.speed.passes import run_once
from eckart.evaluate.windows import check_predicts
from eckart.files.field_types import Count
from eckart.run.compress import compress
from eckart.sweep.case import recipe_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What alone was expected to gain on a small model, and what takes minutes: docs/drafts.md.
RECIPES, SIZES = ("int8", "gptq"), (0.52,)
HELD_OUT = f"{PYTHON_DOCS}:held-out"
PROPOSALS = 8  # of a round, at most


class Candidate(BaseModel):
    """A way to compress the model, and what it is expected to bring as a draft.

    Attributes:
        recipe: its name, with overrides.
        keep: share of bytes that was asked for.
        acceptance: share of places at which its most likely token is that of the model.
        step: seconds of one of its steps.
        model_step: seconds of one step of the model, measured in turn with it.
        proposals: tokens that it should propose in a round.
        tokens_per_round: that are then written.
        speedup: tokens a second with it, over those without, as expected.
    """

    recipe: str
    keep: float
    acceptance: float
    step: float
    model_step: float
    proposals: Count
    tokens_per_round: float
    speedup: float


class Draft(BaseModel):
    """What :func:`make_draft` found.

    Attributes:
        candidates: all that were tried.
        chosen: the one that was written.
        generation: what was measured with it.
    """

    candidates: list[Candidate]
    chosen: Candidate
    generation: Generation


def make_draft(
    source: str | Path,
    output: str | Path,
    *,
    recipes: Sequence[str] = RECIPES,
    sizes: Sequence[float] = SIZES,
    calibration: str = PYTHON_DOCS,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    seed: int = 0,
    text: str = HELD_OUT,
    texts: int = 8,
    prompt: int = 64,
    tokens: int = 64,
    proposals: int = PROPOSALS,
    device: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Draft:
    """Compress a model in several ways, and write the one that speeds up the model most as its draft.

    Every candidate is compressed in memory. Its acceptance is counted on what the model itself writes behind texts that
    nothing was calibrated on, and its steps are timed on this machine beside those of the model. The one with the
    highest expected speed-up is saved, with the best number of proposals in its ``generation_config.json``. Then both
    write in transformers, and their tokens are compared.

    Args:
        source: of the dense model: a folder, a hub id or a GGUF file; a causal language model.
        output: folder of the draft.
        recipes: names, with ``+key=value`` overrides appended.
        sizes: shares of bytes to keep; each recipe is tried at each that it can be at.
        calibration: text, as for :func:`eckart.compress`, like the three that follow.
        samples: how many calibration samples to draw.
        length: tokens in each.
        seed: of the draws.
        text: to write behind; should not be what is calibrated on.
        texts: how many windows of it.
        prompt: tokens in each.
        tokens: to write behind each.
        proposals: of a round, at most.
        device: where all of it happens.
        overwrite: replace ``output`` if Eckart wrote it.
        trust_remote_code: whether Python code that comes with the model may be run.
        on_step: is called with (what is done, steps done, of all).

    Raises:
        EckartError: the model is none that can be sped up so, a text is too short, or ``output`` cannot be written.
    """
    _check_numbers(recipes, sizes, {"texts": texts, "prompt": prompt, "tokens": tokens, "proposals": proposals})
    check_new_folder(output, overwrite=overwrite, reads=[Path(source)])
    place = resolve_device(device)
    model = load_model(source, trust_remote_code=trust_remote_code)
    check_predicts(model)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    drawn = calibrate(calibration, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=model)
    calibrated = drawn.tokens if drawn.tokens is not None else list(drawn.items)
    model = model.to(place, compute_dtype(model.dtype, place))
    prompts = draw_samples(tokenize(read_text(text), tokenizer), texts, prompt, seed, text).to(place)
    written = run_once(model, prompts, tokens).tokens.to(place)

    cases = [(label, keep) for label in recipes for keep in sizes]
    candidates, left_out = [], list[str]()
    best: tuple[Candidate, PreTrainedModel, CompressionResult] | None = None
    for number, (label, keep) in enumerate(cases):
        on_step(f"{label} at {keep:g}", number, len(cases) + 1)
        draft = load_model(source, trust_remote_code=trust_remote_code)
        try:
            result = compress(draft, recipe_of(label, keep), keep, calibrated, device=device, source=str(source))
        except EckartError as error:  # not every recipe is for every size
            left_out.append(f"{label} at {keep:g}: {error}")
            continue
        candidate = _measure(label, keep, model, _placed(draft, model), prompts, written, proposals)
        candidates.append(candidate)
        if best is None or candidate.speedup > best[0].speedup:
            best = candidate, draft, result
    if best is None:
        raise EckartError(f"No draft could be made. {' '.join(left_out)}")
    for note in left_out:
        warn(f"Left out: {note}")
    chosen, draft, result = best
    if chosen.speedup <= 1:
        warn(
            f"No draft is expected to make {Path(source).name} faster on this machine: the best is {chosen.recipe} at "
            f"{chosen.keep:g}, x{chosen.speedup:.2f}. One of its steps takes {chosen.step / chosen.model_step:.0%} of "
            f"one of the model, and {chosen.acceptance:.0%} of its tokens are accepted. It is written all the same."
        )
    on_step("writing", len(cases), len(cases) + 1)
    set_proposals(draft, chosen.proposals)
    save(draft, result, output, tokenizer=tokenizer, overwrite=overwrite)
    generation = measure_generation(model, _placed(draft, model), prompts, tokens)
    on_step("done", len(cases) + 1, len(cases) + 1)
    return Draft(candidates=candidates, chosen=chosen, generation=generation)


def _placed(draft: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
    """Return a draft where its model is and in its dtype; a copy, if that changes it, so that it can still be saved."""
    if (draft.device, draft.dtype) == (model.device, model.dtype):
        return draft
    return copy.deepcopy(draft).to(model.device, model.dtype)


def _measure(
    label: str,
    keep: float,
    model: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Tensor,
    written: Tensor,
    proposals: int,
) -> Candidate:
    acceptance = Acceptance.of(draft, prompts, written)
    costs = time_steps(model, draft, prompts[:1], proposals + 1)
    found = expected_speedup(acceptance, costs)
    return Candidate(
        recipe=label,
        keep=keep,
        acceptance=acceptance.share,
        step=costs.draft,
        model_step=costs.model[1],
        proposals=found.proposals,
        tokens_per_round=found.tokens_per_round,
        speedup=found.factor,
    )


def _check_numbers(recipes: Sequence[str], sizes: Sequence[float], numbers: dict[str, int]) -> None:
    """Raise if there is nothing to try, or a number is not what it must be."""
    if not recipes or not sizes:
        raise EckartError("There is nothing to try: name a recipe and a size at least.")
    for keep in sizes:
        check_keep(keep)
        for label in recipes:
            recipe_of(label, keep)
    for name, number in numbers.items():
        lowest = 2 if name == "tokens" else 1
        if number < lowest:
            raise EckartError(f"{name} must be {lowest} or more; found {number}.")
