"""``trilemma report``: quality, coverage and speed of several models, side by side."""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from trilemma.commands.common import check_counts, console, default_split, num_cores, output_folder
from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from trilemma.report.record import Cell, Report
    from trilemma.report.run import Progress

__all__ = ["add", "print_report", "task_bar", "until_terminated"]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="compare models: quality, coverage, speed, on one page",
        description="Draw from every model with several samplers and numbers of calls, judge the "
        "samples against real data, time them, and write report.json, report.md and report.html. "
        "A report that was stopped continues when the same command is run again.",
    )
    report.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="bundled names, model files, run folders, Hub ids, or samples.npz drawn elsewhere",
    )
    report.add_argument("--data", required=True, help="real data, as for training; or digits")
    report.add_argument(
        "-o", "--out", type=output_folder, required=True, help="folder of the report"
    )
    report.add_argument("-n", "--num", type=int, default=2000, help="samples per row (2000)")
    report.add_argument("--split", help="split of the real data (train; test for digits)")
    report.add_argument(
        "--ladder",
        default="standard",
        help="which samplers and numbers of calls: quick, standard or full; or your own, such as "
        "'default gddim:10,20 sscs:50 ode:1e-3' (standard)",
    )
    report.add_argument("--extractor", help="features: a name, or a file of `trilemma features`")
    report.add_argument(
        "--likelihood", type=int, default=0, metavar="N", help="held-out data for likelihoods (0)"
    )
    report.add_argument("--jobs", type=int, help="processes (one per core, one on a GPU)")
    report.add_argument(
        "--patience", type=float, default=10.0, help="seconds for each figure of time (10)"
    )
    report.add_argument("--seed", type=int, default=0, help="seed of all samples (0)")
    report.add_argument("--batch-size", type=int, default=64, help="samples per call (64)")
    report.add_argument("--device", help="cpu or cuda, cuda:1, ... (cuda if there is one)")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    import torch

    from trilemma.report.ladder import read_ladder
    from trilemma.report.measure import Protocol
    from trilemma.report.run import run_report

    check_counts(options, "num", "batch_size")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    jobs = options.jobs
    if jobs is None:
        jobs = 1 if device.startswith("cuda") else num_cores()
    protocol = Protocol(
        data=options.data,
        split=options.split or default_split(options.data),
        num=options.num,
        seed=options.seed,
        extractor=options.extractor,
        batch_size=options.batch_size,
        device=device,
    )
    words = options.ladder.split()
    if not words:
        raise ConfigError("--ladder is empty: quick, standard, full, or such as gddim:10,20")
    with until_terminated(), task_bar() as progress:
        report = run_report(
            options.models,
            protocol,
            options.out,
            ladder=read_ladder(words),
            likelihood_num=options.likelihood,
            jobs=jobs,
            patience=options.patience,
            command=_command(options),
            progress=progress,
        )
    print_report(report)
    console.print(f"written: {Path(options.out) / 'report.html'}", soft_wrap=True, markup=False)
    return 0


def _command(options: argparse.Namespace) -> str:
    """The command line that makes the report again."""
    words = ["trilemma", "report", *options.models, "--data", options.data, "-o", options.out]
    words += ["-n", str(options.num), "--ladder", options.ladder, "--seed", str(options.seed)]
    if options.split:
        words += ["--split", options.split]
    if options.extractor:
        words += ["--extractor", options.extractor]
    if options.patience != 10:
        words += ["--patience", f"{options.patience:g}"]
    if options.device:
        words += ["--device", options.device]
    if options.batch_size != 64:
        words += ["--batch-size", str(options.batch_size)]
    if options.likelihood:
        words += ["--likelihood", str(options.likelihood)]
    return shlex.join(words)


@contextmanager
def until_terminated() -> Iterator[None]:
    """Let SIGTERM, which ``kill`` and schedulers send, end a report as Ctrl-C does.

    Other processes of the report are ended, whole rows and shards stay. A caller that has its own
    handler keeps it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def task_bar() -> Iterator[Progress]:
    """Show what a report is doing: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield lambda text, done, total: console.print(
            f"{text} ({done} of {total})" if total else text, soft_wrap=True, markup=False
        )
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text, done, total: bar.update(
            task, description=text, completed=done, total=total or None
        )


def print_report(report: Report, *, all_cells: bool = True) -> None:
    """Print one line per cell, and why others have none."""
    points = report.data["kind"] != "images"
    names = (
        ("modes", "quality", "KL") if points else ("distance", "prec.", "dens.", "recall", "cov.")
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    table.add_column("sampler")
    for name in ("calls", "ms each", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in report.measured():
        if all_cells or cell.is_default:
            table.add_row(*(_points_row(cell) if points else _row(cell)))
    console.print(table)
    for model in report.models:
        if model.error:
            console.print(f"{model.name}: {model.error}", soft_wrap=True, markup=False)
    for cell in report.cells:
        if cell.error or cell.time_note:
            words = cell.error or f"not timed: {cell.time_note}"
            console.print(f"{cell.key}: {words}", soft_wrap=True, markup=False)


def _row(cell: Cell) -> list[str]:
    found = cell.distance
    distance = "" if found is None else f"{found.value:.2f}"
    if found is not None and found.low is not None and found.high is not None:
        distance += f" ± {(found.high - found.low) / 2:.2f}"
    names = ("precision", "density", "recall", "coverage")
    return [*_head(cell), distance, *(f"{cell.value(name):.2f}" for name in names)]


def _points_row(cell: Cell) -> list[str]:
    values = (cell.value("num_modes"), cell.value("high_quality"), cell.value("mode_kl"))
    return [*_head(cell), *("" if math.isnan(v) else f"{v:.4g}" for v in values)]


def _head(cell: Cell) -> list[str]:
    ms = cell.milliseconds()
    way, calls = cell.key.rpartition("/")[2], str(cell.nfe or "")
    return [escape(cell.model), way, calls, "" if math.isnan(ms) else f"{ms:.1f}"]
