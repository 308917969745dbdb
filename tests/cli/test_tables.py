"""Tables for the terminal, cell by cell."""

from __future__ import annotations

import pytest
from tests.cli.helpers import rows_of

from eckart.cache.size import CacheSize, LayerCacheSize
from eckart.cli.tables import (
    all_layers,
    cache_sizes,
    distillation,
    layer_kinds,
    left_alone,
    preparations,
    refinements,
    sketches,
    targets,
)
from eckart.compression.model_check import LeftAlone, ModelCheck
from eckart.compression.records import LayerRecord, SketchRecord
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.precision import Bits2, Bits4
from eckart.methods.preparation.record import PreparationRecord, TailRecord
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import EpochRecord


def layer(path: str, rank: int | None, share: float = 0.5, error: float = 0.1, outputs: int = 100) -> LayerRecord:
    """Return a record of a layer with 40 inputs that keeps a share of its bytes."""
    size = int(share * 2 * outputs * 40)
    return LayerRecord(path=path, out_features=outputs, in_features=40, rank=rank, bytes=size, error=error)


def test_what_was_chosen_for_each_layer_beside_its_rank_is_told() -> None:
    sparse = [
        layer(f"m.{number}.q", rank).model_copy(update={"sparsity": ks})
        for number, (rank, ks) in enumerate(zip((8, 16, None), (1.5, 3.0, None), strict=True))
    ]
    whole = [layer(f"m.{number}.q", 8).model_copy(update={"columns": count}) for number, count in enumerate((2, 5))]
    none = [layer("m.0.q", 8).model_copy(update={"columns": 0})]
    assert rows_of(layer_kinds(sparse))[0][3] == "8-16, dense, 1 of 1.5-3 numbers"
    assert rows_of(all_layers(sparse[:1]))[0][2] == "8, 1 of 1.5 numbers"
    assert rows_of(layer_kinds(whole))[0][3] == "8 + 2-5 columns"
    assert rows_of(layer_kinds(none))[0][3] == "8"


def test_bases_that_were_chosen_for_each_layer_are_counted() -> None:
    bases = (Bits4(), Bits4(), Bits2(), None)
    layers = [
        layer(f"m.{number}.q", rank).model_copy(update={"base": base})
        for number, (base, rank) in enumerate(zip(bases, (8, 16, None, None), strict=True))
    ]
    assert rows_of(layer_kinds(layers[:3]))[0][3] == "2 in 4-bit + 8-16, 1 in 2-bit"
    assert [row[2] for row in rows_of(all_layers(layers))] == ["4-bit + 8", "4-bit + 16", "2-bit", "dense"]


def test_kinds_are_layers_whose_paths_differ_in_the_block_only() -> None:
    layers = [
        layer("m.0.q", 10, 0.4, 0.125),
        layer("m.0.up", None, 1.0, 0.0),
        layer("m.1.q", 7, 0.2, 0.375),
        layer("m.1.up", None, 1.0, 0.0, outputs=300),
        layer("m.12.up", 9, 0.25, 0.3),
        layer("head", 5, 0.5, 0.5),
    ]
    kinds = {row[0]: row[1:] for row in rows_of(layer_kinds(layers))}
    assert kinds == {
        "m.*.q": ["2", "100x40", "7-10", "30.0%", "0.250", "0.375"],
        # Bytes are added before they are divided: (100 + 300 + 25) of (100 + 300 + 100).
        "m.*.up": ["3", "100x40 300x40", "9, dense", "85.0%", "0.100", "0.300"],
        "head": ["1", "100x40", "5", "50.0%", "0.500", "0.500"],
    }


def test_every_layer_has_a_row_in_order() -> None:
    assert rows_of(all_layers([layer("m.1.q", 7, 0.2, 0.25), layer("m.0.q", None, 1.0, 0.0)])) == [
        ["m.1.q", "100x40", "7", "1,600", "20.0%", "0.250"],
        ["m.0.q", "100x40", "dense", "8,000", "100.0%", "0.000"],
    ]


def test_what_a_sketch_loses_is_told_by_shape() -> None:
    def solved(path: str, loss: float, excess: float | None, outputs: int = 100) -> LayerRecord:
        record = SketchRecord(loss=loss, excess=excess)
        return layer(path, 5, outputs=outputs).model_copy(update={"sketch": record})

    layers = [
        solved("m.0.q", 0.1, 0.0012),
        solved("m.0.up", 0.3, None, 300),
        layer("m.0.down", 5),
        solved("m.1.q", 0.2, None),
        solved("m.2.q", 0.3, 0.004),
    ]
    assert rows_of(sketches(layers)) == [
        ["100x40", "3", "20.000%", "0.40%", "2"],
        ["300x40", "1", "30.000%", "-", "0"],
    ]


