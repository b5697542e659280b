"""What `--data X` means on the command line."""

from difflib import get_close_matches
from pathlib import Path

from trilemma.data.base import Data
from trilemma.data.bundled import DIGITS, BundledDigits
from trilemma.data.hub import HubImages
from trilemma.data.stacked import StackedDigits
from trilemma.data.table import BUNDLED, Table
from trilemma.data.toy import TOYS, Toy
from trilemma.errors import ConfigError, nearest

__all__ = ["data_from_argument"]

STACKED = "stacked:"


def data_from_argument(text: str) -> Data:
    """Name data in one word; nothing is opened.

    Args:
        text: a toy density such as ``grid25`` or ``swiss-roll``; ``digits`` for those that ship
            with the package; ``stacked:PATH`` for stacked digits from PATH; a table such as
            ``wine``, or a CSV file; else a folder, a file, or a name on the Hub. ``./rings`` means
            a folder even where ``rings`` is a density.

    Returns:
        The data with default settings.

    Raises:
        ConfigError: the text is empty, or close to the name of a density or a table and nothing
            else.
    """
    if text.replace("-", "_") in TOYS:
        return Toy(text)
    if text == DIGITS:
        return BundledDigits()
    if text.startswith(STACKED):
        path = text.removeprefix(STACKED)
        if not path:
            raise ConfigError(f"{STACKED!r} needs the digits' path, such as stacked:data/mnist")
        return StackedDigits(path)
    if text in BUNDLED or text.lower().endswith(".csv"):
        return Table(text)
    names = [*TOYS, *BUNDLED, DIGITS]
    close = get_close_matches(text.replace("-", "_"), names, cutoff=0.8)
    if close and "/" not in text and not Path(text).exists():
        raise ConfigError(f"there are no data {text!r}; {nearest(text, names)}, or a path")
    return HubImages(text)
