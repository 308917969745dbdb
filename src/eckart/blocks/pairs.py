"""Pairs of linears in a block between which a width can shrink, found by numbers: no name is looked at.

Hidden units
    The outputs of some linears become, one by one, the inputs of another (:mod:`eckart.blocks.hidden_units`). Here a
    unit must not depend on the others either, as a norm over all of them would make it.
Values and their projection
    What a linear gives becomes the input of another by sums over tokens, of each place for itself. With the same vector
    for all tokens the input is that vector, its parts in their places; with the same number in all places those that
    are averaged alike are one head.
Queries and keys
    Some places of both are rotated together: zeros there in one of them do what zeros do in the other, and in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.hidden_units import HiddenUnits, find_hidden_units
from eckart.blocks.substitution import Change, Run, is_close, run_with
from eckart.layers import weight_matrix

Kind = Literal["units", "values", "keys"]
Side = Literal["outputs", "inputs"]


@dataclass(frozen=True)
class Part:
    """What a linear has of a pair.

    Attributes:
        kind: of the pair.
        pair: its number in the block.
        side: whether outputs or inputs of the linear shrink.
        width: units, directions of a head, or planes of a head that there are.
        rows: outputs or inputs of the linear that each of them takes.
        direct: whether what is dropped is missing on both sides, and not zero.
    """

    kind: Kind
    pair: int
    side: Side
    width: int
    rows: int
    direct: bool


@dataclass(frozen=True)
class Pair:
    """Linears between which a width can shrink.

    Attributes:
        kind: of what is between them.
        producers: names in the block of the linears whose outputs shrink: gate and up; v; q and k, in that order.
        consumer: name of the linear whose inputs shrink; none for q and k.
        width: units, directions of a head, or planes of a head.
        heads: for each head of the consumer, or of q, the number of the head of v or k that it is made with.
        planes: of q and k, the directions of a head that each plane has, 1 or 2.
        direct: whether what is between them runs as well with fewer units.
    """

    kind: Kind
    producers: tuple[str, ...]
    consumer: str | None
    width: int
    heads: tuple[int, ...] = (0,)
    planes: tuple[tuple[int, ...], ...] = ()
    direct: bool = False

    @property
    def key_heads(self) -> int:
        """How many heads of v or k there are."""
        return max(self.heads) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its linears."""
        return self.producers if self.consumer is None else (*self.producers, self.consumer)

    def part(self, name: str, number: int) -> Part:
        """Return what a linear of it, by its name, has of the pair of that number."""
        side: Side = "inputs" if name == self.consumer else "outputs"
        if self.kind == "units":
            rows = 1
        else:
            many = side == "inputs" or (self.kind == "keys" and name == self.producers[0])
            rows = (len(self.heads) if many else self.key_heads) * (len(self.planes[0]) if self.planes else 1)
        return Part(self.kind, number, side, self.width, rows, self.direct)


def find_pairs(
    block: nn.Module, call: BlockArguments, hidden: Tensor, groups: Sequence[Sequence[str]]
) -> tuple[Pair, ...]:
    """Return the pairs of a block, no linear in two of them.

    Args:
        block: as it is in the original model.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).
        groups: names of the linears that are handed the same tensor and run once, in order of execution.
    """
    run = Run(block, call, hidden)
    shapes = {name: tuple(weight_matrix(block.get_submodule(name)).shape) for names in groups for name in names}
    units = [pair for found in find_hidden_units(block, call, hidden, groups) if (pair := _of_units(run, found))]
    taken = {name for pair in units for name in pair.names}
    found = list(units)
    for number, (consumer, *others) in enumerate(groups):
        if others or consumer in taken:
            continue
        before = [name for names in groups[:number] for name in names if name not in taken]
        values = next(filter(None, (_of_values(run, name, before, consumer, shapes) for name in before)), None)
        if values is None:
            continue
        taken |= set(values.names)
        found.append(values)
        keys = next(_of_keys(run, [name for name in before if name not in taken], values, shapes), None)
        if keys is not None:
            taken |= set(keys.names)
            found.append(keys)
    return tuple(found)


