"""``eckart merge``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.loaded import check_unchanged
from eckart.checkpoint.processor import copy_processor
from eckart.checkpoint.save import check_new_folder, new_folder
from eckart.checkpoint.tokenizer import copy_tokenizer
from eckart.cli.console import TrustRemoteCode, command, output
from eckart.errors import CheckpointError, EckartWarning
from eckart.runtimes.dense import bytes_of, check_mergeable, is_compressed, merge_layers, write_dense


@command
def merge(
    folder: Annotated[str, typer.Argument(help="A compressed model.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that Eckart wrote.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Multiply the factors back into a dense model, which loads anywhere and saves no bytes.

    `eckart export --to dense` does the same, and compares the logits of both.
    """
    reads = [Path(folder)]
    check_new_folder(out, overwrite=overwrite, reads=reads)
    model = load_model(folder, trust_remote_code=trust_remote_code)
    if not is_compressed(model):
        raise CheckpointError(f"{folder} is not compressed by eckart, so there is nothing to multiply back.")
    check_mergeable(model, folder)
    try:
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        warnings.warn(f"{error} Its files are copied as they are.", EckartWarning, stacklevel=1)
        tokenizer = None
    dense = merge_layers(model, folder)
    size = bytes_of(dense)
    with new_folder(out, overwrite=overwrite, needed=size, reads=reads) as partial:
        write_dense(dense, partial)
        check_unchanged(model)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        else:
            copy_tokenizer(folder, partial)
        copy_processor(folder, partial)
    output.print(f"Wrote the dense model {out}.", soft_wrap=True)
