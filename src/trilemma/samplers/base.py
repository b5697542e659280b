"""The sampling loop: from the prior to data along a decreasing grid of times.

A sampler is pure. ``plan`` computes the coefficients of all steps of a grid at once, in float64;
``advance`` takes a state at time t and returns one at time s < t. What a step needs to remember
travels in ``carry``, and randomness comes from an explicit source with one row per sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.processes import act
from trilemma.rng import Rng
from trilemma.typing import Final, State, Times

__all__ = ["Sampler", "need_score"]

Callback = Callable[[int, State], None]


class Sampler(ABC):
    """One way of walking from the prior to data."""

    evals_per_step: int = 1
    """Network calls per step."""
    order: int = 1
    """Order of convergence, weak for stochastic samplers."""
    uses_score: ClassVar[bool] = True
    """Whether steps follow a score, else clean data from the denoiser are enough."""

    def check(self, denoiser: Denoiser) -> None:
        """Raise ConfigError, with the reason, where the mathematics does not allow the sampler."""
        if self.uses_score:
            need_score(self, denoiser)

    def thin(self, grid: Times) -> Times:
        """Times of a grid at which the sampler stops; all of them unless it steps by itself."""
        return grid

    def plan(self, denoiser: Denoiser, grid: Times) -> Sequence[Any]:
        """Return the coefficients of every step of a grid, float64, one entry per step.

        Nothing by default: a sampler that computes them in ``advance`` is right, only slower.
        """
        return [None] * (len(grid) - 1)

    @abstractmethod
    def advance(
        self,
        denoiser: Denoiser,
        u: State,
        t: Times,
        s: Times,
        row: Any,
        carry: Any,
        rng: Rng,
    ) -> tuple[State, Any]:
        """Move states (b, k, *event) from time t to the earlier time s.

        Args:
            denoiser: the model.
            u: states at time t.
            t: later time, 0-dimensional float64.
            s: earlier time, 0-dimensional float64.
            row: this step's entry of the plan, tensors cast to the states' dtype and device.
            carry: what the previous step returned, None at first.
            rng: random numbers, one row per sample.

        Returns:
            States at time s, and the next carry.
        """

    def step(
        self, denoiser: Denoiser, u: State, t: Times, s: Times, carry: Any, rng: Rng
    ) -> tuple[State, Any]:
        """Take one step by itself: plan it, then advance."""
        self.check(denoiser)
        row = self.plan(denoiser, torch.stack([t, s]))[0]
        return self.advance(denoiser, u, t, s, _cast(row, u), carry, rng)

    def run(
        self,
        denoiser: Denoiser,
        u: State,
        grid: Times,
        rng: Rng,
        callback: Callback | None = None,
        *,
        final: Final = "none",
    ) -> State:
        """Walk states along a decreasing grid; ``callback(n, u)`` sees the state after step n.

        Raises:
            ConfigError: where the sampler does not fit the denoiser.
        """
        self.check(denoiser)
        if final not in ("none", "drift", "x0"):
            raise ConfigError(f"final={final!r}: 'none', 'drift' or 'x0' is needed")
        if final == "x0" and isinstance(denoiser, ScoreDenoiser):
            denoiser.need_position()  # before the walk, not after it
        grid = self.thin(grid)
        carry: Any = None
        with torch.inference_mode():
            denoiser.prepare(grid)
            for n, row in enumerate(self.plan(denoiser, grid)):
                row = _cast(row, u)
                u, carry = self.advance(denoiser, u, grid[n], grid[n + 1], row, carry, rng)
                if callback is not None:
                    callback(n, u)
            return _finish(denoiser, u, grid[-1], final, rng)


def _finish(denoiser: Denoiser, u: State, t: Times, final: Final, rng: Rng) -> State:
    """Take the last step to clean data; without a network call where no score would enter."""
    if final == "none" or float(t) == denoiser.origin:
        return u
    if final == "x0":
        return denoiser.x0(u, t, rng)
    drift, diffusion = denoiser.process.drift_matrix(t), denoiser.process.diffusion_matrix(t)
    noise = diffusion @ diffusion.mT
    moved = u - float(t) * act(drift, u)
    if bool(noise[0].any()):
        if not isinstance(denoiser, ScoreDenoiser):
            raise ConfigError(f"final={final!r} follows a score, which this denoiser does not have")
        moved = moved + float(t) * act(noise, denoiser.score(u, t))
    return moved


def _cast(row: Any, u: State) -> Any:
    """Tensors of a row in the dtype and on the device of the states."""
    if isinstance(row, Tensor):
        return row.to(u, non_blocking=True)
    if isinstance(row, tuple):
        values = [_cast(x, u) for x in row]
        return type(row)(*values) if hasattr(row, "_fields") else tuple(values)
    return row


def need_score(
    sampler: Sampler, denoiser: Denoiser, *, full: bool = False, one_block: str = ""
) -> None:
    """Refuse a denoiser that lacks what a sampler is built on.

    Args:
        sampler: for the message.
        denoiser: the model.
        full: the score of every block is needed.
        one_block: why a process of one block is needed, if it is.

    Raises:
        ConfigError: naming what is missing.
    """
    name = type(sampler).__name__
    if not isinstance(denoiser, ScoreDenoiser):
        raise ConfigError(
            f"{name} follows a score, and a denoising diffusion GAN draws clean data instead: use "
            "the ancestral sampler"
        )
    if full and not denoiser.has_full_score:
        raise ConfigError(
            f"{name} needs the score of positions too, which denoising score matching does not "
            "give: use sscs or euler_maruyama, or train with hybrid score matching"
        )
    if one_block and denoiser.process.num_blocks != 1:
        raise ConfigError(
            f"{name} needs a process of one block, {type(denoiser.process).__name__} has "
            f"{denoiser.process.num_blocks}: {one_block}"
        )
