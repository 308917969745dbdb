"""Compares pivoted layers with two factors of the same rank on real weights and inputs: rounding, and conditioning.

    python benchmarks/pivots.py MODEL --calibration train.txt

Each linear is truncated by the input-aware objective. Its outputs in float64, by the product of the factors, on the
last quarter of the tokens are what both layouts are compared with, in three dtypes; the other three quarters are known
to both. Prints a Markdown table.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.plan import make_plan
from eckart.data.calibration import calibrate
from eckart.layers import weight_matrix
from eckart.maths.lowrank import Solution, truncate
from eckart.maths.pivoting import choose_pivots
from eckart.maths.whitening import whiten
from eckart.methods.allocation import Needs
from eckart.methods.layout import Layout
from eckart.methods.objectives import InputAware
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure import Pivoted, Structure, TwoFactor
from eckart.methods.structure.fitting import Fit

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
LAYOUTS: tuple[Structure, ...] = (TwoFactor(), Pivoted())


def main(
    model: Annotated[str, typer.Argument(help="Local folder or hub id.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate and to compare on.")],
    keep: Annotated[list[float], typer.Option(help="Share of bytes that sets the ranks; may be repeated.")],
    samples: int = 4,
    length: int = 512,
    seed: int = 0,
) -> None:
    """Compare all linears of a model."""
    warnings.simplefilter("ignore")
    dense = eckart.load_model(model).float()
    tokens = calibrate(
        calibration, samples=samples, length=length, seed=seed, tokenizer=eckart.load_tokenizer(model), model=dense
    )
    plan = make_plan(dense, load_recipe("svd-llm"), 0.5)
    original = BlockwiseModel(dense, plan.blocks, ResidentWeights(), torch.device("cpu"), ScratchSpace(), tokens)
    request = Request(InputAware(), Needs.SPECTRUM, keep_bases=True)
    measurements = measure(original, request, lambda done, total: None)
    errors: dict[tuple[float, torch.dtype, Structure], list[float]] = defaultdict(list)
    sizes: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for path, inputs in inputs_of(dense, [linear.path for linear in measurements.linears], tokens.ids):
        for share in keep:
            compare(dense, measurements, path, share, inputs, errors, sizes)
    print("| keep | dtype | two factors, median | worst | pivoted, median | worst | pivoted is nearer |")
    print("|---|---|---|---|---|---|---|")
    for share in keep:
        for dtype in DTYPES:
            both = [errors[share, dtype, structure] for structure in LAYOUTS]
            nearer = sum(b < a for a, b in zip(*both, strict=True)) / len(both[0])
            cells = " | ".join(f"{median(found):.1e} | {max(found):.1e}" for found in both)
            print(f"| {share:g} | {str(dtype).removeprefix('torch.')} | {cells} | {nearer:.0%} |")
    print("\n| keep | largest coefficient | condition number of the pivots, median | worst |")
    print("|---|---|---|---|")
    for share in keep:
        coefficients, conditions = zip(*sizes[share], strict=True)
        print(f"| {share:g} | {max(coefficients):.2f} | {median(conditions):.1f} | {max(conditions):.1f} |")


def compare(
    dense: PreTrainedModel,
    measurements: Measurements,
    path: str,
    share: float,
    inputs: Tensor,
    errors: dict[tuple[float, torch.dtype, Structure], list[float]],
    sizes: dict[float, list[tuple[float, float]]],
) -> None:
    """Add the errors of one linear (relative, of its outputs), and the size of its coefficients."""
    linear = dense.get_submodule(path)
    weight = weight_matrix(linear).detach().double()
    out_features, in_features = weight.shape
    rank = Layout(Pivoted()).rank_of_share(out_features, in_features, share)
    assert rank is not None
    basis, dual = (tensor.double() for tensor in measurements.solutions[path])
    second, first = truncate(Solution(basis, dual, Tensor(), weight), rank)
    # A compression knows the inputs of other tokens.
    known, inputs = inputs.double().tensor_split([len(inputs) * 3 // 4])
    fit = Fit(second @ first, whiten(known.T @ known))
    exact = inputs @ first.T @ second.T
    for dtype in DTYPES:
        stand_in = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
        for structure in LAYOUTS:
            layer = structure.fitter.factored(stand_in, second, first, fit=fit)
            with torch.no_grad():
                outputs = layer(inputs.to(dtype)).double()
            errors[share, dtype, structure].append(float((outputs - exact).norm() / exact.norm()))
    pivots, coefficients = choose_pivots(second, torch.linalg.vector_norm(known @ first.T @ second.T, dim=0))
    # Of the pivots' rows in an orthonormal basis: how much larger errors of the pivots can get in the other rows.
    rows = torch.linalg.qr(second)[0][pivots]
    sizes[share].append((float(coefficients.abs().max()), float(torch.linalg.cond(rows))))


def inputs_of(model: PreTrainedModel, paths: list[str], tokens: Tensor) -> list[tuple[str, Tensor]]:
    """Return what each linear is handed, (tokens, n), rounded to bfloat16 so that all dtypes are given the same."""
    seen: dict[str, Tensor] = {}
    for path in paths:
        module = model.get_submodule(path)
        module.register_forward_pre_hook(
            lambda _, args, path=path: seen.__setitem__(path, args[0].flatten(0, -2).bfloat16().float())
        )
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    return list(seen.items())


if __name__ == "__main__":
    typer.run(main)
