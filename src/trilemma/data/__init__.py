"""Data: pictures from anywhere, toy densities, stacked digits, and the order they are read in."""

from trilemma.data.argument import data_from_argument
from trilemma.data.base import Batch, Data, Stream
from trilemma.data.hub import HubImages
from trilemma.data.loader import Batches
from trilemma.data.stacked import StackedDigits
from trilemma.data.toy import Toy

__all__ = [
    "Batch",
    "Batches",
    "Data",
    "HubImages",
    "StackedDigits",
    "Stream",
    "Toy",
    "data_from_argument",
]
