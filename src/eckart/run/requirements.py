"""What compressing asks of the base library. Loading, saving and running ask for less: see ``pyproject.toml``."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

from eckart.errors import EckartError

TRANSFORMERS = (5, 23)  # the oldest release in which blocks were found and checked, class by class


def check_requirements() -> None:
    """Raise if transformers is older than what models are compressed with.

    Raises:
        EckartError: names the release that was found, and the one that is needed.
    """
    found = version("transformers")
    if Version(found).release < TRANSFORMERS:
        needed = ".".join(map(str, TRANSFORMERS))
        raise EckartError(
            f"Compressing needs transformers {needed} or newer, and found {found}, with which compressed models are "
            f"loaded and run. Compress in another environment (pip install 'transformers>={needed}')."
        )
