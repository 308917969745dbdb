"""Puts the page together: which sections, in which order, and what is said where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module, resources

from eckart.errors import EckartError
from eckart.report import caches, costs, depth, quality, ranks, tables, training
from eckart.report.figure import Figure
from eckart.report.quality import Measure
from eckart.report.runs import Run
from eckart.report.sources import Gathered
from eckart.report.tables import Table

CLOSE = 1.1  # times the dense perplexity
PACKAGES = ("jinja2", "markupsafe", "plotly.offline")
SCRIPTS = ("theme.js", "plots.js", "tables.js")


@dataclass
class Section:
    """A part of the page.

    Attributes:
        id: in the page.
        title: its heading.
        text: what is seen, and how it was measured.
        groups: figures; those of a group share their choices.
        tables: below them.
        hint: how to get what is not there.
        samples: prompts with what each run wrote, (run, recipe, text).
    """

    id: str
    title: str
    text: str
    groups: list[list[Figure]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    hint: str = ""
    samples: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.groups or self.tables or self.samples)


def check_installed() -> None:
    """Raise if a package that pages are made with is not installed.

    Raises:
        EckartError: says what to install.
    """
    try:
        for package in PACKAGES:
            import_module(package)
    except ImportError as error:
        raise EckartError(f"The report needs an extra: pip install 'eckart[report]'. ({error})") from error


def build_page(gathered: Gathered, title: str) -> str:
    """Return the page as HTML that needs nothing else.

    Args:
        gathered: one run or more.
        title: plain text.

    Raises:
        EckartError: a package that the page is made with is not installed.
    """
    check_installed()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    runs = gathered.runs
    recipes = list(dict.fromkeys(run.recipe for run in runs if not run.is_dense))
    sections = _sections(runs, {recipe: number for number, recipe in enumerate(recipes)})
    shown = [section for section in sections if not section.is_empty or section.hint]
    data = {
        "recipes": recipes,
        "figures": {
            figure.id: {"variants": figure.variants, "height": figure.height}
            for section in shown
            for group in section.groups
            for figure in group
        },
        "tables": {table.id: table.data() for section in shown for table in section.tables},
    }
    environment = Environment(
        loader=PackageLoader("eckart.report", "assets"), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html.j2").render(
        title=title,
        summary=_summary(runs, recipes),
        answers=_answers(runs),
        notes=gathered.notes,
        sections=shown,
        data=data,
        style=Markup(_asset("style.css")),
        plotly=Markup(get_plotlyjs()),
        script=Markup("\n".join(map(_asset, SCRIPTS))),
    )


def _sections(runs: Sequence[Run], series: dict[str, int]) -> list[Section]:
    measures = quality.measures(runs)
    layers = tables.layers(runs)
    by_bytes = quality.quality_against_bytes(runs, series, measures)
    by_speed = quality.quality_against_speed(runs, series, measures)
    by_tokens = quality.quality_against_calibration(runs, series, measures)
    by_cache = caches.quality_against_cache(runs, series)
    rank_maps, spectra = ranks.rank_maps(runs), ranks.spectra(runs)
    measured = any(measure.text for measure in measures)
    best = tables.choices(runs, measures[0]) if measures else None
    return [
        Section(
            "choice",
            "Which size, which recipe",
            "Each mark is a model: lower is better, further left is smaller. The broad line and the table are those "
            "that no other beats." + (" Thin bars are 95 % intervals over windows of the text." if measured else ""),
            _groups(by_bytes),
            [best] if best and best.variants[0] else [],
            ""
            if measured
            else "No perplexity is known yet. Measure one with `eckart eval RUN --baseline DENSE --text FILE --json > "
            "run.json`, and hand run.json over too.",
        ),
        Section("runs", "All runs", "Every model with what is known of it.", tables=[tables.all_runs(runs, measures)]),
        Section(
            "speed",
            "Quality against speed",
            "Tokens a second over those of the dense model in the same measurement: further right is faster.",
            _groups(by_speed),
            hint="Speeds come from `eckart bench DENSE RUN... --json > speeds.json`, handed over too, or from a sweep.",
        ),
        Section(
            "caches",
            "Quality against the cache",
            "Windows read in pieces from a key-value cache, by what a token takes in it: lower is better, further left "
            "holds more text in the same memory.",
            _groups(by_cache),
        ),
        Section(
            "calibration",
            "Calibration size",
            "What more calibration tokens are worth, for the recipes and sizes that were run with two numbers of them "
            "or more; a kind of line for each size.",
            _groups(by_tokens),
            hint="Hand over runs of one recipe and size that differ in --samples.",
        ),
        Section(
            "depth",
            "Error by depth",
            "Outputs in the compressed model beside those in the original one, each on its own stream of hidden "
            "states, on the first calibration tokens. Relative norm: mean over tokens of ||y' − y|| / ||y||. Cosine "
            "distance: mean of 1 − cos(y', y).",
            _groups(*depth.errors_by_depth(runs, series)),
            hint="Folders of recipes that look at data have these records; recipes that look at no text have none.",
        ),
        Section(
            "ranks",
            "Where the ranks went",
            "The rank of each linear layer; colour is the share of its bytes that is kept.",
            _groups(rank_maps),
        ),
        Section(
            "spectra",
            "Spectra and where they were cut",
            "Singular values of the matrix that was truncated, over the largest, for at most eight blocks of a kind: "
            "from the first block (light) to the last. A tick marks the rank that was kept.",
            _groups(spectra),
        ),
        Section(
            "preparation",
            "Preparation",
            "Squared error of each block's output with its weights cut to their ranks, over what the block changes, on "
            "held-out samples: of the original weights, and of those that were prepared, by epoch.",
            _groups(*training.preparation(runs)),
        ),
        Section(
            "refinement",
            "Refinement",
            "Squared error of each block's output over what the block changes, before and after its training, and by "
            "epoch: from the first block (light) to the last.",
            _groups(*training.refinement(runs)),
        ),
        Section(
            "distillation",
            "Distillation",
            "How far the distilled model's next-token distributions are from the original one's, on held-out samples "
            "where there are some; epoch 0 is the model before. Errors and losses above are those before it.",
            _groups(training.distillation(runs, series)),
        ),
        Section(
            "costs",
            "Time and memory",
            "Wall-clock time of compressing by what it was spent on, and the largest memory of the process. A run that "
            "was resumed shows the time of its last part only.",
            [[figure] for figure in (costs.times(runs), costs.memory(runs)) if figure],
        ),
        Section(
            "samples",
            "In their own words",
            "What each model writes behind the same prompt, the most likely token each time.",
            hint="Text comes from `eckart eval RUN --prompt TEXT --json`.",
            samples=_samples(runs),
        ),
        Section(
            "layers",
            "Layers",
            "Every linear layer of a run."
            + (f" {layers[1]} runs are left out, so that the page stays small." if layers and layers[1] else ""),
            tables=[layers[0]] if layers else [],
        ),
    ]


def _groups(*figures: Figure | None) -> list[list[Figure]]:
    found = [figure for figure in figures if figure is not None]
    return [found] if found else []


def _samples(runs: Sequence[Run]) -> dict[str, list[tuple[str, str, str]]]:
    """Return what the runs wrote, by prompt, the dense model first."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for run in sorted(runs, key=lambda run: not run.is_dense):
        for sample in run.samples:
            found.setdefault(sample.prompt, []).append((run.name, run.recipe, sample.text))
    return found


