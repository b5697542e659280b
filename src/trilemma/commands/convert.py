"""``trilemma convert``."""

from __future__ import annotations

import argparse
from typing import Any

from trilemma.commands.common import console, output_file
from trilemma.errors import ConfigError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    convert = commands.add_parser(
        "convert",
        help="convert weights that the authors published",
        description="Turn a file of the authors into a model file of this package. Nothing in the "
        "file is executed.",
        epilog="--config: cifar10, celebahq256 or lsun-church for ddgan; cifar10, celebahq256 or "
        "celebahq256-paper for cld; mnist, omniglot, cifar10-fid, cifar10-balanced, cifar10-nll, "
        "celebahq256 or celebahq256-qualitative for lsgm; or a JSON file with the arguments of the "
        "official command. Files of lsgm hold their own, which are taken where none are given.",
    )
    convert.add_argument(
        "method", choices=["ddgan", "cld", "lsgm"], help="which method's checkpoint"
    )
    convert.add_argument(
        "checkpoint",
        help="the authors' file: netG_*.pth or content.pth (ddgan), checkpoint_*.pth (cld), "
        "checkpoint*.pt of either stage (lsgm)",
    )
    convert.add_argument("--config", help="a name, see below, or FILE.json; needed but for lsgm")
    convert.add_argument(
        "-o", "--out", type=output_file, required=True, help="model file to write (.safetensors)"
    )
    convert.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.convert import convert_cld, convert_ddgan, convert_lsgm

    if options.method == "lsgm":
        pipeline = convert_lsgm(options.checkpoint, options.config, options.out)
    elif options.config is None:
        raise ConfigError(f"a file of {options.method} does not hold its settings: give --config")
    else:
        convert = {"ddgan": convert_ddgan, "cld": convert_cld}[options.method]
        pipeline = convert(options.checkpoint, options.config, options.out)
    console.print(
        f"converted {options.checkpoint} to {options.out}: {pipeline.num_steps} steps, "
        f"data of shape {pipeline.event_shape}"
    )
    return 0
