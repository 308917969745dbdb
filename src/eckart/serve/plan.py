"""Which parts a layer of an engine is made of: an engine fuses linears that a checkpoint holds one by one.

Their ranks may differ, some of them may be left whole, and some may share a basis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eckart.checkpoint.config import EckartConfig
from eckart.errors import ServingError
from eckart.methods.layout import Layout

JOINT = "joint"  # what a fused layer calls the one linear that it stands for


@dataclass(frozen=True)
class PartPlan:
    """One linear of the checkpoint.

    Attributes:
        path: of it in config.json; that of its first linear and ``.joint`` where several share a basis.
        prefix: of the names of its tensors below the path of the first linear: empty or ``joint.``.
        arrival: which of the fused linears its tensors are named after; None if the checkpoint holds the fused one.
        shards: which of the fused linears it gives the outputs of, one behind another.
        rank: of it, or None.
        is_replaced: whether config.json names it: else it is a plain linear.
        layout: how it is stored, if not as most are.
    """

    path: str
    prefix: str
    arrival: int | None
    shards: tuple[int, ...]
    rank: int | None
    is_replaced: bool
    layout: Layout | None = None


class ServedConfig:
    """What config.json says of linears, in an engine's names, and which of them were asked for.

    Args:
        config: of the compressed model.

    Attributes:
        layouts: how those linears are stored whose base is not that of all, by path.
    """

    def __init__(self, config: EckartConfig) -> None:
        if config.expanded or any(runs > 1 for runs in config.joint_runs.values()):
            name = next(iter(config.expanded or config.joint_runs))
            raise ServingError(
                f"{name} holds experts of a mixture that were compressed, which no engine can serve yet. Use "
                "transformers, or compress again with the experts left whole: --ignore '*.experts.*'."
            )
        if config.kept:
            raise ServingError(
                f"{next(iter(config.kept))} has fewer outputs or inputs than the layer that an engine has there. Use "
                "transformers, multiply back with eckart merge, or compress with as many hidden units in each block "
                "and nothing else (--recipe fewer-units): any engine serves that."
            )
        if config.embedding is not None:
            raise ServingError(
                "The embedding of this model is stored in few bits, which no engine can serve yet. Use transformers, "
                "or compress again with --set embedding=16-bit."
            )
        self.config = config
        self.ranks = dict(config.ranks)
        self.groups = [tuple(paths) for paths in config.joint]
        self.ordered = set(config.ordered)
        self.layouts: dict[str, Layout] = {}
        self.asked: set[str] = set()

    def rename(self, name_of: Callable[[str], str | None]) -> None:
        """Take over the names that an engine has for the paths of a checkpoint."""

        def renamed(path: str) -> str:
            return name_of(path) or path

        self.ranks = {renamed(path): rank for path, rank in self.ranks.items()}
        self.groups = [tuple(map(renamed, paths)) for paths in self.groups]
        self.ordered = set(map(renamed, self.ordered))
        self.layouts = {renamed(path): layout for path, layout in self.layouts.items()}

    def plan(self, prefix: str, fused: Mapping[str, Sequence[str]], shards: int) -> list[PartPlan] | None:
        """Return the parts of an engine's layer, or None if no linear of it is replaced.

        Args:
            prefix: path of the layer in the engine.
            fused: names of linears by the name of the layer that they are fused to.
            shards: how many linears the engine thinks the layer consists of.

        Raises:
            ServingError: linears that share a basis are not fused by the engine, or not known one by one.
        """
        outer, dot, leaf = prefix.rpartition(".")
        paths = [f"{outer}{dot}{name}" for name in fused.get(leaf, [leaf])]
        groups = {path: group for group in self.groups for path in group if path in paths}
        if not groups and not any(path in self.ranks for path in paths):
            return None
        if len(paths) == 1:
            arrivals: list[tuple[int | None, tuple[int, ...]]] = [(None, tuple(range(shards)))]
        elif len(paths) == shards:
            arrivals = [(number, (number,)) for number in range(shards)]
        else:
            raise ServingError(
                f"{prefix} of this engine has {shards} pieces for the {len(paths)} linears {', '.join(paths)}, so that "
                f"it is not known which is which. {OTHERWISE}"
            )
        parts = []
        for path, (arrival, covered) in zip(paths, arrivals, strict=True):
            group = groups.get(path)
            if group is None:
                parts.append(self._part(path, "", arrival, covered))
                continue
            strangers = [other for other in group if other not in paths]
            if strangers:
                raise ServingError(
                    f"{path} shares a basis with {strangers[0]}, and this engine runs them as separate layers. Serve "
                    "it with transformers, or compress again with sharing=separate."
                )
            if path == group[0]:
                parts.append(self._part(path, f"{JOINT}.", arrival, tuple(map(paths.index, group))))
        return parts

    def _part(self, path: str, prefix: str, arrival: int | None, shards: tuple[int, ...]) -> PartPlan:
        if prefix:
            self.asked.update(group[0] for group in self.groups if path == group[0])
        path = f"{path}.{prefix}".rstrip(".")
        self.asked.add(path)
        return PartPlan(path, prefix, arrival, shards, self.ranks.get(path), path in self.ranks, self.layouts.get(path))

    def check_all_asked(self, *, all_blocks: bool = True) -> None:
        """Raise if the engine has not asked for a linear that was replaced: it would run another one in its place.

        Args:
            all_blocks: whether this process runs all blocks of the model; else those are checked that it has some of.

        Raises:
            ServingError: names the linear.
        """
        left = [path for path in (*self.ranks, *(group[0] for group in self.groups)) if path not in self.asked]
        if not all_blocks:
            own = set(map(_block_of, self.asked))
            left = [path for path in left if _block_of(path) in own]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ServingError(
                f"This engine has no linear layer for {left[0]}{more}, which config.json says is compressed: it would "
                f"be served with other numbers. {OTHERWISE}"
            )


OTHERWISE = "Serve the model with transformers, or the dense one that `eckart merge` writes."


def _block_of(path: str) -> str:
    """Return a path up to its first number: that of a block in its list."""
    parts = path.split(".")
    digits = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: digits[0] + 1]) if digits else path
