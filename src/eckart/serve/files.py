"""Looks at a folder before an engine loads it: engines take every weight file that they find, and do not count."""

from __future__ import annotations

from pathlib import Path

from eckart.checkpoint.folder import check_folder, files_of_index, weight_files
from eckart.checkpoint.tensors import stored_tensors
from eckart.errors import ServingError
from eckart.files.names import read_json

INDEX_SUFFIX = ".safetensors.index.json"


def check_weight_files(folder: str | Path) -> None:
    """Raise if the weight files of a folder are not those that its index names, with the tensors that it names.

    Args:
        folder: what a model is served from; one that is no local folder is left to the engine that downloads it.

    Raises:
        CheckpointError: a file cannot be read, or must not be.
        ServingError: a file or a tensor is missing, or there is one too many.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    check_folder(folder)
    used = weight_files(folder)
    present = sorted(folder.glob("*.safetensors"))
    strangers = [path.name for path in present if path not in used]
    if strangers:
        raise ServingError(
            f"{folder} holds the weight file {strangers[0]}, which its index does not name; an engine would load it "
            "too. Remove it, or copy the folder again."
        )
    index = _index_of(folder, used)
    if index is None:
        return
    data = read_json(folder, index)
    absent = [name for name in files_of_index(folder, index) if not (folder / name).is_file()]
    if absent:
        raise ServingError(f"{folder} lacks the weight file {absent[0]}, which {index} names. {AGAIN}")
    stored = stored_tensors(used)
    missing = sorted(set(data["weight_map"]) - set(stored))
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise ServingError(f"The weight files of {folder} lack {missing[0]}{more}, which {index} names. {AGAIN}")


AGAIN = "The model is incomplete: copy or download its folder again."


def _index_of(folder: Path, used: list[Path]) -> str | None:
    """Return the name of the index by which weight files were found, if there is one."""
    names = {path.name for path in used}
    for path in sorted(folder.glob(f"*{INDEX_SUFFIX}")):
        if names <= set(files_of_index(folder, path.name)):
            return path.name
    return None
