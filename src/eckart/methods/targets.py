"""Which linears are compressed, and to which size of their own: patterns over paths and classes, as recipes have them.

A pattern is the path of a module, a glob over paths (``*`` stands for dots too), the name of a class, or several of
these with ``|`` between them. It names the linears that it matches, and those inside of modules that it matches. Of
several patterns that name a linear, later ones win.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from eckart.errors import RecipeError

LEAVE, TAKE = "leave", "take"
NUMBER = re.compile(r"\b\d+\b")
SIZES = "leave, take, {keep: 0.9} or {rank: 64}"
TOWER_SIZES = "leave, or a share of the bytes to keep, above 0 and at most 1"


class Target(BaseModel):
    """What a recipe says of the linears of a pattern or of a tower.

    Attributes:
        pattern: names them.
        keep: bytes to keep of them together, as a share of their dense 16-bit bytes.
        rank: of each of them.
        leave: whether they are left as they are.

    Without any of these three they are targets again, at the size that they had before they were left.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pattern: str = Field(min_length=1)
    keep: float | None = Field(None, gt=0, le=1)
    rank: int | None = Field(None, ge=1)
    leave: bool = False

    @property
    def size(self) -> object:
        """What a recipe says behind the pattern."""
        if self.leave:
            return LEAVE
        if self.keep is not None:
            return {"keep": self.keep}
        return TAKE if self.rank is None else {"rank": self.rank}


@dataclass(frozen=True)
class Size:
    """How large some linears become that have a size in common.

    Attributes:
        option: by which a user sets it, for messages.
        keep: bytes of them together, as a share of their dense 16-bit bytes; None if the rank is said.
        rank: of each of them.
    """

    option: str
    keep: float | None
    rank: int | None = None


@dataclass(frozen=True)
class Named:
    """What a linear is named by: its path, the classes of the modules on the way to it and its own, and its tower."""

    path: str
    classes: frozenset[str]
    tower: str = ""


@dataclass(frozen=True)
class Assigned:
    """What a recipe says of the linears of a model, by path: sizes of their own, and which are left as they are."""

    own: Mapping[str, Size]
    left: frozenset[str]


def matches(pattern: str, path: str, classes: Collection[str]) -> bool:
    """Return whether a pattern names a module.

    Args:
        pattern: a path, a glob over paths, or the name of a class; or several with ``|`` between.
        path: of the module.
        classes: names of its class, and of those of all modules around it.
    """
    parts = path.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return any(one in classes or any(fnmatchcase(place, one) for place in around) for one in pattern.split("|"))


def assign(targets: Sequence[Target], towers: Sequence[Target], linears: Iterable[Named]) -> Assigned:
    """Return what a recipe says of each linear; what it says of its tower goes before all patterns."""
    own: dict[str, Size] = {}
    left: set[str] = set()
    for linear in linears:
        said = [(f"towers.{t.pattern}", t) for t in towers if t.pattern == linear.tower]
        said += [
            (f"targets.{t.pattern}.{'keep' if t.rank is None else 'rank'}", t)
            for t in targets
            if matches(t.pattern, linear.path, linear.classes)
        ]
        for option, target in said:
            if target.leave:
                left.add(linear.path)
                continue
            left.discard(linear.path)
            if target.keep is not None or target.rank is not None:
                own[linear.path] = Size(option, target.keep, target.rank)
    return Assigned({path: size for path, size in own.items() if path not in left}, frozenset(left))


def in_all_blocks(path: str) -> str:
    """Return a path with a ``*`` for each number."""
    return NUMBER.sub("*", path)


def overrides_for(only: str | Iterable[str], ignore: str | Iterable[str]) -> list[str]:
    """Return the overrides of a recipe that stand for patterns of linears.

    Args:
        only: all others are left as they are; none for all.
        ignore: are left as they are.

    Raises:
        RecipeError: one is no pattern.
    """
    only, ignore = ([given] if isinstance(given, str) else list(given) for given in (only, ignore))
    for pattern in (*only, *ignore):
        if not pattern or "=" in pattern:
            raise RecipeError(
                f"{pattern!r} is no pattern. Expected a module path, a glob over paths such as '*.down_proj', or the "
                "name of a class."
            )
    taken = [f"targets.*={LEAVE}", *(f"targets.{pattern}={TAKE}" for pattern in only)] if only else []
    return [*taken, *(f"targets.{pattern}={LEAVE}" for pattern in ignore)]


def target_of(key: str, value: object) -> dict[str, object]:
    """Return the entry that an override adds to a recipe's targets.

    Args:
        key: behind ``targets.``: a pattern, with ``.keep`` or ``.rank`` behind it unless the value is a word.
        value: as YAML gives it.
    """
    pattern, dot, field = key.rpartition(".")
    if dot and field in ("keep", "rank") and value not in (LEAVE, TAKE):
        return {_unquoted(pattern): {field: value}}
    return {_unquoted(key): value}


def _unquoted(pattern: str) -> str:
    quoted = len(pattern) > 1 and pattern[0] == pattern[-1] and pattern[0] in "'\""
    return pattern[1:-1] if quoted else pattern


def parse_targets(value: object) -> tuple[Target, ...]:
    """Return the targets that a mapping from patterns to sizes stands for, or a list of such mappings.

    A list keeps its order where a file is written with keys in another one, and may name a pattern twice.

    Raises:
        PydanticCustomError: of one pattern it says nothing that can be.
    """
    return _parsed(value, "{'*.down_proj': {keep: 0.9}}", _target)


def parse_towers(value: object) -> tuple[Target, ...]:
    """Return the targets that a mapping from names of towers to shares of bytes stands for.

    Raises:
        PydanticCustomError: of one tower it says nothing that can be.
    """
    by_name = {tower.pattern: tower for tower in _parsed(value, "{vision: 0.9}", _tower)}
    return tuple(by_name[name] for name in sorted(by_name))


def _parsed(value: object, example: str, read: Callable[[str, object], Target]) -> tuple[Target, ...]:
    entries = value if isinstance(value, list | tuple) else [value]
    found: list[Target] = []
    for entry in entries:
        if isinstance(entry, Target):
            found.append(entry)
        elif isinstance(entry, Mapping) and all(isinstance(pattern, str) and pattern for pattern in entry):
            found += [read(pattern, size) for pattern, size in entry.items()]
        else:
            raise PydanticCustomError("no_mapping", "it takes names and sizes, such as {example}", {"example": example})
    return tuple(found)


def _target(pattern: str, size: object) -> Target:
    if size in (LEAVE, TAKE):
        return Target(pattern=pattern, leave=size == LEAVE)
    if isinstance(size, Mapping) and set(size) == {"keep"} and _is_share(size["keep"]):
        return Target(pattern=pattern, keep=size["keep"])
    if isinstance(size, Mapping) and set(size) == {"rank"} and type(size["rank"]) is int and size["rank"] >= 1:
        return Target(pattern=pattern, rank=size["rank"])
    raise _wrong(pattern, size, SIZES)


def _tower(name: str, size: object) -> Target:
    if size == LEAVE:
        return Target(pattern=name, leave=True)
    if not _is_share(size):
        raise _wrong(name, size, TOWER_SIZES)
    return Target.model_validate({"pattern": name, "keep": size})


def _is_share(size: object) -> bool:
    return isinstance(size, int | float) and not isinstance(size, bool) and 0 < size <= 1


def _wrong(name: str, size: object, expected: str) -> PydanticCustomError:
    context = {"name": repr(name), "size": repr(size)[:80], "expected": expected}
    return PydanticCustomError("no_size", "{name} takes {expected}, and not {size}", context)
