"""``eckart draft``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from eckart.cli.console import TrustRemoteCode, command, output
from eckart.cli.progress import progress_display
from eckart.data.calibration import DEFAULT_SAMPLES, MAX_SEED
from eckart.data.text import PYTHON_DOCS
from eckart.draft import Draft, make_draft
from eckart.draft.search import HELD_OUT, PROPOSALS, RECIPES, SIZES


@command
def draft(
    model: Annotated[str, typer.Argument(help="The dense model: a folder, a hub id or a .gguf file.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the draft.", show_default=False)],
    recipe: Annotated[
        list[str], typer.Option(help="Recipe to try, with +key=value overrides; may be repeated.")
    ] = list(RECIPES),  # noqa: B006
    keep: Annotated[
        list[float], typer.Option(help="Bytes of the linear layers to keep, to try; may be repeated.")
    ] = list(SIZES),  # noqa: B006
    calibration: Annotated[str, typer.Option(help="Text, as for `eckart compress`.")] = PYTHON_DOCS,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples to draw.")] = DEFAULT_SAMPLES,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens in each.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws.")] = 0,
    text: Annotated[str, typer.Option(help="Text to write behind; not what is calibrated on.")] = HELD_OUT,
    texts: Annotated[int, typer.Option(min=1, help="Windows of it.")] = 8,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens in each.")] = 64,
    generate: Annotated[int, typer.Option(min=2, help="Tokens to write behind each.")] = 64,
    proposals: Annotated[int, typer.Option(min=1, help="Tokens that a draft proposes at once, at most.")] = PROPOSALS,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder, if Eckart wrote it.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the compressed model that speeds up its own dense model most, as a draft; the output stays the same.

    Example:

        eckart draft model -o model-draft --keep 0.5 --keep 0.3
    """
    with progress_display(disable=as_json) as progress:
        task = progress.add_task("drafts", total=None)
        found = make_draft(
            model,
            out,
            recipes=recipe,
            sizes=keep,
            calibration=calibration,
            samples=samples,
            length=length,
            seed=seed,
            text=text,
            texts=texts,
            prompt=prompt,
            tokens=generate,
            proposals=proposals,
            device=device,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            on_step=lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
        )
    if as_json:
        output.print_json(found.model_dump_json())
        return
    output.print(_table(found))
    output.print(_summary(found, model, out), soft_wrap=True)


def _table(found: Draft) -> Table:
    columns = ("recipe", "keep", "accepted", "step", "of the model's", "proposals", "tokens a round", "speed-up")
    table = Table(*columns, box=box.SIMPLE)
    for candidate in found.candidates:
        table.add_row(
            candidate.recipe,
            f"{candidate.keep:g}",
            f"{candidate.acceptance:.0%}",
            f"{1000 * candidate.step:.1f} ms",
            f"{candidate.step / candidate.model_step:.0%}",
            str(candidate.proposals),
            f"{candidate.tokens_per_round:.2f}",
            f"x{candidate.speedup:.2f}",
            style="bold" if candidate == found.chosen else None,
        )
    return table


def _summary(found: Draft, model: str, out: Path) -> str:
    chosen, measured = found.chosen, found.generation
    return (
        f"Wrote {out}: {chosen.recipe} at {chosen.keep:g}, {chosen.proposals} proposals a round, expected to be "
        f"x{chosen.speedup:.2f}. Measured: {measured.alone:.1f} tokens a second alone, {measured.with_draft:.1f} with "
        f"the draft, x{measured.with_draft / measured.alone:.2f}; the same tokens behind {measured.same} of "
        f"{measured.texts} texts.\n"
        f"Use it with {Path(model).name}: model.generate(..., assistant_model=draft)"
    )
