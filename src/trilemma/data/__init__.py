"""Data: pictures, toy densities, stacked digits, tables, and the order they are read in."""

from trilemma.data.argument import data_from_argument
from trilemma.data.base import Batch, Data, Stream
from trilemma.data.bundled import BundledDigits
from trilemma.data.hub import HubImages
from trilemma.data.loader import Batches
from trilemma.data.pictures import read_images
from trilemma.data.stacked import StackedDigits
from trilemma.data.table import Table
from trilemma.data.toy import Toy

__all__ = [
    "Batch",
    "Batches",
    "BundledDigits",
    "Data",
    "HubImages",
    "StackedDigits",
    "Stream",
    "Table",
    "Toy",
    "data_from_argument",
    "read_images",
]