def _of_units(run: Run, found: HiddenUnits) -> Pair | None:
    """Return the pair of hidden units, if each is made of what is its own alone."""
    width = weight_matrix(run.block.get_submodule(found.consumer)).shape[1]
    if width < 2:
        return None
    chosen = torch.randperm(width, generator=torch.Generator().manual_seed(0))[: width // 2].sort().values
    chosen = chosen.to(run.hidden.device)
    whole = run_with(run, {}, found.consumer)
    masked = run_with(run, dict.fromkeys(found.producers, _Only(chosen)), found.consumer, _Only(chosen))
    if whole is None or masked is None or not is_close(masked.seen[..., chosen], whole.seen[..., chosen]):
        return None

    def put_back(seen: Tensor) -> Tensor:
        return seen.new_zeros(*seen.shape[:-1], width).index_copy(-1, chosen, seen)

    fewer = run_with(run, dict.fromkeys(found.producers, lambda x: x[..., chosen]), found.consumer, put_back)
    direct = fewer is not None and fewer.seen.shape[-1] == len(chosen) and is_close(fewer.behind, masked.behind)
    return Pair("units", found.producers, found.consumer, width, direct=direct)


def _of_values(
    run: Run, name: str, before: Sequence[str], consumer: str, shapes: dict[str, tuple[int, ...]]
) -> Pair | None:
    """Return the pair of a linear that gives values and their projection; None if it gives none.

    All other linears in front of that give noise, so that heads look at tokens in ways that can be told apart.
    """
    size, columns = shapes[name][0], shapes[consumer][1]
    if columns % size:
        return None
    places = _places(run, name, consumer, size)
    if places is None or len(places) != columns:
        return None
    # One number for all places, another one for each token: heads average alike what they share.
    generator = torch.Generator().manual_seed(1)

    def one_for_all(output: Tensor) -> Tensor:
        numbers = torch.randn(output.shape[:-1], generator=generator).to(output)
        return numbers[..., None].expand(output.shape).clone()

    others = {other: _Noise(number) for number, other in enumerate(before) if other != name}
    seen = run_with(run, {**others, name: one_for_all}, consumer)
    if seen is None or not _is_linear_in(run, name, others, consumer):
        return None
    rows = seen.seen.flatten(0, -2)
    starts = [0, *(c for c in range(1, columns) if not is_close(rows[:, c], rows[:, c - 1]))]
    head = columns // len(starts)
    if columns % len(starts) or starts != list(range(0, columns, head)) or head < 2 or size % head:
        return None
    heads = [int(places[start]) // head for start in starts]
    expected = torch.cat([torch.arange(head) + head * number for number in heads])
    if not torch.equal(places, expected) or set(heads) != set(range(size // head)):
        return None
    return Pair("values", (name,), consumer, head, tuple(heads))


def _is_linear_in(run: Run, name: str, others: Mapping[str, Change], consumer: str) -> bool:
    """Return whether a sum of outputs of one linear gives the sum of what each gives, all other linears alike."""
    first, second = _Noise(-1), _Noise(-2)
    changes: tuple[Change, ...] = (first, second, lambda output: first(output) + second(output))
    ran = (run_with(run, {**others, name: change}, consumer) for change in changes)
    seen = [one.seen for one in ran if one is not None]
    return len(seen) == len(changes) and is_close(seen[0] + seen[1], seen[2])


def _places(run: Run, name: str, consumer: str, size: int) -> Tensor | None:
    """Return which output of a linear each input of another is made of, (inputs,) on the host."""
    ones = run_with(run, {name: torch.ones_like}, consumer)
    if ones is None or not torch.isfinite(ones.seen).all() or not (ones.seen.abs() > 1e-3).all():
        return None
    places = torch.zeros(ones.seen.shape[-1], dtype=torch.long)
    for bit in range(max(size - 1, 1).bit_length()):
        pattern = (torch.arange(size, device=run.hidden.device) >> bit) & 1

        def same(output: Tensor, pattern: Tensor = pattern) -> Tensor:
            return pattern.to(output.dtype).expand(output.shape).clone()

        found = run_with(run, {name: same}, consumer)
        if found is None or found.seen.shape != ones.seen.shape:
            return None
        ratios = (found.seen.float() / ones.seen.float()).flatten(0, -2)
        bits = ratios.mean(dim=0).round()
        if not ((ratios - bits).abs() < 0.05).all() or not ((bits == 0) | (bits == 1)).all():
            return None
        places |= bits.long().cpu() << bit
    return places if int(places.max()) < size else None


def _of_keys(run: Run, names: Sequence[str], values: Pair, shapes: dict[str, tuple[int, ...]]) -> Iterator[Pair]:
    """Yield the pair of queries and keys of the heads of ``values``, if there is one."""
    assert values.consumer is not None
    queries, keys = len(values.heads), values.key_heads
    for query in names:
        if shapes[query][0] % queries:
            continue
        head = shapes[query][0] // queries
        for key in names:
            if key == query or shapes[key][0] != head * keys or head < 2:
                continue
            for planes in _hypotheses(head):
                if _rotate_together(run, query, key, values, head, planes):
                    yield Pair("keys", (query, key), None, len(planes), values.heads, planes)
                    return


def _hypotheses(head: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield the ways in which directions of a head may be rotated together: none, halves, neighbours, parts of it."""
    yield tuple((i,) for i in range(head))
    for rotated in (head, head // 2, head // 4, 3 * head // 4):
        half, rest = rotated // 2, range(rotated, head)
        if rotated < 2 or rotated % 2 or len(rest) % 2:
            continue
        alone = tuple((i, i + 1) for i in rest[::2])
        yield (*((i, i + half) for i in range(half)), *alone)
        yield (*((i, i + 1) for i in range(0, rotated, 2)), *alone)


def _rotate_together(
    run: Run, query: str, key: str, values: Pair, head: int, planes: tuple[tuple[int, ...], ...]
) -> bool:
    """Return whether zeros in some planes of queries do what they do in keys, and in both, for two choices of them.

    Queries and keys are noise, so that what is not the same is far apart.
    """
    assert values.consumer is not None
    heads = {query: len(values.heads), key: values.key_heads}
    for seed in range(2):
        order = torch.randperm(len(planes), generator=torch.Generator().manual_seed(seed))
        kept = torch.tensor([i for plane in order[: (len(planes) + 1) // 2].tolist() for i in planes[plane]])
        seen = []
        for masked in ((), (query,), (key,), (query, key)):
            changes: dict[str, Change] = {}
            for number, name in enumerate((query, key)):
                places = (kept + head * torch.arange(heads[name])[:, None]).flatten().to(run.hidden.device)
                changes[name] = _Noise(number, places if name in masked else None)
            found = run_with(run, changes, values.consumer)
            if found is None:
                return False
            seen.append(found.seen)
        whole, first, second, both = seen
        if is_close(both, whole) or not (is_close(first, both) and is_close(second, both)):
            return False
    return True


class _Only:
    """Puts zeros in all places but some."""

    def __init__(self, places: Tensor) -> None:
        self.places = places

    def __call__(self, output: Tensor) -> Tensor:
        kept = torch.zeros_like(output)
        kept[..., self.places] = output[..., self.places]
        return kept


class _Noise:
    """Gives the same random numbers at each run, and zeros in all places but some, if those are named."""

    def __init__(self, seed: int, places: Tensor | None = None) -> None:
        self.seed, self.places = seed, places

    def __call__(self, output: Tensor) -> Tensor:
        numbers = torch.randn(output.shape, generator=torch.Generator().manual_seed(self.seed % 2**32)).to(output)
        return numbers if self.places is None else _Only(self.places)(numbers)
