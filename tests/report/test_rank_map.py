"""The grid of ranks."""

from __future__ import annotations

import pytest

from eckart.compression.records import LayerRecord
from eckart.methods.precision import Bits3, Bits4, Bits8
from eckart.report.rank_map import rank_map


def layer(path: str, rank: int | None = 30) -> LayerRecord:
    stored = 2 * (rank * 200 if rank is not None else 10_000)
    return LayerRecord(path=path, out_features=100, in_features=100, rank=rank, bytes=stored, error=0.1)


def test_blocks_are_rows_and_kinds_are_columns() -> None:
    paths = [f"model.layers.{block}.{kind}" for block in (0, 1, 10) for kind in ("attention.q", "mlp.up")]
    scheme = rank_map([layer(path, rank) for path, rank in zip(paths, (10, 20, 30, 40, 49, None), strict=True)])
    assert scheme.blocks == ("0", "1", "10")
    assert scheme.kinds == ("attention.q", "mlp.up")
    assert scheme.kind_labels == ("q", "up")
    assert [cell.label for cell in scheme.cells] == ["10", "20", "30", "40", "49", "dense"]
    assert [cell.kept for cell in scheme.cells] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.98, 1.0])
    assert scheme.scale == (0.2, 1.0)


def test_a_kind_that_a_block_lacks_is_an_empty_cell() -> None:
    scheme = rank_map([layer("h.0.linear.in"), layer("h.0.mlp.up"), layer("h.1.full.q"), layer("h.1.mlp.up")])
    assert scheme.kinds == ("linear.in", "mlp.up", "full.q")
    assert [[cell is not None for cell in row] for row in scheme.rows] == [[True, True, False], [False, True, True]]


def test_labels_are_the_shortest_tails_that_tell_kinds_apart() -> None:
    kinds = ["attention.out", "mlp.out", "out", "mlp.up", "cross.attention.out"]
    assert rank_map([layer(f"h.{block}.{kind}") for block in (0, 1) for kind in kinds]).kind_labels == (
        "attention.out",  # the whole path: a longer one ends with it
        "mlp.out",
        "out",
        "up",
        "cross.attention.out",
    )


@pytest.mark.parametrize(
    ("paths", "blocks", "kinds"),
    [
        (["model.layers.0.q"], ("0",), ("q",)),
        (["model.layers.7.q", "model.layers.7.k"], ("7",), ("q", "k")),
        (["stages.0.layers.3.q", "stages.0.layers.4.q"], ("3", "4"), ("q",)),
        (["h.0.experts.0.up", "h.0.experts.1.up", "h.1.experts.0.up"], ("0", "1"), ("experts.0.up", "experts.1.up")),
        (["h.0.q", "h.1.q", "head"], ("0", "1", ""), ("q", "head")),
        (["one", "two"], ("",), ("one", "two")),
    ],
)
def test_which_number_is_the_block(paths: list[str], blocks: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    scheme = rank_map([layer(path) for path in paths])
    assert (scheme.blocks, scheme.kinds) == (blocks, kinds)
    assert len(scheme.cells) == len(paths)


@pytest.mark.parametrize(
    ("ranks", "scale"),
    [
        ((40, 40), (0.6, 1.0)),
        ((39, 39), (0.6, 0.9)),
        ((None, None), (0.7, 1.0)),
        ((1, 1), (0.0, 0.3)),
        ((35, 40), (0.6, 0.9)),
    ],
)
def test_the_scale_is_never_so_narrow_that_roundings_look_like_differences(
    ranks: tuple[int | None, ...], scale: tuple[float, float]
) -> None:
    assert rank_map([layer(f"h.{place}.q", rank) for place, rank in enumerate(ranks)]).scale == scale


def test_bases_that_were_chosen_stand_in_the_cells() -> None:
    bases = [Bits3(), Bits4(), Bits8()]
    layers = [
        layer(f"h.{n}.up", rank).model_copy(update={"base": base})
        for n, (rank, base) in enumerate(zip((None, 16, None), bases, strict=True))
    ]
    assert [cell.label for cell in rank_map(layers).cells] == ["3-bit", "4-bit + 16", "8-bit"]
    experts = [layer(f"h.0.experts.{n}.up", None).model_copy(update={"base": bases[n % 2]}) for n in range(6)] + [
        layer("h.1.up")
    ]
    assert [cell.label for cell in rank_map(experts).cells] == ["3-bit to 4-bit", "30"]
