"""Tables for the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from eckart.cache.size import CacheSize
from eckart.cli.console import megabytes
from eckart.compression.embedding import EmbeddingRecord
from eckart.compression.model_check import LEAST_SHOWN, ModelCheck
from eckart.compression.records import LayerRecord, SketchRecord
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.recipe import Recipe
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.targets import Target
from eckart.report.rank_map import families


def layer_kinds(layers: Sequence[LayerRecord]) -> Table:
    """Return one row a kind of layer: those whose paths differ only in the number of the block."""
    kinds: dict[str, list[LayerRecord]] = {}
    for layer in layers:
        kinds.setdefault(re.sub(r"\.\d+(?=\.|$)", ".*", layer.path), []).append(layer)
    table = Table("layers", "count", "shape", "rank", "bytes kept", "mean error", "largest error", box=box.SIMPLE)
    for kind, members in kinds.items():
        errors = [layer.error for layer in members]
        kept = sum(layer.bytes for layer in members) / sum(layer.dense_bytes for layer in members)
        table.add_row(
            kind,
            str(len(members)),
            " ".join(sorted({_shape(layer) for layer in members})),
            _stored(members),
            f"{kept:.1%}",
            f"{sum(errors) / len(errors):.3f}",
            f"{max(errors):.3f}",
        )
    return table


def sketches(layers: Sequence[LayerRecord]) -> Table:
    """Return one row for each shape of the layers that were solved from a sketch, with what that lost."""
    shapes: dict[str, list[SketchRecord]] = {}
    for layer in layers:
        if layer.sketch is not None:
            shapes.setdefault(_shape(layer), []).append(layer.sketch)
    table = Table("solved from a sketch", "count", "left out", "more than an exact solution", "of", box=box.SIMPLE)
    for shape, found in shapes.items():
        known = [record.excess for record in found if record.excess is not None]
        left_out = f"{sum(record.loss for record in found) / len(found):.3%}"
        table.add_row(shape, str(len(found)), left_out, f"{max(known):.2%}" if known else "-", str(len(known)))
    return table


def all_layers(layers: Sequence[LayerRecord]) -> Table:
    """Return one row a layer, and one for many of a block that stand beside one another; its error is their mean."""
    table = Table("layer", "shape", "rank", "bytes", "kept", "error", box=box.SIMPLE)
    for path, members in families(layers).items():
        size = sum(layer.bytes for layer in members)
        share = f"{size / sum(layer.dense_bytes for layer in members):.1%}"
        error = sum(layer.error for layer in members) / len(members)
        table.add_row(path, _shape(members[0]), _stored(members), f"{size:,}", share, f"{error:.3f}")
    return table


def rounded_tables(record: EmbeddingRecord) -> str:
    """Return a sentence about an embedding and a head that were rounded."""
    head = "" if record.head is None else f" and {record.head}, {'one table' if record.tied else 'a table each'}"
    cost = "" if record.loss is None else f"; alone that costs {record.loss:.2g} nats a token"
    return (
        f"The embedding {record.embedding}{head}, {record.tokens}x{record.width}, is in {record.precision.name}: "
        f"{megabytes(record.bytes)} in place of {megabytes(record.dense_bytes)}{cost}."
    )


def cache_sizes(sizes: Mapping[int, CacheSize]) -> Table:
    """Return what a token takes in a cache of keys and values, and in one of latents by their bits."""
    dense = next(iter(sizes.values())).dense
    table = Table("cache", "bytes a token", "share", box=box.SIMPLE)
    table.add_row("keys and values", f"{dense:,}", "100.0%")
    for bits, size in sizes.items():
        table.add_row(f"latents, {bits} bits", f"{size.stored:,}", f"{size.share:.1%}")
    return table


def left_alone(check: ModelCheck) -> Table:
    """Return one row for each part of a model that stays as it is, and one for all small ones."""
    table = Table("left alone", "what it is", "size", "of the model", "why", box=box.SIMPLE)
    small = [found for found in check.left if found.bytes < LEAST_SHOWN * check.model_bytes]
    for found in check.left:
        if found not in small:
            share = f"{found.bytes / check.model_bytes:.1%}"
            table.add_row(found.part, found.what, megabytes(found.bytes), share, found.why)
    if small:
        size = sum(found.bytes for found in small)
        kinds = ", ".join(sorted({found.what for found in small} - {""}))
        table.add_row(f"{len(small)} small parts", kinds, megabytes(size), f"{size / check.model_bytes:.1%}", "")
    return table


def targets(recipe: Recipe) -> Table:
    """Return one row for each tower and each pattern that a recipe has a size for, in order."""
    table = Table("linear layers", "become", box=box.SIMPLE)
    for kind, found in (("tower ", recipe.towers), ("", recipe.targets)):
        for target in found:
            table.add_row(f"{kind}{target.pattern}", _become(target))
    return table


def _become(target: Target) -> str:
    if target.leave:
        return "left as they are"
    if target.keep is not None:
        return f"{target.keep:.4g} of their bytes"
    return "targets again" if target.rank is None else f"rank {target.rank}"


def preparations(records: Sequence[PreparationRecord]) -> Table:
    """Return one row a prepared block: what its output and its layers lose at their ranks, before and after."""
    columns = ("held-out loss at the ranks before", "after", "left out by the ranks before", "after", "epochs", "best")
    table = Table("block", *columns, box=box.SIMPLE)
    for record in records:
        losses = ["-" if loss is None else f"{loss:.4f}" for loss in (record.before, record.after)]
        count = max(1, len(record.tails))
        shares = [sum(getattr(tail, when) for tail in record.tails.values()) / count for when in ("before", "after")]
        left_out = [f"{share:.2%}" for share in shares]
        table.add_row(record.block, *losses, *left_out, str(len(record.epochs)), str(record.kept_epoch))
    return table


def refinements(records: Sequence[RefinementRecord]) -> Table:
    """Return one row a refined block; losses are relative to what the block changes.

    They are those on held-out samples, or, where none are held out, the means over the first and the last epoch.
    """
    held_out = any(record.before is not None for record in records)
    losses_of = ("held-out loss before", "after") if held_out else ("training loss, first epoch", "last")
    table = Table("block", *losses_of, "epochs", "best", box=box.SIMPLE)
    for record in records:
        ends = [record.before, record.after]
        if not held_out and record.epochs:
            ends = [record.epochs[0].training, record.epochs[-1].training]
        losses = ["-" if loss is None else f"{loss:.4f}" for loss in ends]
        table.add_row(record.block, *losses, str(len(record.epochs)), str(record.kept_epoch))
    return table


def distillation(record: DistillationRecord) -> Table:
    """Return one row; losses are those on held-out samples, in nats a token: KL divergences, or of the text."""
    table = Table("distillation", "loss before", "after", "epochs", "best", box=box.SIMPLE)
    losses = ["-" if loss is None else f"{loss:.4f}" for loss in (record.before, record.after)]
    table.add_row("all blocks", *losses, str(len(record.epochs)), str(record.kept_epoch))
    return table


def _shape(layer: LayerRecord) -> str:
    return f"{layer.out_features}x{layer.in_features}"


def _stored(layers: Sequence[LayerRecord]) -> str:
    """Return the ranks of some layers, and what else was chosen for each: whole columns, numbers that are there.

    Where each has a base of its own, that is how many have which, and its ranks.
    """
    bases = Counter(layer.base.name for layer in layers if layer.base is not None)
    if not bases:
        return _range([layer.rank for layer in layers]) + _columns(layers) + _sparsities(layers)
    words = []
    for name, count in sorted(bases.items(), reverse=True):
        ranks = [layer.rank for layer in layers if layer.base is not None and layer.base.name == name and layer.rank]
        words.append((name if len(layers) == 1 else f"{count} in {name}") + (f" + {_range(ranks)}" if ranks else ""))
    return ", ".join(words)


def _columns(layers: Sequence[LayerRecord]) -> str:
    found = [layer.columns for layer in layers if layer.columns]
    return f" + {_range(found)} columns" if found else ""


def _sparsities(layers: Sequence[LayerRecord]) -> str:
    found = sorted({layer.sparsity for layer in layers if layer.sparsity is not None})
    return f", 1 of {'-'.join(f'{ks:g}' for ks in dict.fromkeys((found[0], found[-1])))} numbers" if found else ""


def _range(ranks: Sequence[int | None]) -> str:
    numbers = sorted({rank for rank in ranks if rank is not None})
    words = [] if not numbers else [str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"]
    return ", ".join(words + (["dense"] if None in ranks else []))
