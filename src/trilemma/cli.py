"""The command line: parse, call, print.

Every error that a user can cause is one line on standard error; exit code 2 means that the call
was wrong, 1 that something on the way failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from trilemma.commands import about, judge, sample, train
from trilemma.commands.common import console
from trilemma.errors import TrilemmaError

__all__ = ["main"]

EPILOG = """examples:
  trilemma demo
  trilemma train ddgan-mnist --data path/to/mnist --out runs/digits
  trilemma sample ddgan-mnist -n 64 -o digits.png
  trilemma sample cld-mnist -n 64 --sampler sscs --steps 50 --grid quadratic -o digits.png
  trilemma evaluate runs/digits --data path/to/mnist -n 10000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    known, extra = parser.parse_known_args(arguments)
    try:
        if extra and not getattr(known, "takes_overrides", False):
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {about.version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train.add(commands)
    sample.add(commands)
    judge.add(commands)
    _add_convert(commands)
    about.add(commands)
    return parser


def _add_convert(commands: Any) -> None:
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
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.convert import convert_cld, convert_ddgan

    convert = {"ddgan": convert_ddgan, "cld": convert_cld}[options.method]
    pipeline = convert(options.checkpoint, options.config, options.out)
    console.print(
        f"converted {options.checkpoint} to {options.out}: {pipeline.num_steps} steps, "
        f"data of shape {pipeline.event_shape}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
