"""Shape checking, one thread, the CPU, no network and no cache at home for the whole suite."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

CHECKED = ("processes", "methods", "samplers", "networks", "autoencoders", "metrics", "data")
# Must come before anything imports trilemma: the hook rewrites modules as they are loaded.
install_import_hook([f"trilemma.{name}" for name in CHECKED], "typechecker.check")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# Mutant tests call the checks of other test modules.
for folder in ("laws", "processes", "networks", "methods", "samplers", "training", "checkpoints"):
    sys.path.append(str(Path(__file__).parent / folder))

CACHE = tempfile.TemporaryDirectory(prefix="trilemma-tests-")  # removed when the process ends
os.environ["TRILEMMA_CACHE"] = CACHE.name
torch.set_num_threads(1)
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same global random state."""
    torch.manual_seed(0)
