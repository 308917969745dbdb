"""The map of ranks and the spectra that they cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.report.helpers import KINDS, dense_run, folder_run, sweep_row

from eckart.compression.records import LayerRecord, thin_spectrum
from eckart.report.figure import Figure
from eckart.report.ranks import MOST_SPECTRA_BLOCKS, MOST_SPECTRA_POINTS, rank_maps, spectra
from eckart.report.runs import Run
from eckart.report.sources import run_of_row


def traces(figure: Figure | None, choice: str = "0") -> list[dict[str, Any]]:
    assert figure is not None
    found: list[dict[str, Any]] = figure.variants[choice]["traces"]
    return found


def changed(run: Run, **values: Any) -> Run:
    assert run.report is not None
    run.report = run.report.model_copy(update=values)
    return run


def layer(path: str, rank: int | None, share: float = 0.5) -> LayerRecord:
    return LayerRecord(path=path, out_features=10, in_features=10, rank=rank, bytes=int(200 * share), error=0.1)


def test_a_map_shows_the_share_of_bytes_and_writes_the_rank() -> None:
    layers = [layer("m.0.q", 3, 0.3), layer("m.0.up", None, 1.0), layer("m.1.q", 5, 0.5)]
    figure = rank_maps([dense_run(), changed(folder_run(), layers=layers)])
    (heat,) = traces(figure)
    assert (heat["x"], heat["y"]) == (["q", "up"], ["0", "1"])
    assert heat["z"] == [[30.0, 100.0], [50.0, None]]
    assert heat["text"] == [["3", "dense"], ["5", ""]]
    assert (heat["zmin"], heat["zmax"]) == (30.0, 100.0)
    assert figure is not None
    assert figure.selects[0].options == ["one"]


def test_where_shapes_are_not_known_colour_is_the_rank() -> None:
    run = run_of_row(sweep_row("svd", 0.5))
    run.ranks = {"m.0.q": 4, "m.0.up": None, "m.1.q": 9, "m.1.up": 2}
    (heat,) = traces(rank_maps([run]))
    assert heat["z"] == [[4, 9], [9, 2]]  # what is whole has the colour of the highest
    assert "zmin" not in heat
    assert heat["colorbar"]["title"]["text"] == "rank"


def test_large_maps_are_not_written_into() -> None:
    run = run_of_row(sweep_row("svd", 0.5))
    run.ranks = {f"m.{block}.q": 4 for block in range(61)}
    assert traces(rank_maps([run]))[0]["texttemplate"] == ""
    assert rank_maps([dense_run()]) is None


def test_a_spectrum_falls_from_one_and_is_cut_at_the_rank() -> None:
    values = torch.logspace(3, -1, 64)
    spectrum = thin_spectrum(values, 16)
    run = folder_run()
    assert run.report is not None
    found = traces(spectra([changed(run, spectra=dict.fromkeys(run.report.spectra, spectrum))]), "0.0")
    curves, cuts = found[::2], found[1::2]
    assert len(curves) == len(cuts) == 4
    for curve, cut in zip(curves, cuts, strict=True):
        assert (curve["x"][0], curve["x"][-1], curve["y"][0]) == (1, 64, 1.0)
        for component, value in zip(curve["x"], curve["y"], strict=True):
            assert value == pytest.approx(float(values[component - 1] / values[0]), rel=1e-2)
        assert cut["x"] == [16]
        assert cut["y"] == [pytest.approx(float(values[15] / values[0]), rel=1e-2)]
    assert [curve["depth"] for curve in curves] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_each_kind_of_layer_of_each_run_has_its_variant() -> None:
    figure = spectra([folder_run("a"), changed(folder_run("b"), spectra={}), folder_run("c"), dense_run()])
    assert figure is not None
    assert [select.options for select in figure.selects] == [["a", "c"], [kind.split(".")[1] for kind in KINDS]]
    assert figure.variants.keys() == {"0.0", "0.1", "1.0", "1.1"}
    assert spectra([changed(folder_run(), spectra={})]) is None


def test_what_has_no_place_on_an_axis_of_powers_is_left_out() -> None:
    zero, tail = torch.stack([torch.arange(1.0, 9.0), torch.zeros(8)]), torch.arange(1.0, 9.0)
    half = torch.stack([tail, torch.tensor([4.0, 2, 1, 0, 0, 0, 0, 0])])
    layers = [layer("m.0.q", 2), layer("m.1.q", 6)]
    run = changed(folder_run(), layers=layers, spectra={"m.0.q": zero, "m.1.q": half})
    (curve,) = traces(spectra([run]), "0.0")  # that of zeros has no curve, and the other no mark at its cut
    assert curve["y"] == [1.0, 0.5, 0.25, None, None, None, None, None]


def test_a_page_stays_small_with_many_blocks_and_components() -> None:
    spectrum = torch.stack([torch.arange(1.0, 2001), torch.linspace(5, 1, 2000)])
    layers = [layer(f"m.{block}.q", 7) for block in range(40)]
    run = changed(folder_run(), layers=layers, spectra={one.path: spectrum for one in layers})
    curves = traces(spectra([run]), "0.0")[::2]
    assert len(curves) == MOST_SPECTRA_BLOCKS
    assert (curves[0]["depth"], curves[-1]["depth"]) == (0, 1)
    for curve in curves:
        assert len(curve["x"]) <= MOST_SPECTRA_POINTS
        assert (curve["x"][0], curve["x"][-1]) == (1, 2000)
        assert sum(x <= 10 for x in curve["x"]) >= 5  # denser where spectra fall fastest
