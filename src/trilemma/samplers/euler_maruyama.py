r"""Euler-Maruyama on the reverse SDE, and the same with Langevin corrections.

.. math:: u_s = u_t + h\,(-F u_t + G G^\top \nabla\log p_t(u_t)) + \sqrt h\, G z, \qquad h = t - s .

The corrector leaves p_s alone while it mixes: with the covariance Sigma = L L^T of the
perturbation as its metric, a step of size delta reads

.. math:: u \leftarrow u + \delta\,\Sigma\,\nabla\log p_s(u) + \sqrt{2\delta}\,L z,
          \qquad \delta = 2\,\text{snr}^2 .

This is the step of Song et al. (2021, Alg. 4 and 5) with the norms of noise and score replaced by
what they are in expectation, so that a sample does not depend on its batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.processes import act
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler, need_score
from trilemma.typing import State, Times

__all__ = ["EulerMaruyama", "PredictorCorrector"]


class _Row(NamedTuple):
    on_state: Tensor
    on_score: Tensor
    noise: Tensor


class EulerMaruyama(Sampler):
    """First-order steps of the reverse SDE, on any process."""

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """I - h F, h G G^T and sqrt(h) G at the start of each step."""
        t, h = grid[:-1], (grid[:-1] - grid[1:])[:, None, None]
        drift, diffusion = denoiser.process.drift_matrix(t), denoiser.process.diffusion_matrix(t)
        identity = torch.eye(denoiser.process.num_blocks, dtype=torch.float64)
        parts = (identity - h * drift, h * diffusion @ diffusion.mT, h.sqrt() * diffusion)
        return [_Row(*row) for row in zip(*parts, strict=True)]

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
        """One step of the formula."""
        assert isinstance(denoiser, ScoreDenoiser)
        z = rng.normal(*u.shape[1:]).to(u)
        mean = act(row.on_state, u) + act(row.on_score, denoiser.score(u, t))
        return mean + act(row.noise, z), None


class _CorrectedRow(NamedTuple):
    predictor: _Row
    cov: Tensor
    chol: Tensor


class PredictorCorrector(Sampler):
    """An Euler-Maruyama step followed by Langevin steps at the new time.

    The corrections mix at a rate of their own, so their error does not vanish with the step.

    Args:
        num_corrections: Langevin steps per step, >= 1.
        snr: signal-to-noise ratio of a correction, > 0.

    Raises:
        ConfigError: for values outside their range.
    """

    def __init__(self, *, num_corrections: int = 1, snr: float = 0.16) -> None:
        if num_corrections < 1 or not snr > 0:
            raise ConfigError(f"num_corrections={num_corrections} must be >= 1 and snr={snr} > 0")
        self.num_corrections, self.snr = num_corrections, float(snr)
        self.predictor, self.evals_per_step = EulerMaruyama(), 1 + num_corrections
        self.order = 0  # the corrections' own error stays

    def check(self, denoiser: Denoiser) -> None:
        """The correction moves every block, so it needs every block's score."""
        need_score(self, denoiser, full=True)

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_CorrectedRow]:
        """The predictor's plan, and the metric of the corrections."""
        kernel = denoiser.process.marginal(grid[1:])
        parts = (self.predictor.plan(denoiser, grid), kernel.cov, kernel.chol())
        return [_CorrectedRow(*row) for row in zip(*parts, strict=True)]

    def advance(
        self,
        denoiser: Denoiser,
        u: State,
        t: Times,
        s: Times,
        row: _CorrectedRow,
        carry: None,
        rng: Rng,
    ) -> tuple[State, None]:
        """Predict, then correct."""
        assert isinstance(denoiser, ScoreDenoiser)
        u, _ = self.predictor.advance(denoiser, u, t, s, row.predictor, None, rng)
        delta = 2 * self.snr**2
        for _ in range(self.num_corrections):
            z = rng.normal(*u.shape[1:]).to(u)
            drift = act(row.cov, denoiser.score(u, s))
            u = u + delta * drift + (2 * delta) ** 0.5 * act(row.chol, z)
        return u, None
