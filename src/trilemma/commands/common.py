"""What several commands share: the console, a bar, loading a model, reading overrides."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bar

from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from trilemma.pipeline import Pipeline

__all__ = [
    "add_model",
    "add_temperature",
    "add_walk",
    "check_counts",
    "console",
    "counting_bar",
    "default_split",
    "load_model",
    "need_images",
    "num_cores",
    "output_file",
    "output_folder",
    "pairs",
    "walk_of",
]

console = Console(highlight=False)


@contextmanager
def counting_bar(text: str, total: int) -> Iterator[Any]:
    """Count samples on a terminal."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda number: bar.advance(task, number)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a model, and the device."""
    parser.add_argument("model", help="bundled name, path of a model file or run folder, or Hub id")
    parser.add_argument("--device", help="cpu or cuda, cuda:1, ... (cuda if there is one)")


def load_model(options: argparse.Namespace) -> Pipeline:
    """Load the model that the options name.

    Raises:
        ConfigError: for a device that is not there, or that computes nothing.
    """
    import torch

    from trilemma.pipeline import load

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
        return load(options.model, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from error


def pairs(extra: list[str]) -> Iterator[tuple[str, str]]:
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


def add_walk(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to sample."""
    parser.add_argument(
        "--sampler",
        help="ancestral, euler_maruyama, predictor_corrector, heun, "
        "ode, sscs, gddim or dpm_solver (what suits the model); its settings follow as "
        "--sampler.NAME VALUE, such as --sampler.num_history 3",
    )
    parser.add_argument("--steps", type=int, help="sampling steps (what suits the model)")
    parser.add_argument(
        "--grid", help="uniform, quadratic, root, rho or log_snr (what suits the model)"
    )
    parser.add_argument(
        "--final",
        choices=["none", "drift", "x0"],
        help="how to end: at the earliest time, by a noiseless step after the last one, or with "
        "the clean prediction as the last step (what suits the model)",
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="weight of classifier-free guidance (1, none)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed (0); sample i depends on it and i"
    )
    parser.add_argument("--class-label", type=int, help="one class for all samples")
    parser.add_argument("--batch-size", type=int, default=64, help="samples per network call (64)")


def add_temperature(parser: argparse.ArgumentParser) -> None:
    """Add the scale of the starting noise."""
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="scale of the noise that sampling starts from; below 1 samples are more alike and "
        "often cleaner (1)",
    )


def output_file(text: str) -> str:
    """Read the name of a file to write, before any work is done.

    Raises:
        ArgumentTypeError: if it names a folder, or its folder cannot be written.
    """
    path = Path(text)
    if not path.name or text.endswith(os.sep) or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; a file to write is needed")
    output_folder(str(path.parent))
    return text


def output_folder(text: str) -> str:
    """Read the name of a folder to write to, before any work is done.

    What will be made is the folder, or the missing part of its path; the nearest folder that is
    there has to take a file, which is tried: permissions do not tell of every obstacle.

    Raises:
        ArgumentTypeError: if nothing can be written there.
    """
    folder = Path(text)
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return text
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{folder} is no folder to write to ({error.strerror}); give another name"
        ) from error


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_split(data: str) -> str:
    """Split of real data that samples are compared with, unless one is named."""
    return "test" if data == "digits" else "train"


def need_images(shape: tuple[int, ...]) -> None:
    """Refuse a model whose data cannot be shown.

    Raises:
        ConfigError: for data that are not images.
    """
    if len(shape) != 3:
        raise ConfigError("this model draws points, not images; use it from Python")


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Refuse counts below one."""
    for name in names:
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least 1")


def walk_of(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``Pipeline.sample`` and ``Pipeline.edit`` from the options.

    Raises:
        ConfigError: for settings without a sampler, or that it does not have.
    """
    from trilemma.config import build_sampler

    settings: dict[str, str] = {}
    for key, value in pairs(options.extra):
        prefix, _, name = key.partition(".")
        if prefix != "sampler" or not name:
            raise ConfigError(
                f"unrecognized arguments: --{key}; a sampler is set by --sampler.NAME"
            )
        settings[name] = value
    if settings and options.sampler is None:
        raise ConfigError(f"--sampler.{next(iter(settings))} needs --sampler NAME")
    sampler = None if options.sampler is None else build_sampler(options.sampler, settings)
    return {
        "sampler": sampler,
        "num_steps": options.steps,
        "grid": options.grid,
        "final": options.final,
        "guidance": options.guidance,
        "seed": options.seed,
        "class_label": options.class_label,
        "batch_size": options.batch_size,
    }
