"""The sampling loop: from the prior to data along a decreasing grid of times.

A sampler is pure. ``step`` takes a state at time t and returns one at time s < t; what it needs to
remember travels in ``carry``, and randomness comes from an explicit source with one row per
sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from trilemma.denoiser import Denoiser
from trilemma.rng import Rng
from trilemma.typing import State, Times

__all__ = ["Sampler"]

Callback = Callable[[int, State], None]


class Sampler(ABC):
    """One way of walking from the prior to data."""

    evals_per_step: ClassVar[int] = 1
    """Network calls per step."""

    @abstractmethod
    def step(
        self, denoiser: Denoiser, u: State, t: Times, s: Times, carry: Any, rng: Rng
    ) -> tuple[State, Any]:
        """Move states (b, k, *event) from time t to the earlier time s.

        Args:
            denoiser: the model.
            u: states at time t.
            t: later time, 0-dimensional float64.
            s: earlier time, 0-dimensional float64.
            carry: what the previous step returned, None at first.
            rng: random numbers, one row per sample.

        Returns:
            States at time s, and the next carry.
        """

    def run(
        self,
        denoiser: Denoiser,
        u: State,
        grid: Times,
        rng: Rng,
        callback: Callback | None = None,
    ) -> State:
        """Walk states along a decreasing grid; ``callback(n, u)`` sees the state after step n."""
        carry: Any = None
        with torch.inference_mode():
            for n in range(len(grid) - 1):
                u, carry = self.step(denoiser, u, grid[n], grid[n + 1], carry, rng)
                if callback is not None:
                    callback(n, u)
        return u
