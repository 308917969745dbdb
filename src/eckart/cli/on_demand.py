"""Commands that are imported when they are run: who asks for help waits for none of them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

ROOM = "eckart.cli"


@dataclass(frozen=True)
class Place:
    """Where the function of a command is.

    Attributes:
        module: of this room, such as ``demo.command``.
        function: in it.
        settings: of the command, for typer.
    """

    module: str
    function: str
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        function: Callable[..., Any] = getattr(import_module(f"{ROOM}.{self.module}"), self.function)
        return function

    def summary(self) -> str | None:
        """Return the first line of the function's docstring, as its file has it; nothing is imported."""
        source = files(ROOM).joinpath(*self.module.split(".")).with_suffix(".py").read_text(encoding="utf-8")  # type: ignore[attr-defined]
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name == self.function:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        return None


class Commands(TyperGroup):
    """A group in which each command has no more than a name and a line of help, until it is asked for."""

    places: ClassVar[dict[str, Place]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.waiting = dict(self.places)  # those that were not asked for yet

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that arguments name, made of its function."""
        place = self.waiting.pop(args[0], None) if args else None
        if place is not None:
            self.commands[args[0]] = typer.main.get_command(app_of({args[0]: place}, imported=True))
        return super().resolve_command(ctx, args)


def app_of(places: dict[str, Place], *, imported: bool = False, **settings: Any) -> typer.Typer:
    """Return the app of some commands.

    Args:
        places: where each is, by name.
        imported: whether the commands are what they do, and not names and a line of help alone.
        settings: of the app.
    """
    group = type("PlacedCommands", (Commands,), {"places": places})
    app = typer.Typer(
        cls=None if imported else group,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode="markdown",
        **settings,
    )
    for name, place in places.items():
        app.command(name, **place.settings)(place.load() if imported else _named(place))
    return app


def _named(place: Place) -> Callable[[], None]:
    """Return a function that does nothing, with the first line of what another one says."""

    def stand_in() -> None:
        pass

    stand_in.__doc__ = place.summary()
    return stand_in
