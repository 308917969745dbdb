"""Errors that a user can act on. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


class EckartError(Exception):
    """Base of every error that names what was found, what was expected and what to do."""


class EckartWarning(UserWarning):
    """Something that works, but not as well as the user may expect."""


def warn(text: str) -> None:
    """Give an :class:`EckartWarning` that points at the line of the user's program that called into this package."""
    level, frame = 1, sys._getframe()
    # The decorator that keeps random states has a frame of contextlib in between.
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("eckart", "contextlib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, EckartWarning, stacklevel=level)


class RecipeError(EckartError):
    """A recipe that does not exist, or that has an unknown field or a value out of range."""


class CalibrationError(EckartError):
    """Calibration text that cannot be found, read, or cut into the samples that were asked for."""


class UnsupportedModelError(EckartError):
    """A model that cannot be compressed, or not yet."""


class ModelFitsError(EckartError):
    """A model that is no larger than was asked for, as it is."""


class NonFiniteError(EckartError):
    """A weight or an activation that is NaN or infinite."""


class CheckpointError(EckartError):
    """A folder that cannot be read or written as a compressed model."""


class DamagedRunError(CheckpointError):
    """An unfinished run that cannot be gone on with."""


class AdapterError(EckartError):
    """An adapter that a compressed model cannot be given, or that cannot be merged into it."""


class ServingError(EckartError):
    """A compressed model that an engine cannot serve, or not on so many devices."""


class ExportError(EckartError):
    """A model that cannot be written in a format of another runtime, or that does not compute the same there."""


class ProcessError(EckartError):
    """Several processes that cannot work as one, or that work no longer."""


class ToldElsewhereError(ProcessError):
    """What another process of the run is stopped by too, and tells the user."""


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C during a run that may have finished some of its work; the message says what is kept."""


def first_problem(error: ValidationError) -> str:
    """Return where in the data the first thing is wrong, and what: ``'layers.0.rank: Input should be ...'``."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return ``'; did you mean ...? Choices: ...'`` for a name that is not among ``choices``."""
    known = sorted(choices)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    return f"{guess} Choices: {', '.join(known)}."
