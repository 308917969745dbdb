"""What is known of a model before anything is measured, as data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from eckart.files.field_types import Count, Label

LEAST_SHARE = 0.5  # of the blocks' bytes that must be reached, unless the user says otherwise
MOST_SHARE = 0.9  # of them, below which it is said that a part stays; dense models reach more
LEAST_SHOWN = 0.01  # part of the model that is named in a message


class LeftAlone(BaseModel):
    """Weights that stay as they are.

    Attributes:
        part: where they are; a number in a path is a ``*``.
        what: they are, in a word; empty in reports of the first versions.
        why: they stay, in a few words; as before.
        bytes: of them, as they are stored.
    """

    model_config = ConfigDict(frozen=True)

    part: Label
    what: Label = ""
    why: Label = ""
    bytes: Count


class ModelCheck(BaseModel):
    """What was found. All weights were looked at and are finite, or there would be an error in its place.

    Attributes:
        model_bytes: of all weights, as they are stored.
        block_bytes: of those in the blocks.
        reached_bytes: of the linear layers in the blocks that are compressed.
        ignored_bytes: of those that could be and that the user leaves as they are.
        left: all weights that stay as they are, by falling size.
        unused: linear layers among them that are in the blocks and are not run by calling them, or not with gradients
            where the recipe takes some.
        towers: lists of blocks that are not run on the samples.
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
    ignored_bytes: int = 0
    left: list[LeftAlone]
    unused: list[str] = []
    towers: list[str] = []
    arguments: list[str] = []
    length: int | None = None
    positions: int | None = None
    largest_id: int | None = None
    vocabulary: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_the_first_versions(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("stays"), dict):
            left = [{"part": part, "bytes": size} for part, size in data["stays"].items()]
            return {**{key: value for key, value in data.items() if key != "stays"}, "left": left}
        return data

    @property
    def stays(self) -> dict[str, int]:
        """Bytes of the weights that stay as they are, by where they are, falling."""
        sums: dict[str, int] = {}
        for found in self.left:
            sums[found.part] = sums.get(found.part, 0) + found.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @property
    def share_that_could_be(self) -> float:
        """Part of the blocks' bytes that is reached, or would be if the user did not leave it as it is."""
        return (self.reached_bytes + self.ignored_bytes) / self.block_bytes

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
        return f"{self._reached}{stays}.{unused}"

    @property
    def _reached(self) -> str:
        return (
            f"reaches {self.share_of_model:.1%} of the weights' bytes, {self.share_of_blocks:.1%} of those in the "
            "blocks"
        )

    @property
    def summary(self) -> str:
        """All of it in words, but for what stays as it is."""
        text = f"Checked: weights are finite; compression {self._reached}."
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
        if self.share_that_could_be < LEAST_SHARE:
            found.append(f"Most of the blocks stays as it is: compression {self.reach}")
        elif self.share_that_could_be < MOST_SHARE:
            found.append(f"A part of the blocks stays as it is: compression {self.reach}")
        if self.towers:
            found.append(f"Blocks in {', '.join(self.towers)} stay as they are: no sample reaches them.")
        return found
