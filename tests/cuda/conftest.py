"""The tests of a GPU: full float32 there, accelerate on it, and a watch for synchronisation."""

import contextlib
import os
import traceback
import warnings
from pathlib import Path

import pytest
import torch

# cuBLAS reads it once, when its first handle is made; deterministic sums need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import trilemma

SOURCE = str(Path(trilemma.__file__).parent)


def pytest_collection_modifyitems(items):
    """Leave the tests of a GPU out where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device on this machine"))


@pytest.fixture
def device():
    """Where the tests of this folder run."""
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _full_float32():
    """Products and convolutions of float32 in float32, not in TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.fixture
def on_gpu(monkeypatch):
    """Accelerate forgets the device and the precision of earlier runs, and takes the GPU."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def watch(found):
    """Add to ``found`` the line of the package behind every wait for the GPU, with its count."""

    def seen(message, category, filename, lineno, file=None, line=None):
        if "called a synchronizing CUDA operation" not in str(message):
            return
        stack = traceback.extract_stack()
        ours = [frame for frame in stack if frame.filename.startswith(SOURCE)]
        where = f"{filename}:{lineno}"
        if ours:
            path = ours[-1].filename.removeprefix(SOURCE + os.sep)
            where = f"{path}:{ours[-1].lineno}: {ours[-1].line}"
        found[where] = found.get(where, 0) + 1

    mode, always = torch.cuda.get_sync_debug_mode(), torch.is_warn_always_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = seen
        torch.set_warn_always(True)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.set_warn_always(always)


@pytest.fixture
def waits():
    """A context manager that watches, and the lines that it saw."""
    found = {}
    return (lambda: watch(found)), found
