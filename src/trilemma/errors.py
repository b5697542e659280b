"""Errors that users meet: one line that names what was given, what is allowed, and the fix."""

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "NumericalError",
    "TrilemmaError",
    "TrilemmaWarning",
    "WriteError",
    "nearest",
]


class TrilemmaError(Exception):
    """Base of every error that a user can cause; the command line prints it as one line."""


class ConfigError(TrilemmaError, ValueError):
    """An argument, a recipe entry or a combination of them is not allowed."""


class DataError(TrilemmaError, ValueError):
    """A data set is missing, empty, unreadable or not what its description says."""


class CheckpointError(TrilemmaError, ValueError):
    """A model or checkpoint file is missing, truncated, altered or foreign."""


class NumericalError(TrilemmaError, ArithmeticError):
    """A computation left the finite numbers; the message names the quantity and where."""


class WriteError(TrilemmaError, OSError):
    """A file cannot be written: the disk is full, or its folder is not one to write to."""


class TrilemmaWarning(UserWarning):
    """Something the user should know, though the result is right."""


MANY = 24
"""Names that an error message lists at most."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Say which names are allowed, and which of them is meant most likely.

    Args:
        name: what was given.
        allowed: the valid names.

    Returns:
        A clause such as ``"did you mean 'fir'? Allowed: 'fir', 'mean'"``. Of many names those
        nearest to the one given are listed, and the others counted.
    """
    options = sorted(allowed)
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    shown, rest = options, 0
    if len(options) > MANY:
        shown = sorted(difflib.get_close_matches(name, options, n=MANY // 2, cutoff=0.0))
        rest = len(options) - len(shown)
    listed = ", ".join(map(repr, shown)) or "none"
    return f"{hint}Allowed: {listed}" + (f", and {rest} more" if rest else "")
