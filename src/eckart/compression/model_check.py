"""What is known of a model before anything is measured, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

LEAST_SHARE = 0.5  # of the blocks' bytes that must be reached, unless the user says otherwise
MOST_SHARE = 0.9  # of them, below which it is said that a part stays; dense models reach more
LEAST_SHOWN = 0.01  # part of the model that is named in a message


class ModelCheck(BaseModel):
    """What was found. All weights were looked at and are finite, and blocks are handed nothing else that depends on
    the text, or there would be an error in its place.

    Attributes:
        model_bytes: of all weights, as they are stored.
        block_bytes: of those in the blocks.
        reached_bytes: of the linear layers in the blocks that can be factored.
        stays: bytes of all other weights by where they are, falling; a number in a path is a ``*``.
        unused: linear layers among them that are in the blocks and are not run by calling them, or not with gradients
            where the recipe takes some.
        towers: lists of blocks beside the one that is compressed.
        arguments: what blocks are handed beside hidden states; empty if the recipe looks at no data.
        length: tokens in a calibration sample; None if the recipe looks at no data.
        positions: that the model can take, as its config says; None if it does not.
        largest_id: among the calibration tokens.
        vocabulary: ids that the model knows; None if it takes none.
    """

    model_config = ConfigDict(frozen=True)

    model_bytes: int
    block_bytes: int
    reached_bytes: int
    stays: dict[str, int]
    unused: list[str] = []
    towers: list[str] = []
    arguments: list[str] = []
    length: int | None = None
    positions: int | None = None
    largest_id: int | None = None
    vocabulary: int | None = None

    @property
    def share_of_blocks(self) -> float:
        """Part of the blocks' bytes that is reached."""
        return self.reached_bytes / self.block_bytes

    @property
    def share_of_model(self) -> float:
        """Part of all bytes that is reached."""
        return self.reached_bytes / self.model_bytes

    @property
    def reach(self) -> str:
        """What is reached and what is not, in words."""
        shown = {place: size / self.model_bytes for place, size in self.stays.items()}
        named = [f"{place} {share:.1%}" for place, share in shown.items() if share >= LEAST_SHOWN] or list(shown)[:1]
        others = len(shown) - len(named)
        if others:
            rest = sum(sorted(shown.values())[:others])
            named.append(f"{others} more with {rest:.1%}")
        stays = f"; {1 - self.share_of_model:.1%} stay as they are: {', '.join(named)}" if named else ""
        unused = f" Linear layers that are not run as such: {', '.join(self.unused)}." if self.unused else ""
        return (
            f"reaches {self.share_of_model:.1%} of the weights' bytes, {self.share_of_blocks:.1%} of those in the "
            f"blocks{stays}.{unused}"
        )

    @property
    def summary(self) -> str:
        """All of it, in words."""
        text = f"Checked: weights are finite; {self.reach}"
        if self.length is not None:
            positions = "" if self.positions is None else f" of {self.positions} positions"
            text += (
                f" Samples take {self.length}{positions}, with ids up to {self.largest_id} "
                f"of a vocabulary of {self.vocabulary}."
            )
        return text

    @property
    def notes(self) -> list[str]:
        """What the user should know beyond that."""
        found = []
        if self.share_of_blocks < LEAST_SHARE:
            found.append(f"Most of the blocks stays as it is: compression {self.reach}")
        elif self.share_of_blocks < MOST_SHARE:
            found.append(f"A part of the blocks stays as it is: compression {self.reach}")
        if self.towers:
            found.append(f"Blocks in {', '.join(self.towers)} stay as they are: one list of blocks is compressed.")
        return found
