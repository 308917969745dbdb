"""``eckart bench``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.table import Table

from eckart.checkpoint import load_model
from eckart.checkpoint.loaded import check_unchanged
from eckart.cli.console import TrustRemoteCode, command, megabytes, output
from eckart.cli.progress import progress_display
from eckart.cli.values import dtype_called
from eckart.device import compute_dtype, resolve_device
from eckart.errors import EckartError
from eckart.evaluate.caches import CacheKind
from eckart.evaluate.speed import Machine, Speed, compare, measure_machine
from eckart.evaluate.speed.compare import Rates, check_room
from eckart.evaluate.speed.served import compare_served
from eckart.evaluate.windows import check_predicts
from eckart.layers.joined import join_first_factors

ENGINES = ("transformers", "vllm")
RATES = ("model", "batch", "first token", "prefill/s", "decode/s", "")


@command
def bench(
    models: Annotated[
        list[str],
        typer.Argument(help="Dense or compressed folders; all are compared with the first.", show_default=False),
    ],
    batch: Annotated[str, typer.Option(help="Sequences at once; several sizes with commas.")] = "1",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens in front.")] = 128,
    generate: Annotated[int, typer.Option(min=2, help="Tokens to continue by.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the median is shown.")] = 5,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16; auto: as stored, float32 where a CPU emulates that.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile make what decodes, on a cache of fixed size.")
    ] = False,
    join: Annotated[
        bool, typer.Option(help="Run first factors that share an input as one product: see eckart.join_first_factors.")
    ] = False,
    cache: Annotated[
        list[str] | None,
        typer.Option(
            help="What keys and values are kept in: dense, latent[:BITS], quanto:BITS, hqq:BITS or window:TOKENS; may "
            "be repeated, for a row each.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="What runs them: transformers or vllm.")] = "transformers",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time models side by side: first token, prefill, decoding, and what limits them on this machine."""
    if engine not in ENGINES:
        raise EckartError(f"No engine is called {engine!r}. Use {' or '.join(ENGINES)}.")
    if compiled and join:
        raise EckartError("--join is for plain calls: products in a compiled graph stay apart. Leave out one of both.")
    if compiled and cache:
        raise EckartError("--compile decodes on a cache of fixed size. Leave out --compile or --cache.")
    kinds: list[CacheKind | None] = [CacheKind.parse(kind) for kind in dict.fromkeys(cache or [])]
    if engine == "vllm":
        if compiled or join:
            raise EckartError("--compile and --join are for transformers: vLLM does both by itself. Leave them out.")
        if cache:
            raise EckartError("--cache is for transformers: vLLM has a cache of its own. Leave it out.")
        _bench_served(models, batch, prompt, generate, repeats, dtype, as_json=as_json)
        return
    place = resolve_device(device)
    asked = dtype_called(dtype)
    batches = _sizes(batch)
    loaded, caches = {}, {}
    for name, kind in product(dict.fromkeys(models), kinds or [None]):
        model = load_model(name, trust_remote_code=trust_remote_code)
        check_predicts(model)
        wanted = asked or compute_dtype(model.dtype, place)
        row = name if kind is None else f"{name} ({kind})"
        loaded[row] = model.to(place, wanted)
        if join:
            join_first_factors(model)
        if kind is not None:
            caches[row] = kind.prepare(model)
    check_room(loaded, batches=batches, prompt=prompt, generate=generate)
    first = next(iter(loaded.values()))
    machine = measure_machine(place, first.dtype)
    with progress_display(disable=as_json) as progress:
        task = progress.add_task("runs", total=None)
        speeds = compare(
            loaded,
            machine,
            batches=batches,
            prompt=prompt,
            generate=generate,
            repeats=repeats,
            compiled=compiled,
            caches=caches,
            on_run=lambda done, total: progress.update(task, completed=done, total=total),
        )
    check_unchanged(*loaded.values())
    if as_json:
        facts = {"bandwidth": machine.bandwidth, "operations": machine.operations, "dtype": str(first.dtype)}
        rows = [speed.model_dump() for speed in speeds]
        output.print_json(
            json.dumps(
                {
                    "machine": facts,
                    "threads": torch.get_num_threads(),
                    "compiled": compiled,
                    "joined": join,
                    "speeds": rows,
                }
            )
        )
        return
    output.print(_table(speeds))
    output.print(_caption(machine, first.dtype, repeats, compiled=compiled, join=join), soft_wrap=True)


def _bench_served(
    models: list[str], batch: str, prompt: int, generate: int, repeats: int, dtype: str, *, as_json: bool
) -> None:
    with progress_display(disable=as_json) as progress:
        task = progress.add_task("runs", total=None)
        speeds = compare_served(
            list(dict.fromkeys(models)),
            dtype=dtype,
            batches=_sizes(batch),
            prompt=prompt,
            generate=generate,
            repeats=repeats,
            on_run=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        output.print_json(json.dumps({"engine": "vllm", "speeds": [speed.model_dump() for speed in speeds]}))
        return
    table = Table(*RATES, box=box.SIMPLE)
    for cells in _rates(speeds):
        table.add_row(*cells)
    output.print(table)
    output.print(
        f"Tokens a second in vLLM; medians of {repeats} rounds in which every model is run once, lowest and highest in "
        "brackets, decoding against that of the first model. All models are loaded at the same time, each in a "
        "process of its own.",
        soft_wrap=True,
    )


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise EckartError(f"--batch takes whole numbers above 0 with commas between them, such as 1,8; found {text!r}.")
    return sizes


def _rates(speeds: Sequence[Rates]) -> list[list[str]]:
    """Return the cells of :data:`RATES`, decoding against that of the first model."""
    reference = {speed.batch: speed.decode.median for speed in reversed(speeds)}
    return [
        [
            Path(speed.model).name,
            str(speed.batch),
            f"{1000 * speed.first_token.median:.1f} ms",
            f"{speed.prefill.median:.0f}",
            f"{speed.decode.median:.1f} ({speed.decode.low:.1f}-{speed.decode.high:.1f})",
            f"x{speed.decode.median / reference[speed.batch]:.2f}",
        ]
        for speed in speeds
    ]


def _table(speeds: list[Speed]) -> Table:
    table = Table(*RATES, "weights", "cache/token", "limit", box=box.SIMPLE)
    for speed, cells in zip(speeds, _rates(speeds), strict=True):
        peak = "" if speed.peak_bytes is None else f", peak {megabytes(speed.peak_bytes)}"
        table.add_row(
            *cells,
            megabytes(speed.weight_bytes) + peak,
            f"{speed.cache_bytes_per_token / 1000:.1f} kB",
            f"{speed.limit} ({speed.reached:.0%})",
        )
    return table


def _caption(machine: Machine, dtype: torch.dtype, repeats: int, *, compiled: bool, join: bool) -> str:
    how = ", decoding compiled on a cache of fixed size" if compiled else ""
    how += ", first factors joined" if join else ""
    return (
        f"Tokens a second; medians of {repeats} rounds in which every model is run once, lowest and highest in "
        f"brackets, decoding against that of the first model. {dtype}, {torch.get_num_threads()} threads{how}. This "
        f"machine reads {machine.bandwidth / 1e9:.1f} GB/s and multiplies {machine.operations / 1e9:.0f} GFLOP/s. In "
        "brackets behind the limit: what a decoding step must read or multiply at least, over what it took; where that "
        "is little, calls and what lies between the products take the time."
    )