def refined(block: str, *, held_out: bool, epochs: int = 2) -> RefinementRecord:
    losses = [EpochRecord(training=0.4 / (n + 1), held_out=0.3 / (n + 1) if held_out else None) for n in range(epochs)]
    before, after = (0.5, 0.15) if held_out else (None, None)
    return RefinementRecord(block=block, before=before, after=after, kept_epoch=epochs, epochs=losses)


@pytest.mark.parametrize(
    ("held_out", "header", "losses"),
    [(True, "held-out loss before", ["0.5000", "0.1500"]), (False, "training loss, first epoch", ["0.4000", "0.2000"])],
)
def test_losses_are_those_that_were_measured(held_out: bool, header: str, losses: list[str]) -> None:
    table = refinements([refined("m.0", held_out=held_out), refined("m.1", held_out=held_out)])
    assert table.columns[1].header == header
    assert rows_of(table) == [["m.0", *losses, "2", "2"], ["m.1", *losses, "2", "2"]]


def test_preparations_show_what_blocks_and_their_ranks_lose() -> None:
    tails = {"m.0.a": TailRecord(before=0.3, after=0.1), "m.0.b": TailRecord(before=0.1, after=0.05)}
    epoch = EpochRecord(training=0.01, held_out=0.4)
    record = PreparationRecord(block="m.0", before=0.5, after=0.4, kept_epoch=1, epochs=[epoch], tails=tails)
    assert rows_of(preparations([record])) == [["m.0", "0.5000", "0.4000", "20.00%", "7.50%", "1", "1"]]


def test_a_block_without_an_epoch_has_no_losses() -> None:
    assert rows_of(refinements([refined("m.0", held_out=False, epochs=0)])) == [["m.0", "-", "-", "0", "0"]]


@pytest.mark.parametrize(("ends", "shown"), [((0.9, 0.25), ["0.9000", "0.2500"]), ((None, None), ["-", "-"])])
def test_distillation(ends: tuple[float | None, float | None], shown: list[str]) -> None:
    record = DistillationRecord(before=ends[0], after=ends[1], kept_epoch=0, epochs=[])
    assert rows_of(distillation(record)) == [["all blocks", *shown, "0", "0"]]


def test_what_is_left_alone_is_told_by_its_share() -> None:
    check = ModelCheck(
        model_bytes=10_000_000,
        block_bytes=6_000_000,
        reached_bytes=5_000_000,
        left=[
            LeftAlone(part="embed", what="embedding", why="outside of the blocks", bytes=4_000_000),
            LeftAlone(part="layers.*.up", what="linear layer", why="left by the recipe", bytes=950_000),
            LeftAlone(part="layers.*.norm", what="norm", why="no matrix", bytes=40_000),
            LeftAlone(part="norm", what="norm", why="outside of the blocks", bytes=10_000),
        ],
        vocabulary=9,
    )
    assert rows_of(left_alone(check)) == [
        ["embed", "embedding", "4.0 MB", "40.0%", "outside of the blocks"],
        ["layers.*.up", "linear layer", "0.9 MB", "9.5%", "left by the recipe"],
        ["2 small parts", "norm", "0.1 MB", "0.5%", ""],
    ]


def test_targets_are_told_in_their_order() -> None:
    overrides = ["targets.*.b.keep=0.9", "targets.*=leave", "targets.a=take", "targets.c.rank=8", "towers.vision=0.5"]
    assert rows_of(targets(load_recipe("svd", overrides))) == [
        ["tower vision", "0.5 of their bytes"],
        ["*.b", "0.9 of their bytes"],
        ["*", "left as they are"],
        ["a", "targets again"],
        ["c", "rank 8"],
    ]


def test_caches_are_compared_with_keys_and_values() -> None:
    made = [LayerCacheSize("a", 2000, stored) for stored in (1000, 500)]
    sizes = {bits: CacheSize((each,), 0) for bits, each in zip((16, 8), made, strict=True)}
    assert rows_of(cache_sizes(sizes)) == [
        ["keys and values", "2,000", "100.0%"],
        ["latents, 16 bits", "1,000", "50.0%"],
        ["latents, 8 bits", "500", "25.0%"],
    ]
