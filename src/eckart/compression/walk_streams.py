"""The hidden states that a walk over the blocks carries along: the original model's and the compressed one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from eckart.blocks.argument_table import forked
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.carried import Carried
from eckart.blocks.entrance import segment_of
from eckart.blocks.passes import HiddenStates
from eckart.blocks.tensor_cache import TensorCache
from eckart.compression.drift import FOLLOWED_LENGTH, FOLLOWED_SAMPLES, FollowedTokens
from eckart.compression.state import WalkState
from eckart.methods.objectives import InputSource
from eckart.methods.recipe import Recipe

ORIGINAL, COMPRESSED, FOLLOWED = "original", "compressed", "followed"
GIVEN = "given"  # by blocks to later ones


@dataclass
class WalkStreams:
    """Knows how blocks are called in each of the streams, and where the model's own code comes between blocks.

    Attributes:
        model: that is compressed.
        recipe: says which streams are looked at.
        moments_kept: whether the moments of the original model's inputs are known.
        original: the model as it runs the original's hidden states.
        compressed: as it runs the compressed model's.
        few_original: as it runs the original's of the few tokens that errors are recorded on.
        few_compressed: as it runs the compressed model's of those.
    """

    model: BlockwiseModel
    recipe: Recipe
    moments_kept: bool = False
    original: BlockwiseModel = field(init=False)
    compressed: BlockwiseModel = field(init=False)
    few_original: BlockwiseModel = field(init=False)
    few_compressed: BlockwiseModel = field(init=False)

    def __post_init__(self) -> None:
        self.original, self.compressed = (replace(self.model, arguments={}) for _ in range(2))
        few = self.model
        if self.model.calibration is not None:
            few = self.model.cropped(FOLLOWED_SAMPLES, FOLLOWED_LENGTH).whole()  # each process follows them itself
        self.few_original, self.few_compressed = (replace(few, arguments={}) for _ in range(2))

    def start(self, entry: HiddenStates | None) -> WalkState:
        """Find out how the blocks of the first segment are called, and return the state in front of block 0.

        Args:
            entry: is given the hidden states in front of block 0, too, if they are needed to the end.
        """
        recipe, known = self.recipe, self.model.known
        sizes: set[int] = set()
        for training in (recipe.preparation.training, recipe.refinement.training, recipe.distillation.training):
            if training is not None:
                sizes |= training.batch_sizes(len(known), known.at_once)
        stream = self.original.enter(name=ORIGINAL, sizes=sorted(sizes))
        self.compressed.arguments.update(forked(self.original.arguments, COMPRESSED))
        if entry is not None:
            for hidden in stream:
                entry.append(hidden)
        few = self.few_original.enter(name="few")
        self.few_compressed.arguments.update(forked(self.few_original.arguments, "few-compressed"))
        followed = FollowedTokens.of(self.model.cache(FOLLOWED, 0), list(few), list(few))
        few.delete()
        source, refined = recipe.objective.input_source, recipe.refinement.needs_data
        looks_at_original = refined or recipe.distillation.needs_data or recipe.preparation.training is not None
        sums_original = source is InputSource.ORIGINAL and not self.moments_kept
        original = looks_at_original or sums_original or source is InputSource.BOTH
        compressed = refined or source in (InputSource.COMPRESSED, InputSource.BOTH)
        if not (original or compressed):
            stream.delete()
        return WalkState(
            original=stream if original else None, compressed=stream if compressed else None, followed=followed
        )

    def entered(self, state: WalkState) -> WalkState:
        """Return a state behind a block as it is in front of the next one; what others look at later is kept."""
        last = state.finished - 1
        if state.followed is None:  # there are no samples
            return state
        state = replace(state, taps={**state.taps, **self._given(last)})
        if self.model.blocks[last].tapped:
            state = replace(state, taps={**state.taps, **self._tapped(state, last)})
        if state.finished == len(self.model.blocks) or not self.model.blocks[state.finished].enters:
            return state
        return self._enter(state)

    def reenter(self, state: WalkState) -> None:
        """Find out again how the blocks of the segment are called that a state is in."""
        first = next((n for n in range(state.finished, 0, -1) if n < len(self.model.blocks) and self._enters(n)), 0)
        if first:
            for stream in self._enter(replace(state, finished=first), "again-").streams:
                if all(stream is not known for known in state.streams):
                    stream.delete()
        self._take_given(state)

    def _given(self, block: int) -> dict[str, TensorCache]:
        """Return what a block gave to later ones of its segment, by names that tell of what."""
        return {
            f"{GIVEN}-{kind}-{block:05d}-{carried.number}": cache
            for kind, model in self._kinds.items()
            if block in model.arguments
            for carried, cache in model.arguments[block].table.given.items()
            if carried.block == block
        }

    @property
    def _kinds(self) -> dict[str, BlockwiseModel]:
        return {
            ORIGINAL: self.original,
            COMPRESSED: self.compressed,
            "few-original": self.few_original,
            "few-compressed": self.few_compressed,
        }

    def _take_given(self, state: WalkState) -> None:
        """Let blocks be handed what earlier ones gave before the run was stopped."""
        for name, cache in state.taps.items():
            if name.startswith(f"{GIVEN}-"):
                kind, block, number = name.removeprefix(f"{GIVEN}-").rsplit("-", 2)
                arguments = self._kinds[kind].arguments.get(int(block))
                if arguments is not None:
                    arguments.table.given[Carried(int(block), int(number))] = cache

    def taps_of(self, state: WalkState, kind: str) -> dict[int, TensorCache]:
        """Return what is kept of what blocks gave in one kind of streams, by number."""
        return _of_kind(state.taps, kind, state.finished)

    def _enters(self, number: int) -> bool:
        return self.model.blocks[number].enters

    def _tapped(self, state: WalkState, block: int) -> dict[str, TensorCache]:
        """Return what is kept of what a block gave, by names that tell of what."""
        streams = {ORIGINAL: state.original, COMPRESSED: state.compressed}
        streams[FOLLOWED] = None if state.followed is None else state.followed.cache
        return {f"{name}-{block:05d}": stream for name, stream in streams.items() if stream is not None}

    def behind(self, kind: str, number: int) -> TensorCache:
        """Return an empty cache for what is behind block ``number``."""
        return self.model.cache(f"{kind}-behind" if self.model.ends(number) else kind, number + 1)

    def _enter(self, state: WalkState, prefix: str = "") -> WalkState:
        first = state.finished
        taps = {kind: _of_kind(state.taps, kind, first) for kind in (ORIGINAL, COMPRESSED, FOLLOWED)}
        original = compressed = None
        if state.original is not None:
            original = self.original.enter(first, taps[ORIGINAL], name=f"{prefix}{ORIGINAL}")
        if state.compressed is not None:
            compressed = self.compressed.enter(first, taps[COMPRESSED], name=f"{prefix}{COMPRESSED}")
        half = {n: FollowedTokens(cache) for n, cache in taps[FOLLOWED].items()}
        few = self.few_original.enter(first, {n: f.original for n, f in half.items()}, name="few-original")
        other = self.few_compressed.enter(first, {n: f.compressed for n, f in half.items()}, name="few-compressed")
        followed = FollowedTokens.of(self.model.cache(f"{prefix}{FOLLOWED}", first), list(few), list(other))
        for stream in (few, other):
            stream.delete()
        for block in segment_of(self.model.blocks, first):
            if compressed is None and block not in self.compressed.arguments and original is not None:
                self.compressed.arguments[block] = self.original.arguments[block]
        return replace(state, original=original, compressed=compressed, followed=followed)


def _of_kind(taps: Mapping[str, TensorCache], kind: str, before: int) -> dict[int, TensorCache]:
    """Return the taps of one kind by block, of those in front of a block."""
    found = {int(name.rpartition("-")[2]): cache for name, cache in taps.items() if name.startswith(f"{kind}-")}
    return {block: cache for block, cache in found.items() if block < before}
