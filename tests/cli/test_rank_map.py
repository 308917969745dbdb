"""The map of ranks in the terminal and as an image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from tests.cli.helpers import run

from eckart.cli.rank_map import figure, terminal_map
from eckart.compression.records import LayerRecord
from eckart.compression.result import REPORT_NAME, CompressionResult
from eckart.methods.recipes.loader import load_recipe

KINDS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


def report(blocks: int, kinds: list[str], size: int = 4096) -> CompressionResult:
    """Return a report with ranks from low in the first block to dense in the last, and a gap."""
    layers = []
    for block in range(blocks):
        for place, kind in enumerate(kinds):
            if (block, place) == (1, 2):
                continue
            rank = None if block == blocks - 1 else (block + 1) * size // (2 * blocks) - place
            stored = 2 * (size * size if rank is None else rank * 2 * size)
            path = f"model.layers.{block}.{kind}"
            layers.append(
                LayerRecord(path=path, out_features=size, in_features=size, rank=rank, bytes=stored, error=0.1)
            )
    return CompressionResult(
        recipe=load_recipe("svd"),
        requested_keep=0.5,
        calibration=None,
        layers=layers,
        parameters=100,
    )


def shown(console: Console, data: CompressionResult) -> list[str]:
    with console.capture() as captured:
        for line in terminal_map(data, console.width):
            console.print(line)
    return captured.get().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "small"
    (out / REPORT_NAME).parent.mkdir(parents=True)
    (out / REPORT_NAME).write_text(report(4, KINDS).model_dump_json())
    return out


def test_seven_kinds_fit_into_eighty_columns() -> None:
    lines = shown(Console(width=80, color_system=None), report(30, KINDS))
    assert max(map(len, lines)) <= 80
    (head,) = [line for line in lines if "q_proj" in line]
    assert head.split() == ["block", *(kind.split(".")[1] for kind in KINDS)]
    rows = {line.split()[0]: line.split()[1:] for line in lines[lines.index(head) + 1 :] if line.split()}
    assert rows["0"] == ["68", "67", "66", "65", "64", "63", "62"]
    assert len(rows["1"]) == 6  # the gap
    assert rows["29"] == ["dense"] * 7


def test_more_kinds_than_fit_go_into_parts_below_each_other() -> None:
    kinds = [f"mlp.part_{number}.up_proj" for number in range(20)]
    lines = shown(Console(width=80, color_system=None), report(2, kinds))
    assert max(map(len, lines)) <= 80
    heads = [line for line in lines if line.startswith("block")]
    assert len(heads) > 1
    assert " ".join(heads).replace("block", "").split() == [f"part_{number}.up_proj" for number in range(20)]


def test_the_text_contrasts_with_its_background() -> None:
    text = "\n".join(shown(Console(width=80, color_system="truecolor", force_terminal=True), report(30, KINDS)))
    assert "\x1b[38;2;255;255;255;48;2;68;1;84m" in text  # white on the darkest
    assert "\x1b[1;38;2;0;0;0;48;2;253;231;37m" in text  # bold black on the brightest: dense


def texts(drawing: Figure) -> list[str]:
    return [text.get_text() for text in drawing.axes[0].texts]


def test_the_image_says_ranks_dense_and_what_it_is_of() -> None:
    drawing = figure(report(30, KINDS))
    assert texts(drawing)[:7] == ["68", "67", "66", "65", "64", "63", "62"]
    assert texts(drawing)[-7:] == ["dense"] * 7
    assert len(texts(drawing)) == 30 * 7 - 1
    assert "Recipe svd, " in drawing.get_suptitle()
    assert [label.get_text() for label in drawing.axes[0].get_xticklabels()] == [kind.split(".")[1] for kind in KINDS]


@pytest.mark.parametrize(
    ("blocks", "kinds", "written"), [(1, 1, True), (80, 7, True), (400, 2, False), (2, 400, False)]
)
def test_images_of_any_size_can_be_drawn(blocks: int, kinds: int, written: bool) -> None:
    drawing = figure(report(blocks, [f"part{number}.up" for number in range(kinds)]))
    drawing.canvas.draw()
    assert bool(texts(drawing)) is written
    # Where no text is written, a dot and a legend mark what is dense.
    assert bool(drawing.legends) is not written
    assert drawing.get_figwidth() < 30
    assert drawing.get_figheight() < 20


@pytest.mark.parametrize(("name", "magic"), [("map.png", b"\x89PNG"), ("map.svg", b"<?xml"), ("MAP.PNG", b"\x89PNG")])
def test_map_image_writes_a_file_that_is_the_same_each_time(
    folder: Path, tmp_path: Path, name: str, magic: bytes
) -> None:
    result = run("inspect", folder, "--map-image", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert f"The map is in {tmp_path / name}." in " ".join(result.output.split())
    assert "model.layers.2.mlp.down_proj" in result.output
    first = (tmp_path / name).read_bytes()
    assert first.startswith(magic)
    assert run("inspect", folder, "--json", "--map-image", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_bytes() == first


def test_map_takes_the_place_of_the_table(folder: Path) -> None:
    result = run("inspect", folder, "--map")
    assert result.exit_code == 0, result.output
    assert "down_proj" in result.output
    assert "model.layers" not in result.output
    assert "Recipe svd. Kept" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map-image", "map.pdf"], "ends in .png or .svg; found map.pdf"),
        (["--map-image", "{tmp}/nowhere/map.png"], "cannot be written: there is no folder"),
        (["--map-image", "{tmp}/folder.png"], "is a folder; expected the name of a file"),
        (["--json", "--map"], "--json and --map"),
    ],
)
def test_mistakes_get_a_message(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    result = run("inspect", folder, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_without_matplotlib_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("inspect", folder, "--map-image", tmp_path / "map.png")
    assert result.exit_code == 2, result.output
    assert "pip install 'eckart[plots]'" in result.stderr
    assert run("inspect", folder, "--map").exit_code == 0
