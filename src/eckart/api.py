"""The public verb: one call on a model in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.calibration import Calibration, calibrate
from eckart.checkpoint.load import check_compressible, load_tokenizer
from eckart.checkpoint.save import describe
from eckart.device import resolve_device
from eckart.errors import EckartWarning
from eckart.estimate import Estimate, estimate
from eckart.plan import Plan, make_plan
from eckart.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from eckart.report import LayerRecord, Report
from eckart.text import PYTHON_DOCS
from eckart.walk import compress_blocks

DEFAULT_KEEP = 0.8
DEFAULT_SAMPLES = 32


def compress(
    model: PreTrainedModel,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    keep: float = DEFAULT_KEEP,
    calibration: str | Tensor = PYTHON_DOCS,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overrides: Iterable[str] = (),
    source: str | None = None,
    on_start: Callable[[Plan, Estimate], None] = lambda plan, cost: None,
    on_layer: Callable[[LayerRecord], None] = lambda record: None,
) -> Report:
    """Compress a causal language model in place.

    The model then saves with :func:`eckart.save` (or its own ``save_pretrained``), and loads with ``from_pretrained``
    wherever ``eckart`` was imported.

    Args:
        model: of transformers, with ``nn.Linear`` or ``Conv1D`` layers in its blocks.
        recipe: the name of one, a YAML file, or a :class:`eckart.Recipe`.
        keep: bytes of the blocks' linear layers to keep, as a share of their 16-bit bytes, in (0, 1].
        calibration: text to calibrate on (:mod:`eckart.text` lists the forms), ``self`` for text sampled from the
            model, or token ids (samples, length). Not read if the recipe looks at no data.
        tokenizer: of the model; by default the one beside the files that the model was loaded from.
        samples: how many calibration samples to draw.
        length: tokens in each; by default 1024, or the model's context if that is shorter.
        seed: of the draw.
        device: ``auto``, ``cpu`` or the name of an accelerator.
        overrides: changes to the recipe, such as ``objective.shrinkage=0.03``.
        source: name of the model for the record; by default the one it was loaded by.
        on_start: is called once with the plan and the estimate of memory and time.
        on_layer: is called with the record of each linear layer as it is done.

    Returns:
        The ranks, bytes and errors of all layers, and what it took.

    Raises:
        EckartError: with a message that says what to do; the model is then unchanged, unless the cause is a
            non-finite weight or activation, which may be found half-way.
    """
    chosen = load_recipe(recipe, overrides)
    place = resolve_device(device)
    check_compressible(model)
    model.eval()
    plan = make_plan(model, chosen, keep)
    tokens: Calibration | None = None
    if chosen.objective.needs_data:
        if tokenizer is None and isinstance(calibration, str) and model.config.name_or_path:
            tokenizer = load_tokenizer(model.config.name_or_path)
        tokens = calibrate(calibration, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=model)
    notes = token_warnings(plan, tokens)
    for note in notes:
        warnings.warn(note, EckartWarning, stacklevel=2)
    on_start(plan, estimate(model, chosen, plan, tokens, place))
    report = compress_blocks(model, chosen, plan, tokens, device=place, on_layer=on_layer)
    report.warnings.extend(notes)
    describe(model, report, source or _name_of(model))
    return report


def token_warnings(plan: Plan, calibration: Calibration | None) -> list[str]:
    """Return a warning if there are fewer calibration tokens than some layer has input features."""
    if calibration is None:
        return []
    tokens = calibration.tokens.numel()
    starved = [target for target in plan.targets if target.in_features > tokens]
    if not starved:
        return []
    widest = max(starved, key=lambda target: target.in_features)
    return [
        f"{tokens} calibration tokens are fewer than the input features of {len(starved)} layers, such as "
        f"{widest.path} with {widest.in_features}: their errors on other text will be larger. "
        "Use more samples, longer ones, or some shrinkage (--set objective.shrinkage=0.03)."
    ]


def _name_of(model: PreTrainedModel) -> str:
    name: Any = model.config.name_or_path
    # Of a local folder, the name and not the way to it: what is made here is passed on to others.
    return Path(name).name if name and Path(name).exists() else name or type(model).__name__
