"""Runs that were never made."""

from __future__ import annotations

import math

import torch

from eckart.compression.costs import Costs, Memory, Timings
from eckart.compression.drift import BlockDrift, DriftError
from eckart.compression.records import LayerRecord
from eckart.compression.result import CompressionResult
from eckart.data.calibration import CalibrationRecord
from eckart.evaluate import Perplexity
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.published import RECIPES
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import EpochRecord
from eckart.report.runs import Run, Sample
from eckart.report.sources import Gathered, run_of_row
from eckart.sweep.row import SpeedResult, SweepRow

KINDS = ("self_attn.q_proj", "mlp.down_proj")
NASTY = '<img src=x onerror="window.attacked = 1"></script><b>bold</b> %{x} & "quotes"'


def perplexity(value: float, windows: int = 8) -> Perplexity:
    return Perplexity(
        perplexity=value,
        log_perplexity=math.log(value),
        error=0.01 if windows > 1 else None,
        windows=windows,
        length=64,
    )


def calibration(tokens: int = 4096) -> CalibrationRecord:
    return CalibrationRecord(source="text.txt", samples=tokens // 64, length=64, tokens=tokens, seed=0, sha256="0" * 64)


def report(recipe: Recipe = RECIPES["svd-llm"], keep: float = 0.5, blocks: int = 4) -> CompressionResult:
    """Return what a run would have recorded, with everything in it."""
    paths = [f"model.layers.{block}.{kind}" for block in range(blocks) for kind in KINDS]
    rank = int(32 * keep)
    return CompressionResult(
        recipe=recipe,
        requested_keep=keep,
        calibration=calibration(),
        layers=[
            LayerRecord(path=path, out_features=64, in_features=64, rank=rank, bytes=256 * rank, error=0.1)
            for path in paths
        ],
        refinements=[
            RefinementRecord(
                block=f"model.layers.{block}",
                before=0.5,
                after=0.2,
                kept_epoch=1,
                epochs=[EpochRecord(training=0.3, held_out=0.2)],
            )
            for block in range(blocks)
        ],
        distillation=DistillationRecord(
            before=0.9,
            after=0.4,
            kept_epoch=2,
            epochs=[EpochRecord(training=0.6, held_out=0.5), EpochRecord(training=0.4, held_out=0.4)],
        ),
        parameters=100_000,
        blocks=[
            BlockDrift(
                path=f"model.layers.{block}",
                output=DriftError(relative=0.1 * block, cosine=0.01 * block),
                layers={
                    f"model.layers.{block}.{KINDS[0]}": DriftError(relative=0.2, cosine=0.02),
                    f"model.layers.{block}.{KINDS[1]}": None if block == 1 else DriftError(relative=0.3, cosine=0.03),
                },
            )
            for block in range(blocks)
        ],
        spectra={path: torch.stack([torch.arange(1.0, 65.0), torch.linspace(8, 0, 64)]) for path in paths},
        costs=Costs(
            timings=Timings(
                statistics=1.0, factorisation=2.0, refinement=3.0, distillation=2.0, files=0.5, records=0.1, total=8.7
            ),
            memory=Memory(host=10**9, expected_host=2 * 10**9),
        ),
    )


def folder_run(name: str = "one", keep: float = 0.5, recipe: Recipe = RECIPES["svd-llm"]) -> Run:
    """Return a run as it would be read from a folder, measured too."""
    data = report(recipe, keep)
    return Run(
        name,
        recipe.name,
        "a/model",
        keep,
        kept=data.keep,
        bytes=data.whole_bytes_after,
        dense_bytes=data.whole_bytes,
        calibration=data.calibration,
        texts={"wiki, 8 × 64 tokens": perplexity(20 / keep)},
        speed=SpeedResult(prefill=200, decode=30, dense_prefill=100, dense_decode=20),
        seconds=8.7,
        ranks={layer.path: layer.rank for layer in data.layers},
        report=data,
        samples=[Sample("Once", "upon a time")],
    )


def dense_run() -> Run:
    return Run("dense", "dense", "a/model", 1.0, 1.0, 200_000, 200_000, texts={"wiki, 8 × 64 tokens": perplexity(18.0)})


def sweep_row(recipe: str | None, keep: float, tokens: int = 4096, value: float = 30.0) -> SweepRow:
    return SweepRow(
        model="a/model",
        revision=None,
        label=recipe or "dense",
        recipe=None if recipe is None else RECIPES[recipe],
        keep=keep,
        kept=keep,
        bytes=int(200_000 * keep),
        calibration=None if recipe is None else calibration(tokens),
        texts={"data/wiki.txt": perplexity(value)},
        ranks={f"model.layers.{block}.{kind}": 8 for block in range(30) for kind in KINDS},
        seconds=3.0,
        shared_seconds=1.0,
        versions={"eckart": "0"},
    )


def many(count: int = 200) -> Gathered:
    """Return the runs of a large sweep."""
    names = [name for name in RECIPES if name != "dense"]
    rows = [
        sweep_row(names[number % len(names)], 0.9 - 0.05 * (number // len(names)), value=20 + number % 37)
        for number in range(count - 1)
    ]
    return Gathered([run_of_row(row) for row in [sweep_row(None, 1.0, value=18), *rows]])
