"""Finds the linears of a model that a recipe's targets and towers name, and takes out those that it leaves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from torch import nn

from eckart.blocks.block import Block
from eckart.blocks.discovery import block_lists
from eckart.blocks.fuse import Fusion
from eckart.errors import EckartError, RecipeError, suggest
from eckart.layers import is_linear
from eckart.methods.allocation.budgets import Budgets
from eckart.methods.recipe import Recipe
from eckart.methods.targets import Named, Size, Target, assign, in_all_blocks, matches


@dataclass(frozen=True)
class Targets:
    """The linears of a model that are compressed.

    Attributes:
        blocks: all of them, with the linears in their groups that are targets.
        budgets: bytes to keep of them.
        left: paths of the linears that could be compressed and that the recipe leaves as they are.
    """

    blocks: list[Block]
    budgets: Budgets
    left: frozenset[str] = frozenset()

    @property
    def paths(self) -> frozenset[str]:
        """Of the linears that are compressed."""
        return frozenset(ref.path for block in self.blocks for ref in block.linears)


def choose_targets(
    model: nn.Module, blocks: Sequence[Block], recipe: Recipe, keep: float, *, check: bool = True
) -> Targets:
    """Return the linears of a model that a recipe compresses, with their sizes.

    Args:
        model: that the blocks are of.
        blocks: with all linears that can be compressed.
        recipe: whose targets and towers say what becomes of them.
        keep: bytes to keep of those that it says nothing of, as a share.
        check: whether each pattern must name something. Linears that were fused have the name of the first only.

    Raises:
        EckartError: a pattern or a tower names nothing that can be compressed, or nothing is left to be.
    """
    if not (recipe.targets or recipe.towers):
        return Targets(list(blocks), Budgets(keep))
    classes = {path: type(module).__name__ for path, module in model.named_modules()}
    named = [Named(ref.path, _around(ref.path, classes), b.tower) for b in blocks for ref in b.linears]
    if check:
        _check_towers(recipe, blocks)
        for target in recipe.targets:
            if not any(matches(target.pattern, linear.path, linear.classes) for linear in named):
                _check_elsewhere(target, model, classes, named)
    found = assign(recipe.targets, recipe.towers, named)
    if check and recipe.allocation.fused_groups:
        _check_groups(blocks, found.own, found.left)
    if len(found.left) == len(named):
        raise RecipeError(
            f"The targets of recipe {recipe.name!r} leave all {len(named)} linear layers as they are. Expected one or "
            "more to compress: name them behind the pattern that leaves them, with take."
        )
    return Targets(without(blocks, found.left), Budgets(keep, found.own), found.left)


def without(blocks: Sequence[Block], left: Collection[str]) -> list[Block]:
    """Return the blocks without some linears, by path, and without the hidden units between any of those."""
    return [_without(block, left) for block in blocks]


def together(fusions: Sequence[Fusion], budgets: Budgets) -> list[Fusion]:
    """Return those whose linears all have a size in common, so that they can be one layer."""
    return [fusion for fusion in fusions if len({budgets.size(ref.path) for ref in fusion.linears}) == 1]


def _without(block: Block, left: Collection[str]) -> Block:
    names = {ref.name for ref in block.linears if ref.path in left}
    if not names:
        return block
    kept = [replace(g, linears=tuple(ref for ref in g.linears if ref.name not in names)) for g in block.groups]
    units = [found for found in block.units if names.isdisjoint((*found.producers, found.consumer))]
    pairs = tuple(pair for pair in block.pairs if names.isdisjoint(pair.names))
    groups = tuple(group for group in kept if group.linears)
    return replace(block, groups=groups, units=tuple(units), pairs=pairs)


def _around(path: str, classes: Mapping[str, str]) -> frozenset[str]:
    """Return the classes of a module and of all modules around it."""
    parts = path.split(".")
    return frozenset(classes[".".join(parts[:end])] for end in range(len(parts) + 1))


def _check_towers(recipe: Recipe, blocks: Sequence[Block]) -> None:
    known = {block.tower for block in blocks} - {""}
    for tower in recipe.towers:
        if tower.pattern not in known:
            found = suggest(tower.pattern, known) if known else ": all of its blocks are in one list."
            raise RecipeError(f"The model has no tower {tower.pattern!r}{found}")


def _check_groups(blocks: Sequence[Block], own: Mapping[str, Size], left: Collection[str]) -> None:
    for group in (group for block in blocks for group in block.groups):
        if len({(own.get(ref.path), ref.path in left) for ref in group.linears}) > 1:
            raise RecipeError(
                "allocation.fused_groups=true wants linear layers that share an input all factored or all dense, and "
                f"the targets treat {' and '.join(ref.name for ref in group.linears)} differently. Name all of them "
                "alike."
            )


def _check_elsewhere(target: Target, model: nn.Module, classes: Mapping[str, str], known: Sequence[Named]) -> None:
    """Raise for a pattern that names none of the linears that can be compressed, unless it leaves what it names."""
    pattern = target.pattern
    modules = [path for path in classes if path and matches(pattern, path, _around(path, classes))]
    if not modules:
        raise RecipeError(f"No linear layer is named by {pattern!r}{_nearest(pattern, classes, known)}")
    if target.leave:
        return
    linears = [path for path in modules if is_linear(model.get_submodule(path))]
    if linears:
        raise RecipeError(
            f"{pattern!r} names {len(linears)} linear layers, such as {linears[0]}, none of which is run by calling it "
            "in the blocks that are compressed. They stay as they are: take the pattern out."
        )
    raise RecipeError(
        f"{pattern!r} names {modules[0]} ({classes[modules[0]]}), which is no linear layer and holds none that can be "
        "compressed. It stays as it is: take the pattern out."
    )


def named_outside(model: nn.Module, recipe: Recipe) -> frozenset[str]:
    """Return the paths of linears in no list of blocks, such as projectors and the head, that a recipe names.

    A pattern that names linears in blocks means those: nobody who says ``*`` thinks of the head.

    Args:
        model: to look into.
        recipe: whose targets name linears.

    Raises:
        EckartError: one has its weight in common with something else.
    """
    classes = {path: type(module).__name__ for path, module in model.named_modules()}
    lists = [f"{path}." for path, _ in block_lists(model)]
    linears = [path for path, module in model.named_modules() if path and is_linear(module)]
    outside = [path for path in linears if not any(path.startswith(place) for place in lists)]
    found: set[str] = set()
    for target in recipe.targets if lists else ():
        named = [path for path in linears if matches(target.pattern, path, _around(path, classes))]
        if not target.leave and set(named) <= set(outside):
            found |= set(named)
    _check_untied(model, sorted(found))
    return frozenset(found)


def _check_untied(model: nn.Module, paths: Sequence[str]) -> None:
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(path)
    for path in paths:
        others = [o for p in model.get_submodule(path).parameters() for o in owners[id(p)] if o != path]
        if others:
            raise EckartError(
                f"The targets name {path}, which has its weight in common with {others[0]}: factors of one of them "
                "would be a second copy beside the other. It stays as it is: take the pattern out."
            )


def _nearest(pattern: str, classes: Mapping[str, str], known: Sequence[Named]) -> str:
    """Return the names that come nearest to a pattern that names nothing, and all that there are."""
    if any(path.endswith(f".{pattern}") for path in classes):
        return f"; did you mean '*.{pattern}'?"
    kinds = {name for linear in known for name in linear.classes}
    paths = {in_all_blocks(linear.path) for linear in known}
    ends = {f"*.{path.rpartition('.')[2]}" for path in paths}
    around = {f"*.{part}.*" for path in paths for part in path.split(".")[:-1] if part != "*"}
    near = get_close_matches(pattern, sorted(paths | around), n=1, cutoff=0.7)
    if near:
        return f"; did you mean {near[0]!r}?"
    return suggest(pattern, kinds | ends)
