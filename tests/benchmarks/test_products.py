"""The table of products, of layers that take no time."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("products")


def test_each_precision_has_its_row(products: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        products.main(["32x64", "64x32"], [1, 3], numbers=4096, rounds=1, threads=1)
    finally:
        torch.set_num_threads(threads)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    ways = ["float32", "bfloat16", "8-bit", "6-bit", "5-bit", "4-bit", "3-bit", "2-bit"]
    assert [row[:3] for row in rows] == [
        [shape, tokens, way] for shape in ("32x64", "64x32") for tokens in ("1", "3") for way in ways
    ]
    assert all(float(row[4]) == 1 for row in rows if row[2] == "bfloat16")


def test_layers_of_few_bits_store_less(products: ModuleType) -> None:
    sizes = [sum(map(products.size_of, products.few_bits(32, 64, 1, precision))) for precision in products.FEW_BITS]
    assert sizes == sorted(sizes, reverse=True)
    assert products.size_of(products.dense(32, 64, 1, torch.bfloat16)[0]) == 2 * 32 * 64 > sizes[0]


def test_what_passes_through_each_layer_is_timed(products: ModuleType) -> None:
    seen = []
    layers = [torch.nn.Identity() for _ in range(3)]
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(module))
    ticks = iter([1.0, 3.5])
    assert products.duration(layers, torch.ones(2, 4), lambda: next(ticks)) == 2.5
    assert seen == layers
