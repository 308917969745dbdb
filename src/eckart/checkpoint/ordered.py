"""Layers without an index, though others of their class have one: the config names them, and no file holds one.

They are pivoted layers that compute their outputs in order, and layers that keep the same units as those behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from safetensors import safe_open

from eckart.errors import CheckpointError

DAMAGED = "The folder was changed or damaged: copy or download it again."


def check_ordered(
    ordered: Sequence[str], ranks: Mapping[str, int | None], *, pivoted: bool, files: Iterable[str] | None
) -> None:
    """Raise unless ``ordered`` names pivoted layers without an index.

    Args:
        ordered: paths, as the config says.
        ranks: by path of each layer that is replaced.
        pivoted: whether those that have a rank are pivoted.
        files: with the weights, as far as they are known; those that are safetensors are looked into.

    Raises:
        CheckpointError: it does not; names the layer.
    """
    for path in ordered:
        if not pivoted or ranks.get(path) is None:
            raise CheckpointError(
                f"config.json says that the outputs of {path} are in order without an index; expected the path of a "
                f"pivoted layer. {DAMAGED}"
            )
    found = _index_of(ordered, files)
    if found is not None:
        raise CheckpointError(
            f"config.json says that the outputs of {found.removesuffix('.index')} are in order without an index, "
            f"but the weight files hold one, {found}. {DAMAGED}"
        )


def check_direct(direct: Sequence[str], files: Iterable[str] | None) -> None:
    """Raise if a layer has an index that is said to need none, as all that it is between drops the same.

    Args:
        direct: paths, as the config says.
        files: as for :func:`check_ordered`.

    Raises:
        CheckpointError: names the layer.
    """
    found = _index_of(direct, files)
    if found is not None:
        raise CheckpointError(
            f"config.json says that {found.removesuffix('.index')} has only what is kept, without places of it, but "
            f"the weight files hold some, {found}. {DAMAGED}"
        )


def _index_of(paths: Sequence[str], files: Iterable[str] | None) -> str | None:
    """Return the name of an index of one of some layers that safetensors files hold, if there is any."""
    indices = tuple(f"{path}.index" for path in paths)
    for file in files or () if indices else ():
        if not str(file).endswith(".safetensors"):
            continue
        with safe_open(file, framework="pt") as shard:
            found = next((name for name in shard.keys() if name.endswith(indices)), None)  # noqa: SIM118
        if found is not None:
            return str(found)
    return None
