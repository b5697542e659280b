"""A second device that is not there, so that code for a GPU can be checked without one.

Inside ``pretend_gpu()`` a tensor that is moved to "cuda" stays in the CPU's memory and is marked.
Every operation sees the mark: mixing marked and unmarked tensors fails as it would on a real GPU,
results of marked tensors are marked, and reading a marked tensor from the host is written down as
a synchronisation, with the line that asked for it. Arithmetic is the CPU's, so values agree.
"""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero"}
FREE_TO_MIX = {"aten::copy_", "aten::index", "aten::index_put", "aten::index_put_"}


class PretendGpu:
    """Which storages are marked, and which lines made the host wait."""

    def __init__(self) -> None:
        self.marked: dict[int, StorageWeakRef] = {}
        self.syncs: list[str] = []
        self.is_home = False  # whether tensors that an operation makes by itself are marked

    def holds(self, x: torch.Tensor) -> bool:
        with torch._C._DisableTorchDispatch():
            return StorageWeakRef(x.untyped_storage()).cdata in self.marked

    def mark(self, x: torch.Tensor) -> torch.Tensor:
        reference = StorageWeakRef(x.untyped_storage())
        self.marked[reference.cdata] = reference
        return x

    def note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if "/trilemma/" in f.filename]
        last = [f"{Path(f.filename).name}:{f.lineno} {f.line}" for f in frames[-1:]]
        self.syncs.append(" in ".join([what, *last]))


def wants(value: object) -> torch.device | None:
    """The device that an argument names."""
    if isinstance(value, torch.device):
        return value
    is_name = isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu")
    return torch.device(value) if is_name else None


class Calls(TorchFunctionMode):
    """Calls as Python makes them: devices asked for and devices told."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        gpu, name = self.gpu, getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return GPU if gpu.holds(args[0]) else CPU
        if func == torch.Tensor.is_cuda.__get__:
            return gpu.holds(args[0])
        if func in (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist):
            if gpu.holds(args[0]):
                gpu.note(name)
                if func is torch.Tensor.cpu:
                    return Fresh.apply(args[0], gpu, False)
            return func(*args, **kwargs)
        if func is torch.Tensor.to:
            return self.move(*args, **kwargs)
        target = next((d for v in (*args, *kwargs.values()) if (d := wants(v)) is not None), None)
        if target is None or func is torch.device or name == "_parse_to":
            tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
            was, gpu.is_home = gpu.is_home, any(gpu.holds(x) for x in tensors)
            try:
                return func(*args, **kwargs)
            finally:
                gpu.is_home = was
        swap = lambda v: CPU if wants(v) is not None else v  # noqa: E731
        out = func(*[swap(v) for v in args], **{k: swap(v) for k, v in kwargs.items()})
        return gpu.mark(out) if target.type == "cuda" and isinstance(out, torch.Tensor) else out

    def move(self, x, *args, **kwargs):
        gpu, target = self.gpu, None
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                target = GPU if gpu.holds(value) else CPU
            elif (device := wants(value)) is not None:
                target = device
        swap = lambda v: CPU if wants(v) is not None else v  # noqa: E731
        was = gpu.holds(x)
        out = torch.Tensor.to(
            x, *[swap(v) for v in args], **{k: swap(v) for k, v in kwargs.items()}
        )
        if target is None or (target.type == "cuda") == was:
            return gpu.mark(out) if was else out
        out = Fresh.apply(out, gpu, target.type == "cuda")
        quiet = kwargs.get("non_blocking", False) and not was
        if not quiet and x.numel():
            gpu.note("a copy")
        return out


class Fresh(torch.autograd.Function):
    """A copy with a storage of its own, marked or not; the gradient goes back the same way."""

    @staticmethod
    def forward(ctx, x, gpu, marked):
        ctx.gpu, ctx.marked = gpu, marked
        with unwatched(gpu):
            out = x.clone()
        return gpu.mark(out) if marked else out

    @staticmethod
    def backward(ctx, gradient):
        with unwatched(ctx.gpu):
            out = gradient.clone()
        return (out if ctx.marked else ctx.gpu.mark(out)), None, None


@contextlib.contextmanager
def unwatched(gpu: PretendGpu) -> Iterator[None]:
    with torch._C._DisableTorchDispatch():
        yield


class Operations(TorchDispatchMode):
    """Operations as they run: no mixing, and results stay where they were made."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
        marks = [self.gpu.holds(x) for x in tensors]
        if any(marks) and name in READS:
            self.gpu.note(name.removeprefix("aten::"))
        if any(marks) and name not in FREE_TO_MIX:
            strangers = [x for x, m in zip(tensors, marks, strict=True) if not m and x.dim()]
            if strangers:
                raise RuntimeError(
                    f"{name}: expected all tensors to be on the same device, but found cuda:0 and "
                    f"cpu (shape {tuple(strangers[0].shape)})"
                )
        out = func(*args, **kwargs)
        is_marked = self.gpu.is_home if not marks else any(marks)
        is_marked = marks[0] if name in FREE_TO_MIX else is_marked
        if is_marked and name not in READS | {"aten::copy_"}:
            tree_map(lambda v: self.gpu.mark(v) if isinstance(v, torch.Tensor) else v, out)
        return out


class Generator(torch.Generator):
    """A generator of the CPU, whatever device it is asked for."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)


@contextlib.contextmanager
def pretend_gpu(monkeypatch) -> Iterator[PretendGpu]:
    """Give the code inside a device "cuda"."""
    gpu = PretendGpu()
    monkeypatch.setattr(torch, "Generator", Generator)
    with Calls(gpu), Operations(gpu):
        yield gpu
