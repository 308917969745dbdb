"""Pivoted layers that compute their outputs in order: the config names them, and no file holds an index of theirs."""

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
    indices = tuple(f"{path}.index" for path in ordered)
    for file in files or () if indices else ():
        if not str(file).endswith(".safetensors"):
            continue
        with safe_open(file, framework="pt") as shard:
            found = next((name for name in shard.keys() if name.endswith(indices)), None)  # noqa: SIM118
        if found is not None:
            raise CheckpointError(
                f"config.json says that the outputs of {found.removesuffix('.index')} are in order without an index, "
                f"but the weight files hold one, {found}. {DAMAGED}"
            )
