"""Text of others on a terminal: as it is, whatever it is."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNLIMITED = 1_000_000  # columns

# What would move the cursor or change the terminal, and halves of characters.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def literal(text: str) -> str:
    r"""Return a text with control characters, but for ends of lines and tabulators, written as ``\x1b``."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PlainConsole(Console):
    """Prints text literally: square brackets are no markup, colons name no pictures, control characters are shown.

    Names of files, recipes and layers have all of them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text that can be printed; cells of tables come through here, too."""
        return super().render_str(literal(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as ``rich`` does. Where there is no terminal a table is as wide as its cells.

        Names in files and pipes are looked for and copied: half of one on each of two lines is of no use.
        """
        width, tables = self.width, [] if self.is_terminal else [thing for thing in objects if isinstance(thing, Table)]
        room = self.options.update(width=UNLIMITED)
        self.width = max([width, *(Measurement.get(self, room, table).maximum for table in tables)])
        try:
            super().print(*objects, **options)
        finally:
            self.width = width
