"""The command line: parse, call, print.

Every error that a user can cause is one line on standard error; exit code 2 means that the call
was wrong, 1 that something on the way failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from trilemma.errors import CheckpointError, ConfigError, TrilemmaError

if TYPE_CHECKING:
    from torch import Tensor

    from trilemma.metrics import Record
    from trilemma.pipeline import Pipeline
    from trilemma.training import Progress

__all__ = ["main"]

console = Console(highlight=False)

EPILOG = """examples:
  trilemma demo
  trilemma train ddgan-mnist --data path/to/mnist --out runs/digits
  trilemma sample ddgan-mnist -n 64 -o digits.png
  trilemma evaluate runs/digits --data path/to/mnist -n 10000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    known, extra = parser.parse_known_args(arguments)
    try:
        if extra and known.command != "train":
            parser.error(f"unrecognized arguments: {' '.join(extra)}")
        known.extra = extra
        return int(known.run(known) or 0)
    except TrilemmaError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"trilemma: error: {' '.join(message.split())}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trilemma",
        description="Train, sample and judge generative models: quality, coverage, speed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_sample(commands)
    _add_evaluate(commands)
    _add_convert(commands)
    demo = commands.add_parser("demo", help="draw digits with the bundled model and judge them")
    demo.add_argument("-o", "--out", default="demo.png", help="picture to write (demo.png)")
    demo.set_defaults(run=_demo)
    for name, run, text in (
        ("models", _models, "list the models that ship with the package"),
        ("recipes", _recipes, "list the training recipes that ship with the package"),
        ("doctor", _doctor, "show versions, devices and which feature weights were found"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=run)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a model by a recipe",
        description="Train by a recipe. Any entry of the recipe can be set by name, such as "
        "--trainer.batch_size 32, --method.num_steps 2 or --method.generator.channels 64.",
        epilog="Several processes: torchrun --nproc_per_node 4 -m trilemma train RECIPE ...",
    )
    train.add_argument("recipe", help="a bundled recipe (see `trilemma recipes`) or a YAML file")
    train.add_argument("--data", help="folder of images, parquet folder, .npz or Hub name")
    train.add_argument("--out", help="folder of the run (runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    train.set_defaults(run=_train)


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser("sample", help="draw samples from a model")
    _add_model(sample)
    sample.add_argument("-n", "--num", type=int, default=64, help="number of samples (64)")
    sample.add_argument("--steps", type=int, help="sampling steps (what the model was trained for)")
    sample.add_argument(
        "--seed", type=int, default=0, help="seed (0); sample i depends on it and i"
    )
    sample.add_argument("--class-label", type=int, help="one class for all samples")
    sample.add_argument("--batch-size", type=int, default=64, help="samples per network call (64)")
    sample.add_argument("--device", help="cpu or cuda, cuda:1, ... (cuda if there is one)")
    sample.add_argument("-o", "--out", required=True, help="out.png, out.npz or a folder")
    sample.set_defaults(run=_sample)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="judge a model, or samples, against real data")
    evaluate.add_argument("model", help="a model, or a file of samples (.npz)")
    evaluate.add_argument("--data", required=True, help="real data, as for training")
    evaluate.add_argument("--split", default="train", help="split of the real data (train)")
    evaluate.add_argument("-n", "--num", type=int, default=10_000, help="samples (10000)")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of samples and subsets (0)")
    evaluate.add_argument("--extractor", help="feature extractor (what suits the images)")
    evaluate.add_argument("--batch-size", type=int, default=64, help="samples per call (64)")
    evaluate.add_argument("--device", help="cpu or cuda, cuda:1, ... (cuda if there is one)")
    evaluate.add_argument("--json", help="write the records to this file")
    evaluate.set_defaults(run=_evaluate)


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="convert weights that the authors published")
    convert.add_argument("method", choices=["ddgan"], help="which method's checkpoint")
    convert.add_argument("checkpoint", help="the authors' file, netG_*.pth or content.pth")
    convert.add_argument(
        "--config", required=True, help="cifar10, celebahq256, lsun-church or FILE.json"
    )
    convert.add_argument("-o", "--out", required=True, help="model file to write (.safetensors)")
    convert.set_defaults(run=_convert)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="bundled name, path of a model file or run folder, or Hub id")


def _train(options: argparse.Namespace) -> int:
    import torch

    from trilemma.checkpoints.store import write_bytes
    from trilemma.config import build_recipe, dump_yaml, load_recipe, override, resolve, set_data
    from trilemma.pipeline import save_pipeline

    config = load_recipe(options.recipe)
    if options.data:
        set_data(config, options.data)
    for key, value in _pairs(options.extra):
        override(config, key, value)
    if config["data"]["init_args"].get("path") == "":
        raise ConfigError(f"the recipe {options.recipe} brings no data: name them with --data PATH")
    config = resolve(config)
    torch.manual_seed(config["trainer"]["seed"])  # initial weights
    method, data, trainer = build_recipe(config)
    _check_data(method, data)
    out = Path(options.out or Path("runs") / Path(options.recipe).stem)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if is_main:
        trainer.check_folder(out, resume=options.resume)
        write_bytes(out / "config.yaml", dump_yaml(config).encode())

    def export(path: Path, averaged: Any) -> None:
        card = {"recipe": Path(options.recipe).stem, "num_images": trainer.num_images}
        shape, names = data.event_shape, data.class_names
        save_pipeline(path, averaged, config["method"], shape, class_names=names, card=card)

    with _training_bar(trainer.num_images, is_main) as report:
        finished = trainer.fit(
            method, data, out, config=config, resume=options.resume, export=export, report=report
        )
    if is_main:
        state = "finished" if finished else "stopped after saving; continue with --resume"
        console.print(f"{state}: {out}")
    return 0


