"""All commands together: what ``eckart`` runs."""

from __future__ import annotations

from eckart.cli.on_demand import Place, app_of
from eckart.cli.process import standard_streams

COMMANDS = {
    "compress": Place("compress", "compress"),
    "eval": Place("evaluate", "evaluate"),
    "bench": Place("bench", "bench"),
    "draft": Place("draft", "draft"),
    "sweep": Place("sweep", "sweep"),
    "inspect": Place("inspect", "inspect"),
    "report": Place("report", "report"),
    "merge": Place("merge", "merge"),
    "resize": Place("resize", "resize"),
    "push": Place("push", "push"),
    "export": Place("export", "export"),
    "recipes": Place("recipes", "recipes"),
    "run": Place("run", "run", {"context_settings": {"allow_interspersed_args": False}}),
    "demo": Place("demo.command", "demo"),
}

app = app_of(
    COMMANDS,
    name="eckart",
    help="Makes pretrained transformers smaller by low-rank factorisation after training.",
    no_args_is_help=True,
)


def main() -> None:
    """Run the command."""
    with standard_streams():
        app()
