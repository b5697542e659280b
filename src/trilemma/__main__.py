"""``python -m trilemma``: the command line, also under ``torchrun``."""

import sys

from trilemma.cli import main

sys.exit(main())
