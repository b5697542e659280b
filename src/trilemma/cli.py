"""The command line: parse, call, print.

Every error that a user can cause is one line on standard error; exit code 2 means that the call
was wrong, 1 that something on the way failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from trilemma.commands import about, convert, features, interpolate, judge, report, sample, train
from trilemma.errors import NumericalError, TrilemmaError, WriteError

__all__ = ["main"]

EPILOG = """examples:
  trilemma demo
  trilemma train ddgan-mnist --data path/to/mnist --out runs/digits
  trilemma sample ddgan-mnist -n 64 -o digits.png
  trilemma sample cld-mnist -n 64 --sampler sscs --steps 50 --grid quadratic -o digits.png
  trilemma interpolate ddgan-mnist -o digits.gif
  trilemma evaluate runs/digits --data path/to/mnist -n 10000
  trilemma features --data path/to/images -o mine.safetensors
  trilemma report runs/digits ddpm-mnist lsgm-mnist --data path/to/mnist -o report
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no line per retry, before our own
    parser = _parser()
    try:
        known, extra = parser.parse_known_args(arguments)
        if extra and not getattr(known, "takes_overrides", False):
            parser.error(f"unrecognized arguments: {' '.join(extra)}")
        known.extra = extra
        return int(known.run(known) or 0)
    except (NumericalError, WriteError) as error:
        return _fail(str(error), 1)
    except TrilemmaError as error:
        return _fail(str(error), 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        return _fail(f"out of memory; take smaller batches ({error})", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"trilemma: error: {' '.join(message.split())}\n")
    return code


class _Parser(argparse.ArgumentParser):
    """A parser, and parsers of commands, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(f"{message}; see {self.prog} --help", 2))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trilemma",
        description="Train, sample and judge generative models: quality, coverage, speed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {about.version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train.add(commands)
    sample.add(commands)
    interpolate.add(commands)
    judge.add(commands)
    report.add(commands)
    features.add(commands)
    convert.add(commands)
    about.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
