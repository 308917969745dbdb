"""``eckart push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from rich import box
from rich.table import Table

from eckart.checkpoint.mark import LIST_NAME, changed_files, known_files
from eckart.checkpoint.origin import CARD_NAME
from eckart.cli.console import command, megabytes, output
from eckart.errors import CheckpointError, EckartError


@command
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that Eckart wrote.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Name on the hub, such as me/model.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be uploaded.")] = False,
) -> None:
    """Upload a compressed model to the hub: the files that Eckart wrote, and no others."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise EckartError(f"{repo!r} cannot be a repository's name; expected one such as me/model: {error}") from error
    names = files_to_push(folder)
    sizes = {name: (folder / name).stat().st_size for name in names}
    if dry_run:
        table = Table("file", "size", box=box.SIMPLE)
        for name, size in sizes.items():
            table.add_row(name, megabytes(size))
        output.print(table)
        output.print(f"{len(names)} files, {megabytes(sum(sizes.values()))}, would go to {repo}. Nothing was uploaded.")
        return
    try:
        hub = HfApi()
        made = hub.create_repo(repo, private=private or None, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, allow_patterns=names, commit_message="Compressed by Eckart"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise EckartError(
            f"{folder} could not be uploaded to {repo}: {error}. Look at the network, the name and your access "
            "(`hf auth login`), and run the same command again: what is there already is not sent twice."
        ) from error
    output.print(f"Uploaded {len(names)} files, {megabytes(sum(sizes.values()))}, to {made}.", soft_wrap=True)


def files_to_push(folder: Path) -> list[str]:
    """Return the names of the files of a compressed model, as ``folder/file``.

    Raises:
        CheckpointError: Eckart did not write the folder, or what it wrote was changed since.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.")
    known = known_files(folder)
    if known is None:
        raise CheckpointError(f"{folder} was not written by Eckart. Expected the output of `eckart compress`.")
    # The card is for people to write on, and the hub shows it.
    if changed := [name for name in changed_files(folder) if name != CARD_NAME]:
        raise CheckpointError(
            f"{folder / changed[0]} is gone, or was changed since Eckart wrote it. Put it back, or write it again."
        )
    return sorted(known - {LIST_NAME})
