"""``trilemma demo``, ``models``, ``recipes`` and ``doctor``."""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any

from rich.markup import escape
from rich.table import Table

from trilemma.commands.common import console
from trilemma.errors import CheckpointError

__all__ = ["add", "version"]


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    demo = commands.add_parser("demo", help="draw digits with the bundled model and judge them")
    demo.add_argument("-o", "--out", default="demo.png", help="picture to write (demo.png)")
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
    from trilemma.images import save_png, to_uint8
    from trilemma.metrics import (
        DigitFeatures,
        classify,
        frechet_distance,
        gaussian_stats,
        metric_key,
        mnist_reference,
    )
    from trilemma.pipeline import bundled_models, load

    if not bundled_models():
        raise CheckpointError("no bundled model is installed; reinstall the package")
    name = "ddgan-mnist"
    pipeline = load(name)
    extractor, reference = DigitFeatures(), mnist_reference()
    num = len(reference.images)
    pipeline.sample(8)  # warm up
    started = time.perf_counter()
    images = to_uint8(pipeline.sample(num, batch_size=128))
    per_image = 1000 * (time.perf_counter() - started) / num
    save_png(options.out, images[:100])
    drawn, real = (
        frechet_distance(gaussian_stats(extractor(x)), reference.train)
        for x in (images, reference.images)
    )
    classes = len(classify(images).unique())
    for line in (
        f"{name}: {num} digits, {pipeline.num_steps} network calls each",
        f"speed     {per_image:.1f} ms per image on this CPU",
        f"quality   {metric_key(extractor)} {drawn:.2f} to 60000 training digits, lower is better; "
        f"{num} real test digits score {real:.2f}",
        f"coverage  {classes} of 10 digits drawn",
        f"picture   {options.out}",
    ):
        console.print(line, soft_wrap=True)
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