def _summary(runs: Sequence[Run], recipes: Sequence[str]) -> str:
    models = list(dict.fromkeys(run.model for run in runs))
    count = sum(not run.is_dense for run in runs)
    many = f"{len(models)} models" if len(models) > 3 else " and ".join(models)
    return f"{count} {_plural('run', count)} of {len(recipes)} {_plural('recipe', len(recipes))} on {many}."


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _answers(runs: Sequence[Run]) -> list[str]:
    """Return, for each model and its first text, what can be had without losing much."""
    found = []
    for model in dict.fromkeys(run.model for run in runs):
        of_model = [run for run in runs if run.model == model]
        measure = next((m for m in quality.measures(of_model) if m.text), None)
        dense = next((run for run in of_model if run.is_dense), None)
        if measure is None or dense is None or measure.of(dense) is None:
            continue
        found.append(_answer(of_model, measure, measure.of(dense) or 0.0))
    return found


def _answer(runs: Sequence[Run], measure: Measure, dense: float) -> str:
    best = [run for run in quality.best_runs(runs, measure) if not run.is_dense]
    close = next((run for run in best if (measure.of(run) or 0.0) <= CLOSE * dense), None)
    where = f"On {measure.text}, "
    if close is not None and close.bytes is not None:
        share = f" ({100 * close.bytes / close.dense_bytes:.0f} % of the dense size)" if close.dense_bytes else ""
        return (
            f"{where}the smallest model within {100 * (CLOSE - 1):.0f} % of the dense perplexity ({dense:.2f}) is "
            f"{close.name}: {close.bytes / 1e6:,.1f} MB{share}, perplexity {measure.of(close):.2f}."
        )
    nearest = min(best, key=lambda run: measure.of(run) or 0.0, default=None)
    told = f"; the nearest is {nearest.name} with {measure.of(nearest):.2f}" if nearest else ""
    return f"{where}no model comes within {100 * (CLOSE - 1):.0f} % of the dense perplexity ({dense:.2f}){told}."


def _asset(name: str) -> str:
    return (resources.files("eckart.report") / "assets" / name).read_text(encoding="utf-8")
