from __future__ import annotations

import random
from pathlib import Path

import pytest
from benchmarks.fuzz_folders import fuzz, mutate, snapshot

CASES = 60


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_damaged_and_hostile_folders_end_in_a_message(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    outcome = fuzz(CASES, 19, tmp_path)
    assert outcome.faults == []
    assert outcome.cases == CASES
    assert sum(outcome.ends.values()) > 2 * CASES
    ends = {end.split(": ")[1] for end in outcome.ends}
    assert ends == {"done", "refused", "left out"}


def test_the_same_seed_gives_the_same_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"a": {"b": [1, 2]}, "c": "d"}')
    for number in range(30):
        found = []
        for turn in "ab":
            place = tmp_path / f"{number}{turn}"
            place.mkdir()
            target, told = mutate(source, place, tmp_path, random.Random(number))
            found.append((target.name, told.replace(str(place), ""), sorted(snapshot(target))))
        assert found[0] == found[1]
