"""Which linears patterns name, and what a recipe says of them: on paths and classes that are written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from eckart.errors import RecipeError
from eckart.methods.targets import (
    Named,
    Size,
    Target,
    assign,
    in_all_blocks,
    matches,
    overrides_for,
    parse_targets,
    parse_towers,
    target_of,
)

PATH = "model.layers.0.mlp.down_proj"
CLASSES = frozenset({"LlamaForCausalLM", "LlamaModel", "ModuleList", "LlamaDecoderLayer", "LlamaMLP", "Linear"})


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        (PATH, True),
        ("model.layers.0.mlp", True),  # all that is inside
        ("*.down_proj", True),
        ("model.layers.0.*", True),
        ("model.layers.[01]", True),
        ("*", True),
        ("LlamaMLP", True),
        ("Linear", True),
        ("down_proj", False),  # no path, and no class
        ("model.layers.1.*", False),
        ("model.layers.0.mlp.down", False),
        ("*.DOWN_PROJ", False),
        ("LlamaAttention", False),
        ("Llama*", False),  # globs are over paths
    ],
)
def test_a_pattern_is_a_path_a_glob_over_paths_or_a_class(pattern: str, named: bool) -> None:
    assert matches(pattern, PATH, CLASSES) is named


def named(*paths: str, tower: str = "") -> list[Named]:
    return [Named(path, frozenset(), tower) for path in paths]


def said(value: object) -> tuple[Target, ...]:
    return parse_targets(value)


def test_later_patterns_win() -> None:
    linears = named("a.0.up", "a.0.down", "a.1.up", "a.1.down")
    found = assign(said({"*.down": {"keep": 0.9}, "a.1.*": {"keep": 0.5}}), (), linears)
    halves = Size("targets.a.1.*.keep", 0.5)
    assert found.own == {"a.0.down": Size("targets.*.down.keep", 0.9), "a.1.up": halves, "a.1.down": halves}
    found = assign(said({"a.1.*": {"keep": 0.5}, "*.down": {"rank": 3}}), (), linears)
    assert {path: (size.keep, size.rank) for path, size in found.own.items()} == {
        "a.0.down": (None, 3),
        "a.1.up": (0.5, None),
        "a.1.down": (None, 3),
    }


def test_what_is_left_and_taken_again_has_the_size_that_it_had() -> None:
    linears = named("a.up", "a.down", "a.gate")
    targets = said([{"*.down": {"keep": 0.9}}, {"*": "leave"}, {"*.down": "take", "*.up": "take"}])
    found = assign(targets, (), linears)
    assert found.left == {"a.gate"}
    assert found.own == {"a.down": Size("targets.*.down.keep", 0.9)}
    found = assign(said({"*": "leave", "*.up": {"rank": 2}}), (), linears)
    assert found.left == {"a.down", "a.gate"}
    assert set(found.own) == {"a.up"}


def test_patterns_win_over_towers() -> None:
    linears = [*named("v.0", "v.1", tower="vision"), *named("t.0", tower="text"), *named("a.0", tower="audio")]
    found = assign(said({"v.1": {"rank": 4}}), parse_towers({"vision": 0.9, "audio": "leave"}), linears)
    assert found.own == {"v.0": Size("towers.vision", 0.9), "v.1": Size("targets.v.1.rank", None, 4)}
    assert found.left == {"a.0"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["*", "a.*", "*.x", "b"]),
            st.sampled_from(["leave", "take", {"keep": 0.5}, {"keep": 1}, {"rank": 2}]),
        )
    )
)
def test_targets_are_read_as_they_were_written(entries: list[tuple[str, object]]) -> None:
    targets = said([{pattern: size} for pattern, size in entries])
    assert said([{target.pattern: target.size} for target in targets]) == targets
    found = assign(targets, (), named("a.x", "a.y", "b.x"))
    assert found.left.isdisjoint(found.own)


@pytest.mark.parametrize(
    "size",
    [
        *("left", "", None, 0.5, ["leave"], {}, {"share": 0.5}, {"keep": 0.5, "rank": 2}),
        *({"keep": 0}, {"keep": 1.1}, {"keep": True}, {"keep": float("nan")}, {"rank": 0}, {"rank": 2.5}),
    ],
    ids=str,
)
def test_a_size_that_cannot_be_is_refused(size: object) -> None:
    with pytest.raises(PydanticCustomError, match=r"'x' takes leave, take, \{keep: 0.9\} or \{rank: 64\}, and not"):
        parse_targets({"x": size})


@pytest.mark.parametrize("share", [0, 1.5, "take", {"keep": 0.5}, None, True], ids=str)
def test_a_tower_takes_a_share(share: object) -> None:
    with pytest.raises(PydanticCustomError, match="'vision' takes leave, or a share"):
        parse_towers({"vision": share})


@pytest.mark.parametrize("value", [3, "leave", [1], {1: "leave"}, {"": "leave"}, [["*", "leave"]]], ids=str)
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="names and sizes"):
        parse_targets(value)


def test_towers_have_no_order_and_one_size() -> None:
    assert parse_towers([{"b": 0.5, "a": 0.4}, {"b": 0.9}]) == parse_towers({"a": 0.4, "b": 0.9})


def test_options_stand_for_targets() -> None:
    assert overrides_for((), ()) == []
    assert overrides_for("*.q", ["*.k", "*.v"]) == [
        "targets.*=leave",
        "targets.*.q=take",
        "targets.*.k=leave",
        "targets.*.v=leave",
    ]
    for wrong in ("", "a=b"):
        with pytest.raises(RecipeError, match=r"is no pattern\. Expected a module path"):
            overrides_for((), [wrong])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("*.down.keep", 0.9, {"*.down": {"keep": 0.9}}),
        ("*.down.rank", 64, {"*.down": {"rank": 64}}),
        ('"*.down".keep', 0.9, {"*.down": {"keep": 0.9}}),
        ("'*.down'", "leave", {"*.down": "leave"}),
        ("a.keep", "leave", {"a.keep": "leave"}),
        ("a", {"keep": 0.5}, {"a": {"keep": 0.5}}),
    ],
)
def test_an_override_is_a_pattern_and_a_size(key: str, value: object, expected: object) -> None:
    assert target_of(key, value) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("h.0.q", "h.*.q"), ("h.12.experts.3", "h.*.experts.*"), ("fc1.q8_proj", "fc1.q8_proj"), ("", "")],
)
def test_numbers_of_a_path_become_stars(path: str, expected: str) -> None:
    assert in_all_blocks(path) == expected
