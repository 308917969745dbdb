"""What is said of a model before it is compressed, on numbers that can be followed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from eckart.compression.model_check import LeftAlone, ModelCheck


def check(**values: Any) -> ModelCheck:
    """Of 1000 bytes 600 are in blocks, and 570 of those are reached."""
    known: dict[str, Any] = {
        "model_bytes": 1000,
        "block_bytes": 600,
        "reached_bytes": 570,
        "left": [("embed", 395), ("layers.*.norm", 28), ("norm", 7)],
        "vocabulary": 256,
    }
    known |= values
    left = [LeftAlone(part=part, bytes=size) for part, size in known.pop("left")]
    return ModelCheck(left=left, **known)


def test_what_stays_is_named_by_how_much_it_is() -> None:
    found = check()
    assert (found.share_of_model, found.share_of_blocks) == (0.57, 0.95)
    assert found.reach == (
        "reaches 57.0% of the weights' bytes, 95.0% of those in the blocks; 43.0% stay as they are: "
        "embed 39.5%, layers.*.norm 2.8%, 1 more with 0.7%."
    )
    assert found.notes == []


def test_where_all_that_stays_is_small_the_largest_is_named() -> None:
    found = check(reached_bytes=990, block_bytes=995, left=[("norm", 6), ("bias", 3), ("scale", 1)])
    assert "1.0% stay as they are: norm, 2 more with 0.4%." in found.reach
    assert "stay as they are" not in check(reached_bytes=1000, block_bytes=1000, left=[]).reach


@pytest.mark.parametrize(
    ("reached", "said"), [(299, "Most of the blocks stays"), (300, "A part of"), (539, "A part of"), (540, None)]
)
def test_a_user_is_told_if_little_is_reached(reached: int, said: str | None) -> None:
    notes = check(reached_bytes=reached).notes
    assert len(notes) == (said is not None)
    assert said is None or notes[0].startswith(said)
    assert said is None or f"{reached / 600:.1%} of those in the blocks" in notes[0]


@pytest.mark.parametrize(("ignored", "said"), [(0, "Most of the blocks"), (200, "A part of"), (440, None)])
def test_what_the_user_leaves_is_nothing_to_be_told(ignored: int, said: str | None) -> None:
    notes = check(reached_bytes=100, ignored_bytes=ignored).notes
    assert [note.startswith(said or "-") for note in notes] == ([] if said is None else [True])


def test_reports_of_the_first_versions_say_where_only() -> None:
    known = {"model_bytes": 9, "block_bytes": 6, "reached_bytes": 5, "vocabulary": 2}
    found = ModelCheck.model_validate({**known, "stays": {"embed": 3, "norm": 1}})
    assert found.stays == {"embed": 3, "norm": 1}
    assert ModelCheck.model_validate_json(found.model_dump_json()) == found


def test_linears_that_are_not_run_and_other_towers_are_named() -> None:
    found = check(unused=["layers.0.router"], towers=["vision.blocks"])
    assert found.reach.endswith("Linear layers that are not run as such: layers.0.router.")
    (note,) = found.notes
    assert note == "Blocks in vision.blocks stay as they are: no sample reaches them."


def test_samples_are_compared_with_what_the_model_can_take() -> None:
    assert "Samples" not in check().summary
    found = check(length=24, positions=128, largest_id=255).summary
    assert found.startswith("Checked: weights are finite; compression reaches 57.0%")
    assert found.endswith("Samples take 24 of 128 positions, with ids up to 255 of a vocabulary of 256.")
    assert " Samples take 24, with" in check(length=24, largest_id=9).summary
