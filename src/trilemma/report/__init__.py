"""The trilemma report: quality, coverage and speed of several models, measured side by side."""

from trilemma.report.ladder import LADDERS, Rung, read_ladder
from trilemma.report.measure import Protocol
from trilemma.report.record import Cell, Model, Report, Speed
from trilemma.report.run import run_report

__all__ = [
    "LADDERS",
    "Cell",
    "Model",
    "Protocol",
    "Report",
    "Rung",
    "Speed",
    "read_ladder",
    "run_report",
]
