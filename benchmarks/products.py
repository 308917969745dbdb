"""Times the products that decoding consists of, for each precision of a layer, in turns on this processor.

    python benchmarks/products.py --shape 576x1536 --shape 4096x4096

There are so many layers of a shape that their weights do not stay in the processor's caches: each token reads all of
them from memory, as in a model. The table holds the median time of a layer, and how many times as fast that is as a
bfloat16 layer of PyTorch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from eckart.layers.quantized import QuantizedLinear
from eckart.methods.precision import Bits2, Bits3, Bits4, Bits5, Bits6, Bits8
from eckart.methods.precision.low_bit import LowBit

FEW_BITS = (Bits8(), Bits6(), Bits5(), Bits4(), Bits3(), Bits2())
DENSE, BASELINE = (torch.float32, torch.bfloat16), "bfloat16"


def main(
    shape: Annotated[list[str], typer.Option(help="OUTxIN of a layer; may be repeated.")] = ["576x1536"],  # noqa: B006
    tokens: Annotated[list[int], typer.Option(help="At once; may be repeated.")] = [1, 64],  # noqa: B006
    numbers: Annotated[int, typer.Option(help="Of all layers of a shape together.")] = 64_000_000,
    rounds: Annotated[int, typer.Option(help="Of all precisions in turn.")] = 9,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 2,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    print("| shape | tokens | precision | microseconds | times as fast | MB stored |")
    print("|---|---|---|---|---|---|")
    for name in shape:
        rows, columns = (int(size) for size in name.split("x"))
        count = max(1, numbers // (rows * columns))
        ways = {str(dtype).removeprefix("torch."): dense(rows, columns, count, dtype) for dtype in DENSE}
        ways |= {precision.name: few_bits(rows, columns, count, precision) for precision in FEW_BITS}
        for some in tokens:
            found = timed(ways, some, columns, rounds)
            for way, seconds in found.items():
                print(
                    f"| {name} | {some} | {way} | {seconds / count * 1e6:.0f} | {found[BASELINE] / seconds:.2f} | "
                    f"{sum(size_of(layer) for layer in ways[way]) / 1e6:.0f} |"
                )


def dense(rows: int, columns: int, count: int, dtype: torch.dtype) -> list[nn.Module]:
    """Return layers of PyTorch."""
    return [nn.Linear(columns, rows, bias=False, dtype=dtype) for _ in range(count)]


def few_bits(rows: int, columns: int, count: int, precision: LowBit) -> list[nn.Module]:
    """Return layers with random codes, that compute in bfloat16."""
    scheme, layers = precision.scheme, list[nn.Module]()
    for _ in range(count):
        layer = QuantizedLinear(columns, rows, scheme, bias=False, dtype=torch.bfloat16)
        layer.set_codes(torch.randint(-scheme.largest, scheme.largest + 1, (rows, columns), dtype=torch.int8))
        layers.append(layer)
    return layers


def size_of(layer: nn.Module) -> int:
    """Return the bytes of what is stored of a layer."""
    return sum(tensor.nbytes for tensor in layer.state_dict().values())


@torch.no_grad()
def timed(ways: dict[str, list[nn.Module]], tokens: int, columns: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of all layers of each way, one way after the other in each round."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, layers in ways.items():
            inputs = torch.ones(tokens, columns, dtype=torch.float32 if way == "float32" else torch.bfloat16)
            seconds = duration(layers, inputs)
            if number:  # the first time some order their codes for the product
                found[way].append(seconds)
    return {way: statistics.median(seconds) for way, seconds in found.items()}


def duration(layers: list[nn.Module], inputs: Tensor, clock: Callable[[], float] = perf_counter) -> float:
    """Return the seconds that inputs take through each layer."""
    start = clock()
    for layer in layers:
        layer(inputs)
    return clock() - start


if __name__ == "__main__":
    typer.run(main)
