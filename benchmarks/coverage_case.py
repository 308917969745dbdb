"""One class and one recipe: compress a tiny model, save it, load it anew, and compare outputs and bytes."""

from __future__ import annotations

import math
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import safe_open
from tiny_models.draw import Draw
from torch import Tensor, nn
from transformers import PreTrainedModel

import eckart
from eckart.errors import EckartError
from eckart.run.compress import compress  # all that it needs, before classes are given processes of their own
from tiny_models import Entry, TinyModelError, build, sample_for

KEEP = 0.6
RECIPES: dict[str, tuple[str, ...]] = {
    "svd-llm": (),
    "saes-svd": (),
    "eckart-fast": ("allocation.multiple=1",),  # of tiny matrices there are few multiples of 8
    "zs-svd": (),
    "aa-svd": ("refinement.epochs=1",),
}
SAMPLES, LENGTH = 8, 32
REACHED = 0.95  # of the bytes of matrices in blocks, from which a class counts as covered
LEAST_SIDE = 8  # of a matrix that factors can make smaller; routers of a few experts are below
NO_MAPS = ("A_log", "position", "embed", "bias_table")  # parts of names of parameters that multiply no input
NUMBER_BYTES = 2  # of a number in a 16-bit model


@dataclass(frozen=True)
class Outcome:
    """What became of a class.

    Attributes:
        outcome: pass, partial, refused, crashed, differs or not built.
        detail: a message, a traceback's last lines, or what differs.
        reached: of the bytes of matrices in blocks that outputs depend on, the share of layers that were to be
            compressed; None where the run did not end.
        keep: of these layers' bytes, what is stored.
        difference: largest one between outputs before and after saving, over the largest output; None likewise.
        disk_bytes: on disk, numbers of more than 8 bits counted as 2 bytes.
        reported_bytes: of the report, with the buffers that are saved.
    """

    outcome: str
    detail: str = ""
    reached: float | None = None
    keep: float | None = None
    difference: float | None = None
    disk_bytes: int | None = None
    reported_bytes: int | None = None
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return its fields."""
        return asdict(self)


def run_class(entry: Entry, recipes: Sequence[str] = tuple(RECIPES)) -> Iterator[tuple[str, Outcome]]:
    """Yield what becomes of a class by one recipe after the other.

    Args:
        entry: the class.
        recipes: names in :data:`RECIPES`.
    """
    for recipe in recipes:
        start = perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = build(entry)
            except TinyModelError as error:
                yield "", Outcome("not built", _short(str(error)))
                return
            try:
                outcome = _compressed(entry, model, recipe)
            except EckartError as error:
                outcome = Outcome("refused", _short(str(error)))
            except Exception as error:
                outcome = Outcome("crashed", _where(error))
        yield recipe, replace(outcome, seconds=round(perf_counter() - start, 2))


def calibration_for(entry: Entry, model: PreTrainedModel) -> Any:
    """Return what a tiny model is calibrated on: token ids for decoders, samples as its forward takes them for others.

    Others are decoders that write several codes at once, too, each in a row of its own.

    Args:
        entry: its class.
        model: to calibrate.
    """
    if entry.is_text and len(sample_for(model, text=True)["input_ids"]) == 1:
        draw = Draw(model.config, 1)
        return torch.cat([draw.ids(LENGTH) for _ in range(SAMPLES)])
    return [sample_for(model, seed) for seed in range(1, SAMPLES + 1)]


def _compressed(entry: Entry, model: PreTrainedModel, recipe: str) -> Outcome:
    sample = sample_for(model, text=entry.is_text)
    sizes = {name: parameter.numel() for name, parameter in block_matrices(model)}
    used = used_parameters(model, sample)
    calibration = calibration_for(entry, model)
    report = compress(model, recipe, KEEP, calibration, overrides=RECIPES[recipe], device="cpu", allow_partial=True)
    paths = [layer.path for layer in report.layers]
    left = {name: size for name, size in sizes.items() if name in used and not _is_among(name, paths)}
    found = sum(layer.out_features * layer.in_features for layer in report.layers)
    reached = found / max(found + sum(left.values()), 1)
    before = outputs_of(model, sample)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        eckart.save(model, report, folder)
        disk = disk_bytes(folder)
        loaded = type(model).from_pretrained(folder).eval()
        after = outputs_of(loaded, sample)
    reported = report.whole_bytes_after + _saved_buffers(model)
    difference = largest_difference(before, after)
    outcome, detail = "pass", ""
    if difference != 0:
        outcome, detail = "differs", f"outputs after loading differ by {difference:g} of the largest"
    elif disk != reported:
        outcome, detail = "differs", f"{disk} bytes on disk, {reported} reported"
    elif reached < REACHED:
        outcome, detail = "partial", _short(f"dense: {', '.join(_patterns(left))}")
    return Outcome(
        outcome,
        detail,
        reached=round(reached, 4),
        keep=round(report.keep, 4),
        difference=difference,
        disk_bytes=disk,
        reported_bytes=reported,
    )


def block_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the matrices that blocks multiply by, and stacks of such, with their names.

    Blocks are the items of lists of modules. Embeddings, convolutions and what is too small for factors are left out.

    Args:
        model: to look into.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and _is_deep(module)]
    for name, parameter in model.named_parameters():
        place, _, leaf = name.rpartition(".")
        holder = model.get_submodule(place)
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if not inside or parameter.dim() < 2 or min(parameter.shape[-2:]) <= LEAST_SIDE:
            continue
        if isinstance(holder, nn.Embedding) or ("Conv" in type(holder).__name__ and parameter.dim() > 2):
            continue
        if leaf == "weight" or not any(part in leaf.lower() for part in map(str.lower, NO_MAPS)):
            yield name, parameter


def used_parameters(model: PreTrainedModel, sample: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the parameters that the outputs for a sample depend on by a gradient.

    Others, such as attention to states that a decoder is not given, could be anything. The model has no gradients then.
    All are, in a class that gives no gradients where it is not trained.

    Args:
        model: to run.
        sample: from :func:`tiny_models.sample_for`.
    """
    torch.manual_seed(0)
    outputs = [tensor for tensor in _tensors(model(**sample)) if tensor.requires_grad]
    if outputs:
        try:
            torch.autograd.backward([tensor.sum() for tensor in outputs])
        except (AssertionError, RuntimeError):  # of reversible layers, and of states that are written to
            return {name for name, _ in model.named_parameters()}
    used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return used


