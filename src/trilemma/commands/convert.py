"""``trilemma convert``."""

from __future__ import annotations

import argparse
from typing import Any

from trilemma.commands.common import console

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    convert = commands.add_parser(
        "convert",
        help="convert weights that the authors published",
        description="Turn a file of the authors into a model file of this package. Nothing in the "
        "file is executed.",
        epilog="--config: cifar10, celebahq256 or lsun-church for ddgan; cifar10, celebahq256 or "
        "celebahq256-paper for cld; or a JSON file with the arguments of the official command.",
    )
    convert.add_argument("method", choices=["ddgan", "cld"], help="which method's checkpoint")
    convert.add_argument(
        "checkpoint",
        help="the authors' file: netG_*.pth or content.pth (ddgan), checkpoint_*.pth (cld)",
    )
    convert.add_argument("--config", required=True, help="a name, see below, or FILE.json")
    convert.add_argument("-o", "--out", required=True, help="model file to write (.safetensors)")
    convert.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.convert import convert_cld, convert_ddgan

    convert = {"ddgan": convert_ddgan, "cld": convert_cld}[options.method]
    pipeline = convert(options.checkpoint, options.config, options.out)
    console.print(
        f"converted {options.checkpoint} to {options.out}: {pipeline.num_steps} steps, "
        f"data of shape {pipeline.event_shape}"
    )
    return 0
