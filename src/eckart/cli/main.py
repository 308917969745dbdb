"""All commands together: what ``eckart`` runs."""

from __future__ import annotations

import typer

from eckart.cli.bench import bench
from eckart.cli.compress import compress
from eckart.cli.demo import demo
from eckart.cli.draft import draft
from eckart.cli.evaluate import evaluate
from eckart.cli.export import export
from eckart.cli.inspect import inspect
from eckart.cli.merge import merge
from eckart.cli.process import standard_streams
from eckart.cli.push import push
from eckart.cli.recipes import recipes
from eckart.cli.report import report
from eckart.cli.resize import resize
from eckart.cli.run import run
from eckart.cli.sweep import sweep

app = typer.Typer(
    name="eckart",
    help="Makes pretrained transformers smaller by low-rank factorisation after training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.command("compress")(compress)
app.command("eval")(evaluate)
app.command("bench")(bench)
app.command("draft")(draft)
app.command("sweep")(sweep)
app.command("inspect")(inspect)
app.command("report")(report)
app.command("merge")(merge)
app.command("resize")(resize)
app.command("push")(push)
app.command("export")(export)
app.command("recipes")(recipes)
app.command("run", context_settings={"allow_interspersed_args": False})(run)
app.command("demo")(demo)


def main() -> None:
    """Run the command."""
    with standard_streams():
        app()