def _is_among(name: str, paths: Sequence[str]) -> bool:
    """Return whether a parameter is that of one of some layers, or a stack of theirs."""
    place = name.removesuffix(".weight")
    return any(path == place or path.startswith((f"{place}.", f"{place}[")) for path in paths)


def _is_deep(modules: nn.ModuleList) -> bool:
    return any(True for block in modules for _ in block.children())


def outputs_of(model: PreTrainedModel, sample: Mapping[str, Tensor]) -> list[Tensor]:
    """Return all tensors of real numbers that a model gives for a sample, in order; caches are left out.

    Args:
        model: to run.
        sample: from :func:`tiny_models.sample_for`.
    """
    torch.manual_seed(0)  # some draw numbers in their forward pass
    with torch.no_grad():
        return list(_tensors(model(**sample)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.float()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def largest_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest number; infinite if shapes or what is finite differ.

    Args:
        first: tensors.
        second: as many.
    """
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in second]:
        return math.inf
    largest = 0.0
    for one, other in zip(first, second, strict=True):
        if not torch.equal(one.isfinite(), other.isfinite()):
            return math.inf
        one, other = one[one.isfinite()], other[other.isfinite()]
        if one.numel():
            largest = max(largest, float((one - other).abs().max()) / max(float(one.abs().max()), 1e-30))
    return largest


def disk_bytes(folder: Path) -> int:
    """Return the bytes of the tensors of a folder, real numbers of more than 8 bits counted as 2.

    Args:
        folder: of a model.
    """
    total = 0
    for path in folder.rglob("*.safetensors"):
        if path.parent.name == "eckart":
            continue  # records, not weights
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dictionary
                total += _counted(file.get_tensor(name))
    return total


def _counted(tensor: Tensor) -> int:
    """Return the bytes of a tensor in a 16-bit model."""
    wide = tensor.is_floating_point() and tensor.element_size() >= NUMBER_BYTES
    return tensor.numel() * (NUMBER_BYTES if wide else tensor.element_size())


def _saved_buffers(model: nn.Module) -> int:
    names = {name for name, _ in model.named_buffers() if name in model.state_dict(keep_vars=True)}
    layers = {name for name, module in model.named_modules() if type(module).__module__.startswith("eckart.")}
    buffers = dict(model.named_buffers())
    return sum(_counted(buffers[name]) for name in names if name.rpartition(".")[0] not in layers)


def _patterns(names: Mapping[str, int]) -> list[str]:
    """Return names with a star for each number, the largest first."""
    sizes: dict[str, int] = {}
    for name, size in names.items():
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        sizes[pattern] = sizes.get(pattern, 0) + size
    return sorted(sizes, key=lambda pattern: -sizes[pattern])


def _where(error: BaseException) -> str:
    """Return a traceback's last line and where it was, first of our own code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "eckart" in Path(frame.filename).parts]
    places = [*ours[-1:], *frames[-1:]]
    told = " < ".join(dict.fromkeys(f"{Path(place.filename).name}:{place.name}" for place in reversed(places)))
    return _short(f"{type(error).__name__}: {error} ({told})")


def _short(text: str) -> str:
    return " ".join(text.split())[:500]
