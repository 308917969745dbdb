"""Compares the predicted change of the loss if a component is removed with the real one, for a sample of components.

    python benchmarks/sensitivity.py MODEL --calibration train.txt --plot scatter.png

Prints one JSON line a component, and the correlations at the end.
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.plan import make_plan
from eckart.data.calibration import calibrate
from eckart.layers import weight_matrix
from eckart.methods.allocation import Needs
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request

STEP = 0.1  # of a whole component, on either side, in the finite difference


def main(
    model: Annotated[str, typer.Argument(help="Local folder or hub id.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate and to measure on.")],
    components: int = 120,
    samples: int = 1,
    length: int = 512,
    seed: int = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a scatter plot here.")] = None,
) -> None:
    """Measure a sample of components, drawn evenly over linears and ranks."""
    warnings.simplefilter("ignore")
    dense = eckart.load_model(model).float()
    tokens = calibrate(
        calibration, samples=samples, length=length, seed=seed, tokenizer=eckart.load_tokenizer(model), model=dense
    )
    plan = make_plan(dense, load_recipe("svd-llm"), 0.5)
    original = BlockwiseModel(dense, plan.blocks, ResidentWeights(), torch.device("cpu"), ScratchSpace(), tokens)
    needs = Needs.SPECTRUM | Needs.FIRST_ORDER | Needs.CURVATURE
    measurements = measure(original, Request(InputAware(), needs, Fisher(), keep_bases=True), lambda done, total: None)
    draw = random.Random(seed)
    base = mean_loss(dense, tokens.ids)
    rows: list[dict[str, float]] = []
    for _ in range(components):
        linear = draw.choice(measurements.linears)
        index = draw.randrange(min(linear.shape))
        weight = weight_matrix(dense.get_submodule(linear.path)).detach()
        before = weight.clone()
        basis, dual = (tensor[:, index] for tensor in measurements.solutions[linear.path])
        component = torch.outer(basis, dual @ before)
        losses = {}
        for share in (-STEP, STEP, 1.0):
            weight.copy_(before - share * component)
            losses[share] = mean_loss(dense, tokens.ids)
        weight.copy_(before)
        assert linear.first_order is not None
        assert linear.curvature is not None
        rows.append(
            {
                "predicted": float(linear.first_order[index]),
                "finite_difference": (losses[STEP] - losses[-STEP]) / (2 * STEP),
                "removed": losses[1.0] - base,
                "curvature": float(linear.curvature[index]),
                "second_difference": (losses[STEP] + losses[-STEP] - 2 * base) / STEP**2 / 2,
            }
        )
        print(json.dumps({"path": linear.path, "component": index, **rows[-1]}), flush=True)
    for found, expected in (
        ("finite_difference", "predicted"),
        ("removed", "predicted"),
        ("second_difference", "curvature"),
    ):
        pairs = torch.tensor([[row[expected], row[found]] for row in rows], dtype=torch.float64)
        print(f"{expected} against {found}: {correlations(pairs)}")
    if plot is not None:
        draw_scatter(rows, plot)


def mean_loss(model: PreTrainedModel, tokens: Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
        return float(functional.cross_entropy(logits.double(), tokens[:, 1:].flatten()))


def correlations(pairs: Tensor) -> str:
    """Return Pearson's and Spearman's correlation of two columns, and the share of equal signs."""
    ranks = pairs.argsort(0).argsort(0).double()
    pearson, spearman = (float(torch.corrcoef(columns.T)[0, 1]) for columns in (pairs, ranks))
    signs = float((pairs[:, 0].sign() == pairs[:, 1].sign()).double().mean())
    return f"Pearson {pearson:.4f}, Spearman {spearman:.4f}, signs equal {signs:.1%}"


def draw_scatter(rows: list[dict[str, float]], path: Path) -> None:
    """Draw the three comparisons side by side, on axes that are linear near zero and logarithmic beyond."""
    figure = Figure(figsize=(13, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("predicted", "finite_difference", "first order", "finite difference of the loss"),
        ("predicted", "removed", "first order", "loss after removal - before"),
        ("curvature", "second_difference", "curvature", "second difference of the loss / 2"),
    )
    for axis, (x, y, name, label) in zip(figure.subplots(1, 3), panels, strict=True):
        values = [abs(row[key]) for row in rows for key in (x, y)]
        smallest, largest = sorted(values)[len(values) // 4], max(values)
        axis.scatter([row[x] for row in rows], [row[y] for row in rows], s=14, alpha=0.7, linewidths=0)
        for set_scale in (axis.set_xscale, axis.set_yscale):
            set_scale("symlog", linthresh=smallest)
        steps = [largest * 10 ** (-step / 20) for step in range(200)]  # a line is not straight on these axes
        line = [-step for step in steps] + steps[::-1]
        axis.plot(line, line, color="grey", linewidth=0.8, zorder=0)
        axis.set_xlabel(f"predicted by {name}")
        axis.set_ylabel(label)
        axis.tick_params(labelsize=7)
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            for text in labels[1::2]:  # every second one, or they lie on one another
                text.set_visible(False)
    figure.suptitle("Change of the loss by single components, in nats a token")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    typer.run(main)
