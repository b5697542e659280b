"""``trilemma demo``, ``models``, ``recipes`` and ``doctor``."""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from trilemma.commands.common import console, num_cores, output_folder
from trilemma.commands.report import print_report, task_bar, until_terminated
from trilemma.errors import CheckpointError

__all__ = ["add", "version"]


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    demo = commands.add_parser(
        "demo",
        help="draw digits with every bundled model and compare quality, coverage and speed",
    )
    demo.add_argument("models", nargs="*", metavar="MODEL", help="bundled models (all of digits)")
    demo.add_argument(
        "-o", "--out", type=output_folder, default="demo", help="folder of the report (demo)"
    )
    demo.add_argument("-n", "--num", type=int, default=512, help="digits per row (512)")
    demo.set_defaults(run=_demo)
    for name, run, text in (
        ("models", _models, "list the models that ship with the package"),
        ("recipes", _recipes, "list the training recipes that ship with the package"),
        ("doctor", _doctor, "show versions, devices and which feature weights were found"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=run)


def version() -> str:
    """The installed version."""
    from importlib.metadata import version as installed

    return installed("trilemma")


def _demo(options: argparse.Namespace) -> int:
    """The small report: every bundled model of digits, at the calls that suit it."""
    from trilemma.pipeline import bundled_models
    from trilemma.report.measure import Protocol
    from trilemma.report.run import run_report

    if not bundled_models():
        raise CheckpointError("no bundled model is installed; reinstall the package")
    names = options.models or [name for name in bundled_models() if "-mnist" in name]
    out, started = Path(options.out), time.perf_counter()
    is_continued = any(path.is_file() for path in (out / "cells").rglob("*"))
    protocol = Protocol("digits", "test", options.num, batch_size=128)
    with until_terminated(), task_bar() as progress:
        report = run_report(
            names,
            protocol,
            out,
            ladder="quick",
            jobs=num_cores(),
            patience=1.0,
            command=" ".join(["trilemma demo", *options.models, f"-n {options.num}"]),
            progress=progress,
        )
    print_report(report)
    seconds = time.perf_counter() - started
    earlier = " beside what an earlier run left in the folder" if is_continued else ""
    for line in (
        f"{options.num} digits a row against 512 real test digits, in {seconds:.0f} s{earlier}; "
        "distance: features of a digit classifier, lower is better; the rest: higher is better",
        f"the page: {out / 'report.html'}",
    ):
        console.print(line, soft_wrap=True, markup=False)
    return 0


def _models(options: argparse.Namespace) -> int:
    from trilemma.checkpoints import store
    from trilemma.pipeline import bundled_models

    table = Table(box=None, pad_edge=False)
    for column in ("model", "calls", "shape", "what it is"):
        table.add_column(column)
    for name, path in bundled_models().items():
        header = store.read(path, "pipeline").header
        arguments = header["method"]["init_args"]
        arguments = (arguments.get("prior") or {}).get("init_args", arguments)  # a latent model's
        steps = arguments.get("num_steps", arguments.get("default_steps", ""))
        shape = " x ".join(map(str, header["event_shape"]))
        table.add_row(name, str(steps), shape, str(header["card"].get("summary", "")))
    console.print(table)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from trilemma.config import recipe_names

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it trains")
    for name, text in recipe_names().items():
        table.add_row(name, text)
    console.print(table, soft_wrap=True)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    import importlib.metadata as metadata

    import torch

    from trilemma.metrics import find_weights

    console.print(
        f"trilemma {version()}, Python {platform.python_version()}, {platform.platform()}"
    )
    packages = ("torch", "accelerate", "datasets", "safetensors", "jsonargparse", "torch-fidelity")
    for package in packages:
        try:
            console.print(f"  {package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            console.print(f"  {package} not installed")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    console.print(
        f"devices: CPU with {torch.get_num_threads()} threads; {gpus or 'no CUDA device'}"
    )
    console.print("feature weights:")
    for found in find_weights():
        state = "found" if found.found else "missing"
        console.print(f"  {found.name}: {state}; {escape(found.hint)}", soft_wrap=True)
    return 0
