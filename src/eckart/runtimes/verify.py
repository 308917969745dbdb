"""Runs what was written in its runtime, and compares it with the model in memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.exporters import ExportedModel
from transformers.exporters.utils import cast_leaf_tensors, get_leaf_tensors

from eckart.blocks.block_arguments import completed
from eckart.data.samples import LABELS, MASK
from eckart.errors import ExportError
from eckart.runtimes.quiet import quiet
from eckart.runtimes.samples import Sample
from eckart.runtimes.stages import checked_calls

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = "logits"
# Share of the largest logit that a difference must stay below. The model in memory computes in float32: other kernels
# add the same numbers up in other orders, and 16 bits round each of them, or each weight that factors multiply to.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
# OpenVINO computes in bfloat16 on processors that have it, unless it is told not to.
OPTIONS: dict[str, dict[str, Any]] = {"openvino": {"config": {"INFERENCE_PRECISION_HINT": "f32"}}}


class Difference(NamedTuple):
    """How far two models are apart on the same inputs.

    Attributes:
        largest_difference: of a number that both return.
        largest: absolute number that the first one returns.
    """

    largest_difference: float
    largest: float

    def joined(self, other: Difference) -> Difference:
        """Return that of both together."""
        return Difference(max(self[0], other[0]), max(self[1], other[1]))


def compare_graphs(
    model: PreTrainedModel, samples: Sequence[Sample], folder: Path, parts: list[str], target: str
) -> Difference:
    """Return how far graphs in a folder are from the model that they are of.

    Args:
        model: in memory, in float32.
        samples: what both are run on.
        folder: that the graphs were written into.
        parts: their names.
        target: name of their format.

    Raises:
        ExportError: the runtime cannot run them; with its own reason.
    """
    found = Difference(0.0, 0.0)
    try:
        with quiet(), torch.no_grad():
            options = OPTIONS.get(target, {})
            runners = ExportedModel.from_pretrained(folder, device="cpu", local_files_only=True, **options).runners
            for sample in samples:
                returned: Any = None
                for call in checked_calls(model, sample, parts):
                    expected = call.module(**copy.deepcopy(call.inputs))
                    runner, fed = runners[call.part], call.fed(returned)
                    known = {name: value for name, value in fed.items() if name in runner.metadata.kwargs}
                    returned = runner(**cast_leaf_tensors(known, runner.dtype, torch.device("cpu")))
                    found = found.joined(difference(expected, returned, call.inputs.get(MASK)))
    except ExportError:
        raise
    except Exception as error:  # each runtime fails in its own way
        raise ExportError(
            f"What was written cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:800]}"
        ) from error
    return found


def compare_models(reference: PreTrainedModel, other: PreTrainedModel, samples: Sequence[Sample]) -> Difference:
    """Return how far two models in memory are apart on the same inputs."""
    found = Difference(0.0, 0.0)
    for sample in samples:
        inputs = {name: tensor for name, tensor in completed(reference, sample).items() if name != LABELS}
        with torch.no_grad():
            found = found.joined(difference(reference(**inputs), other(**inputs), inputs.get(MASK)))
    return found


def difference(expected: Any, returned: Any, mask: Any = None) -> Difference:
    """Return how far apart the logits of two outputs are; of outputs without logits, all numbers but the cache.

    Args:
        expected: what the model in memory returned.
        returned: what the file returned.
        mask: (rows, tokens), 0 for padding, of which the outputs mean nothing.

    Raises:
        ExportError: the second lacks an output, or has it in another shape.
    """
    mine, others = _numbers(expected), _numbers(returned)
    if not mine or mine.keys() - others.keys():
        lacking = ", ".join(sorted(mine.keys() - others.keys())) or "numbers"
        raise ExportError(f"What was written returns no {lacking}; found {', '.join(others) or 'nothing'}.")
    found = Difference(0.0, 0.0)
    for name, tensor in mine.items():
        other = others[name].float()
        if other.shape != tensor.shape:
            raise ExportError(f"What was written returns {name} {tuple(other.shape)}; expected {tuple(tensor.shape)}.")
        tensor = tensor.float()
        if isinstance(mask, Tensor) and mask.ndim == 2 and tensor.ndim == 3 and tensor.shape[1] <= mask.shape[1]:
            shown = mask[:, -tensor.shape[1] :] != 0
            tensor, other = tensor[shown], other[shown]
        if tensor.numel():
            largest = float((other - tensor).abs().max())
            found = found.joined(Difference(largest if math.isfinite(largest) else math.inf, float(tensor.abs().max())))
    return found


def check(found: Difference, dtype: torch.dtype) -> float:
    """Return the tolerance of the dtype that numbers are rounded to.

    Raises:
        ExportError: the difference is above it, or no number.
    """
    tolerance = TOLERANCES[dtype]
    if not found.largest_difference <= tolerance * found.largest:
        raise ExportError(
            f"What was written computes something else: its logits are up to {found.largest_difference:.3g} from those "
            f"of the model in memory, whose largest is {found.largest:.3g}; expected at most {tolerance:g} of that. "
            "Nothing was kept."
        )
    return tolerance


def _numbers(outputs: Any) -> dict[str, Tensor]:
    """Return the floats of what a model returned, by their names."""
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    logits = dict(outputs).get(LOGITS) if hasattr(outputs, "keys") else None
    if isinstance(logits, Tensor):
        return {LOGITS: logits}
    leaves = get_leaf_tensors(outputs)
    return {
        name: value
        for name, value in leaves.items()
        if value.is_floating_point() and not name.startswith(("cache", "past_key_values"))
    }
