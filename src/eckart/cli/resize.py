"""``eckart resize``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.loaded import check_unchanged
from eckart.checkpoint.nested import check_share, read_nested
from eckart.checkpoint.processor import copy_processor
from eckart.checkpoint.save import check_new_folder, new_folder, write_model
from eckart.checkpoint.tokenizer import copy_tokenizer
from eckart.cli.console import TrustRemoteCode, command, megabytes, output
from eckart.errors import CheckpointError, EckartWarning
from eckart.runtimes.dense import bytes_of


@command
def resize(
    folder: Annotated[Path, typer.Argument(help="A folder that `eckart compress --nested` wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    keep: Annotated[
        float,
        typer.Option(help="Bytes of the linear layers to keep, of those that they had before they were compressed."),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that Eckart wrote.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a smaller size of a model with nested ranks, without calibration or a solver.

    `eckart inspect FOLDER --sizes` shows which there are.
    """
    check_share(keep)
    check_new_folder(out, overwrite=overwrite, reads=[folder])
    if not folder.exists():
        raise CheckpointError(f"There is no folder {folder}; expected one that `eckart compress --nested` wrote.")
    stored = read_nested(folder).keep
    if keep >= stored:
        raise CheckpointError(
            f"{folder} holds {stored:.4f} of the bytes of its linear layers; found keep {keep:g}. A folder is resized "
            "to less than it holds: compress the original model for more."
        )
    model = load_model(folder, keep=keep, trust_remote_code=trust_remote_code)
    try:
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        warnings.warn(f"{error} Its files are copied as they are.", EckartWarning, stacklevel=1)
        tokenizer = None
    with new_folder(out, overwrite=overwrite, needed=bytes_of(model), reads=[folder]) as partial:
        write_model(partial, model, None, tokenizer)
        check_unchanged(model)
        if tokenizer is None:
            copy_tokenizer(folder, partial)
        copy_processor(folder, partial)
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    output.print(f"Wrote {out}: {megabytes(written)} of weights.", soft_wrap=True)