def _check_data(method: Any, data: Any) -> None:
    """Refuse networks that do not fit the data before anything is written."""
    if method.num_classes and not 0 < data.num_classes <= method.num_classes:
        raise ConfigError(
            f"the networks take labels of {method.num_classes} classes, the data have "
            f"{data.num_classes}: set num_classes of generator and discriminator"
        )
    expected, found = method.event_shape, tuple(data.event_shape)
    if expected != found:
        raise ConfigError(
            f"the networks take data of shape {expected}, the data have {found}: set "
            "--data.image_size and --data.channels, or image_size and in_channels of the networks"
        )


def _pairs(extra: list[str]) -> Iterator[tuple[str, str]]:
    """Read ``--key value`` and ``--key=value``."""
    words = iter(extra)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(
                f"unexpected argument {word!r}; overrides are written --key.sub value"
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = next(words, "")
            if value == "":
                raise ConfigError(f"--{key} needs a value")
        yield key, value


@contextmanager
def _training_bar(total: int, is_main: bool) -> Iterator[Any]:
    """Progress line with rate, losses and time left; plain lines where there is no terminal."""
    if not is_main:
        yield None
        return
    columns = (
        TextColumn("{task.fields[rate]:>6.0f} img/s"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate=0.0, losses="")

        def report(progress: Progress) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in progress.values.items())
            bar.update(
                task,
                completed=min(progress.images, total),
                rate=progress.images_per_second,
                losses=losses,
            )
            if not console.is_terminal:
                left = progress.seconds_left / 60
                console.print(
                    f"{progress.images} images, {progress.images_per_second:.0f}/s, "
                    f"{left:.0f} min left, {losses}",
                    soft_wrap=True,
                )

        yield report


@contextmanager
def _bar(text: str, total: int) -> Iterator[Any]:
    """Count samples on a terminal."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda number: bar.advance(task, number)


def _load(options: argparse.Namespace) -> Pipeline:
    import torch

    from trilemma.pipeline import load

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return load(options.model, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _sample(options: argparse.Namespace) -> int:
    import torch

    from trilemma.images import save_images, to_uint8
    from trilemma.sampling import labels_for

    out = Path(options.out)
    if out.suffix not in (".png", ".npz", ""):
        raise ConfigError(f"-o {out}: give a name ending in .png or .npz, or a folder")
    for name in ("num", "batch_size"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least 1")
    pipeline = _load(options)
    if len(pipeline.event_shape) != 3:
        raise ConfigError("this model draws points, not images; sample it from Python")
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    first, last = (options.num * (rank + i) // world for i in (0, 1))
    started = time.perf_counter()
    with _bar("sampling", last - first) as progress:
        drawn = (
            pipeline.sample(
                last - first,
                num_steps=options.steps,
                seed=options.seed,
                class_label=options.class_label,
                batch_size=options.batch_size,
                first=first,
                progress=progress,
            )
            if last > first
            else torch.empty(0, *pipeline.event_shape)
        )
    seconds = time.perf_counter() - started
    images = to_uint8(drawn)
    if out.suffix == "":
        save_images(out, images, first=first)
    else:
        images = _gather(images, world)
        if rank == 0:
            indices = range(options.num)
            save_images(out, images, labels_for(pipeline.num_classes, indices, options.class_label))
    if rank == 0:
        console.print(
            f"{options.num} samples in {pipeline.num_steps} network calls each, "
            f"{1000 * seconds / max(1, last - first):.1f} ms per image: {out}"
        )
    return 0


def _gather(images: Tensor, world: int) -> Tensor:
    """Collect the images of all processes, in order."""
    if world == 1:
        return images
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, images)
    dist.destroy_process_group()
    return torch.cat(parts)


def _evaluate(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.store import write_bytes
    from trilemma.evaluation import evaluate_samples, read_npz, reference_data
    from trilemma.metrics import to_json
    from trilemma.pipeline import Pipeline

    is_file = options.model.endswith(".npz")
    samples = read_npz(options.model) if is_file else _load(options)
    shape = samples.event_shape if isinstance(samples, Pipeline) else tuple(samples.shape[1:])
    data = reference_data(options.data, options.split, shape)
    with _bar("sampling", options.num) as progress:
        records = evaluate_samples(
            samples,
            data,
            options.num,
            split=options.split,
            seed=options.seed,
            extractor=options.extractor,
            batch_size=options.batch_size,
            progress=progress,
        )
    console.print(_record_table(records))
    if options.json:
        write_bytes(Path(options.json), to_json(records).encode())
        console.print(f"written: {options.json}")
    return 0


def _record_table(records: list[Record]) -> Table:
    """Records as a table, with the protocol that they share as its caption."""
    table = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("real data score", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("better")
    for record in records:
        error = f" ± {record.error:.2g}" if record.error else ""
        floor = "" if record.floor is None else f"{record.floor:.4g}"
        better = "lower" if record.lower_is_better else "higher"
        table.add_row(record.name, f"{record.value:.4g}{error}", floor, better)
    first = records[0]
    table.caption = (
        f"{first.num_fake} samples against {first.num_real} real ({first.split}), features "
        f"{first.extractor}: {first.preprocessing}"
    )
    return table


def _convert(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.convert import convert_ddgan

    pipeline = convert_ddgan(options.checkpoint, options.config, options.out)
    console.print(
        f"converted {options.checkpoint} to {options.out}: {pipeline.num_steps} network calls, "
        f"images {pipeline.event_shape}"
    )
    return 0


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
        steps = header["method"]["init_args"].get("num_steps", "")
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
        f"trilemma {_version()}, Python {platform.python_version()}, {platform.platform()}"
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


def _version() -> str:
    from importlib.metadata import version

    return version("trilemma")


if __name__ == "__main__":
    sys.exit(main())
