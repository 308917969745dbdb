"""Makes a small model with trained weights, and measures it on its held-out part.

    python benchmarks/train_small.py vision-language
    python benchmarks/train_small.py mixture --quick
    python benchmarks/train_small.py encoder --cache models/ --files data/
    python benchmarks/train_small.py decoder --text "wikitext2.train-head.txt + c4.calib.jsonl"

A model that was made before is not made again. A run that was cut off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from small_models.cache import VARIABLE
from small_models.examination import blind_guess
from small_models.files import write_files
from small_models.subjects import SUBJECTS, LanguageModel, Mixture, Subject, VisionLanguage
from transformers import PreTrainedModel


def main(
    name: Annotated[str, typer.Argument(help=f"{', '.join(SUBJECTS)}.")],
    quick: Annotated[bool, typer.Option("--quick", help="A smaller one, in two minutes at most: for tests.")] = False,
    text: Annotated[
        str | None, typer.Option(help="Trains a model of language, in the place of what comes with Python.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help=f"Folder of what is made.  [default: ${VARIABLE}]")] = None,
    files: Annotated[
        Path | None, typer.Option(help="Write here what `eckart compress` and `eckart eval` are to read.")
    ] = None,
) -> None:
    """Print the folder of the model, and what it can do as a Markdown table."""
    if name not in SUBJECTS:
        raise typer.BadParameter(f"Expected one of {', '.join(SUBJECTS)}; found {name!r}.")
    kind = SUBJECTS[name]
    subject: Subject
    if text is None:
        subject = kind(quick=quick, cache=cache)
    elif issubclass(kind, LanguageModel):
        subject = kind(quick=quick, cache=cache, text=text)
    else:
        raise typer.BadParameter(f"Only models of language are trained on a text; {name} is not.")
    model = subject.load()
    print(subject.folder)
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} million parameters\n")
    print(table(facts_of(subject, model)))
    if files is not None:
        print("\n" + "\n".join(map(str, write_files(subject, files))))


def facts_of(subject: Subject, model: PreTrainedModel) -> dict[str, dict[str, float]]:
    """Return what a model scores on validation and test, and what there is to compare it with."""
    facts = {part: subject.quality(model, part) for part in ("validation", "test")}
    if isinstance(subject, VisionLanguage):
        facts["blind guess"] = blind_guess(subject.exam("test"), subject.exam("train"))
    if isinstance(subject, Mixture):
        for part, found in facts.items():
            found.update(subject.evenness(model, part))
    return facts


def table(facts: Mapping[str, Mapping[str, float]]) -> str:
    """Return scores as Markdown: a row a score, a column for each of what it was measured on."""
    rows = list(dict.fromkeys(name for found in facts.values() for name in found))
    lines = [f"| | {' | '.join(facts)} |", "|" + "---|" * (len(facts) + 1)]
    for row in rows:
        lines.append(f"| {row} | {' | '.join(f'{found[row]:.3f}' for found in facts.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
