"""``eckart export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from eckart.cli.console import TrustRemoteCode, command, megabytes, output
from eckart.cli.values import dtype_called
from eckart.runtimes.result import Export
from eckart.runtimes.targets import TARGETS


@command
def export(
    model: Annotated[
        str, typer.Argument(help="A compressed or a dense model: a folder or a hub id.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", help=f"{', '.join(TARGETS)}.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Round weights with the runtime's own tools: int8 or int4 for onnx and openvino, q8_0, q5_1, q5_0, "
            "q4_1 or q4_0 for gguf.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16; auto: what the runtime runs best, as docs/export.md says.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that Eckart wrote.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model in the format of another runtime, run it there, and compare its logits.

    Example: `eckart export smaller --to onnx -o smaller-onnx`
    """
    # The exporters of transformers take long to import, and older releases have others.
    from eckart.runtimes.export import export as run

    asked = dtype_called(dtype)
    done = run(
        model,
        to,
        out,
        quantize=quantize,
        dtype=asked,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        output.print_json(json.dumps(done.model_dump(mode="json")))
    else:
        output.print(_told(done), soft_wrap=True)


def _told(done: Export) -> str:
    judged = "" if done.tolerance is None else f"; at most {done.tolerance:g} of that is let through"
    rounded = f", weights rounded to {done.quantize}" if done.quantize else ""
    merged = f" {done.merged} layers were multiplied into dense ones." if done.merged else ""
    return (
        f"Wrote {done.folder} ({', '.join(done.parts)}; {done.dtype}{rounded}): {megabytes(done.bytes_written)}, "
        f"{megabytes(done.bytes_before)} in memory before.{merged}\n"
        f"Run there, its logits are up to {done.difference:.2g} from those of the model in memory, whose largest is "
        f"{done.largest:.3g}{judged}."
    )
