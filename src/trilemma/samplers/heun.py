r"""Heun's method on the probability flow, with optional churn.

The trapezoidal rule: slope at the start, slope at the end of an Euler step, and the mean of both,
hence second order at two calls per step. On a variance-exploding process with a linear clock this
is the sampler of Karras et al. (2022, Alg. 1); with *churn* (Alg. 2) each step first goes back to
a higher noise level, (1 + gamma) sigma with fresh noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.processes import act
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler, need_score
from trilemma.typing import State, Times

__all__ = ["Heun"]


class _Row(NamedTuple):
    t: float
    back: Tensor | None
    noise: Tensor | None


class Heun(Sampler):
    """Second-order probability flow.

    Args:
        churn: total amount of noise added back along the way, >= 0; 0 is deterministic.
        churn_min, churn_max: noise-to-signal ratios between which noise is added.
        churn_scale: standard deviation of that noise, times what the process says.

    Raises:
        ConfigError: for values outside their range.
    """

    order = 2
    evals_per_step = 2

    def __init__(
        self,
        *,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_scale: float = 1.0,
    ) -> None:
        if min(churn, churn_min, churn_scale) < 0 or churn_max < churn_min:
            raise ConfigError(
                f"churn={churn}, churn_scale={churn_scale} and churn_min={churn_min} must be >= 0 "
                f"and churn_max={churn_max} >= churn_min"
            )
        self.churn, self.churn_min, self.churn_max = churn, churn_min, churn_max
        self.churn_scale = churn_scale

    def check(self, denoiser: Denoiser) -> None:
        """Churn is defined by a noise level."""
        reason = "churn raises a noise level, and blocks have several; set churn to 0"
        need_score(self, denoiser, one_block=reason if self.churn else "")

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """Where each step starts after churn, and how to get there."""
        t = grid[:-1]
        if not self.churn:
            return [_Row(time, None, None) for time in t.tolist()]
        process = denoiser.process
        level = torch.exp(-process.log_snr(t) / 2)
        gamma = min(self.churn / len(t), math.sqrt(2) - 1)
        is_churned = (level >= self.churn_min) & (level <= self.churn_max)
        raised = -2 * (level * (1 + gamma * is_churned.double())).log()
        start = torch.where(is_churned, process.time_of_log_snr(raised), t).maximum(t)
        kernel = process.transition(t, start)
        denoiser.prepare(start)
        noise = self.churn_scale * kernel.chol()
        return [_Row(float(start[n]), kernel.mean_matrix[n], noise[n]) for n in range(len(start))]

    def advance(
        self,
        denoiser: Denoiser,
        u: State,
        t: Times,
        s: Times,
        row: _Row,
        carry: None,
        rng: Rng,
    ) -> tuple[State, None]:
        """Raise the noise, then take a trapezoidal step."""
        assert isinstance(denoiser, ScoreDenoiser)
        if row.back is not None and row.noise is not None:
            u = act(row.back, u) + act(row.noise, rng.normal(*u.shape[1:]).to(u))
        h = float(s) - row.t
        slope = denoiser.flow(u, row.t)
        return u + (h / 2) * (slope + denoiser.flow(u + h * slope, s)), None
