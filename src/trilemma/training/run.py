"""A run of training while it lives: its networks, optimisers, averages and place in the data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trilemma.data import Batches, Data
from trilemma.methods.base import Method
from trilemma.training.ema import EMA

__all__ = ["Run", "averaged", "named"]


@dataclass
class Run:
    """Live state of one call of ``fit``: what a step changes, and what it needs."""

    accelerator: Any
    method: Method
    data: Data
    loader: Batches
    out: Path
    config: Mapping[str, Any]
    batch_size: int
    seed: int
    raw: dict[str, nn.Module]
    optimizers: dict[str, Any]
    emas: dict[str, EMA]
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    first_bad: Tensor | None = None
    asked: bool = False
    stopping: bool = False


@contextlib.contextmanager
def averaged(run: Run) -> Iterator[None]:
    """Put the averaged networks in place of the trained ones."""
    trained = {name: run.method.get_submodule(name) for name in run.emas}
    for name, ema in run.emas.items():
        run.method.set_submodule(name, ema.network)
    run.method.eval()
    try:
        yield
    finally:
        run.method.train()
        for name, network in trained.items():
            run.emas[name].network.eval()
            run.method.set_submodule(name, network)


def named(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of some networks, below its network's name."""
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            yield f"{name}.{key}", value
