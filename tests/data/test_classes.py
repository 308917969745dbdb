from __future__ import annotations

import pytest
from tests.tiny import make

from eckart.data.classes import class_index, names_of_classes


@pytest.mark.parametrize(
    ("label", "index"),
    [("square", 1), ("Square", 1), ("tri angle", 2), ("TRI-ANGLE", 2), (0, 0), (3, None), ("1", 1), ("hexagon", None)],
)
def test_which_class_a_label_names(label: str | int, index: int | None) -> None:
    assert class_index(make("vit")[0].config, label) == index


def test_names_in_words() -> None:
    config = make("vit")[0].config
    assert names_of_classes(config) == "circle, square, tri_angle"
    assert names_of_classes(config, most=1) == "circle and 2 more"
