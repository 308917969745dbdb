"""The page in a real browser, from disk; left out where there is none."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.helpers import NASTY, dense_run, folder_run, many

from eckart.methods.recipes.published import RECIPES
from eckart.report import Gathered, build_page
from eckart.report.runs import Sample

pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [
        dense_run(),
        folder_run("b", 0.5),
        folder_run("a", 0.25),
        folder_run(NASTY, 0.5, RECIPES["saes-svd"].model_copy(update={"name": NASTY})),
        folder_run("=1+1", 0.75),
    ]
    runs[0].samples = [Sample(NASTY, NASTY)]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_page(Gathered(runs), NASTY), encoding="utf-8")
    return path


class Tab:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.note(request.url))
        self.page.goto(path.as_uri())

    def hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def note(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.faults.append(f"asked for {url}")

    def draw_all(self) -> int:
        """Scroll to each plot, and return how many were drawn."""
        plots = self.page.locator(".plot")
        for number in range(plots.count()):
            plots.nth(number).scroll_into_view_if_needed()
            self.page.wait_for_function(
                "number => document.querySelectorAll('.plot')[number].dataset.drawn", arg=number
            )
        return int(plots.count())


@pytest.fixture(scope="module")
def tab(browser: Any, file: Path) -> Iterator[Tab]:
    opened = Tab(browser, file, viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield opened
    opened.context.close()


def column(tab: Tab, table: str, place: int = 1) -> list[str]:
    return tab.page.locator(f"[data-table={table}] tbody td:nth-child({place})").all_inner_texts()  # type: ignore[no-any-return]


def test_all_is_drawn_and_nothing_is_asked_for(tab: Tab) -> None:
    assert tab.draw_all() == 12
    for plot in tab.page.locator(".plot").all():
        marks = plot.locator(".point, .js-line, .heatmaplayer image")
        assert marks.count() > 0, plot.get_attribute("id")
    assert tab.faults == []


def test_text_is_text(tab: Tab) -> None:
    tab.draw_all()
    assert tab.page.evaluate("window.attacked") is None
    assert tab.page.locator("h1").inner_text() == NASTY
    assert NASTY in column(tab, "runs")
    assert tab.page.locator("main img").count() == 0


def test_tables_are_sorted_by_mouse_and_by_keyboard(tab: Tab) -> None:
    head = tab.page.locator("[data-table=runs] thead button", has_text="size")
    sizes = [200_000, 167_232, 150_848, 167_232, 183_616]
    assert [float(text.removesuffix(" MB")) for text in column(tab, "runs", 5)] == [round(s / 1e6, 2) for s in sizes]
    head.click()
    assert column(tab, "runs", 5) == sorted(column(tab, "runs", 5))
    assert tab.page.locator("[data-table=runs] th[aria-sort=ascending]").count() == 1
    head.focus()
    tab.page.keyboard.press("Enter")
    assert column(tab, "runs", 5) == sorted(column(tab, "runs", 5), reverse=True)
    tab.page.locator("[data-table=runs] thead button", has_text="run").first.click()
    assert column(tab, "runs")[-3:] == ["a", "b", "dense"]


def test_csv_holds_the_numbers_and_no_formula(tab: Tab) -> None:
    with tab.page.expect_download() as waiting:
        tab.page.locator("[data-table=runs] button", has_text="CSV").click()
    assert waiting.value.suggested_filename == "eckart-runs.csv"
    text = Path(waiting.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    # As they are sorted on the page, which other tests may have done.
    assert [row["run"] for row in rows] == [name.replace("=1+1", "'=1+1") for name in column(tab, "runs")]
    sizes = {"dense": 200_000, "b": 167_232, "a": 150_848, NASTY: 167_232, "'=1+1": 183_616}
    assert {row["run"]: int(row["size"]) for row in rows} == sizes


def test_tooltips_and_the_legend(tab: Tab) -> None:
    tab.draw_all()
    plot = tab.page.locator("#plot-quality-bytes")
    plot.scroll_into_view_if_needed()
    plot.locator(".point").last.hover(force=True)
    tip = plot.locator(".hovertext")
    tip.wait_for()
    assert "perplexity" in tip.text_content()
    points = plot.locator(".point").count()
    chip = tab.page.locator("#legend button").first
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    tab.page.wait_for_function(
        "points => document.querySelectorAll('#plot-quality-bytes .point').length < points", arg=points
    )
    chip.click()


def test_choices_change_what_is_drawn(tab: Tab) -> None:
    tab.draw_all()
    group = tab.page.locator(".group", has=tab.page.locator("#plot-depth-block"))
    group.locator("select").first.select_option("1")
    tab.page.wait_for_function("document.getElementById('plot-depth-block').dataset.drawn === '1.0'")
    assert "cosine distance" in tab.page.locator("#plot-depth-block .ytitle").text_content()
    tab.page.locator("[data-table=layers] select").select_option("1")
    assert tab.page.locator("[data-table=layers] tbody tr").count() == 8


def test_the_theme_is_the_readers(tab: Tab, browser: Any, file: Path) -> None:
    opened = Tab(browser, file, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = opened.page.evaluate(ground)
    light = tab.page.evaluate(ground)
    assert before != light
    opened.page.wait_for_function("document.querySelector('.plot').dataset.drawn")
    axis = "document.querySelector('#plot-quality-bytes .xtick text').style.fill"
    colour = opened.page.evaluate(axis)
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(ground) == light
    opened.page.wait_for_function(f"colour => {axis} !== colour", arg=colour)
    opened.page.reload()
    assert opened.page.evaluate(ground) == light
    opened.context.close()


def test_a_narrow_screen_has_no_overhang(browser: Any, file: Path) -> None:
    opened = Tab(browser, file, viewport={"width": 375, "height": 812}, is_mobile=True, has_touch=True)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert opened.faults == []
    opened.context.close()


def test_two_hundred_runs(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.html"
    path.write_text(build_page(many(200), "Many"), encoding="utf-8")
    opened = Tab(browser, path, viewport={"width": 1280, "height": 900})
    opened.draw_all()
    opened.page.locator("[data-table=runs] input").fill("zs-svd-hq")
    shown = column(opened, "runs")
    points = opened.page.locator("#plot-quality-bytes .point").count()
    opened.page.locator("#legend button", has_text="Hide all").click()
    opened.page.wait_for_function("document.querySelectorAll('#plot-quality-bytes .point').length === 1")
    opened.page.locator("#legend button", has_text="Show all").click()
    opened.page.wait_for_function(
        "points => document.querySelectorAll('#plot-quality-bytes .point').length === points", arg=points
    )
    assert 0 < len(shown) < 20
    assert all("zs-svd-hq" in name for name in shown)
    assert opened.faults == []
    opened.context.close()
