r"""Ancestral sampling: draw clean data, then an earlier state from the posterior given both.

.. math:: u_s \sim q(u_s \mid u_t, \hat u_0), \qquad \hat u_0 \text{ from the denoiser.}

On a fine grid with the posterior mean as the denoiser this is DDPM (Ho et al., 2020, Alg. 2); on
the T-step grid of a denoising diffusion GAN, whose denoiser *draws* clean data, it is exact for a
perfect generator however large the steps are (Xiao et al., 2022, Eq. 7).

Where clean data are estimated, the posterior leaves out their own spread: it is right for a single
datum. With the covariance of the step *forward* from s to t in its place, DDPM's other choice, a
fine grid is right for data that are the prior of VP (Ho et al., 2020, Sec. 3.2).
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.processes import Transition, act
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler, need_score
from trilemma.typing import State, Times

__all__ = ["Ancestral"]


class _Row(NamedTuple):
    on_data: Tensor
    on_state: Tensor
    noise: Tensor | None


class Ancestral(Sampler):
    """Posterior sampling on a grid; a step that ends where clean data live adds no noise.

    Args:
        variance: noise of a step: "posterior", of u_s given u_t and clean data, or "forward", of
            u_t given u_s. The latter is for estimates of clean data, which leave out their spread.

    Raises:
        ConfigError: for another variance.
    """

    uses_score: ClassVar[bool] = False

    def __init__(self, *, variance: Literal["posterior", "forward"] = "posterior") -> None:
        if variance not in ("posterior", "forward"):
            raise ConfigError(f"variance={variance!r} must be 'posterior' or 'forward'")
        self.variance = variance

    def check(self, denoiser: Denoiser) -> None:
        """Every denoiser that estimates clean data will do, or that draws them from a posterior."""
        if isinstance(denoiser, ScoreDenoiser):
            need_score(self, denoiser, full=True)
        elif self.variance == "forward":
            raise ConfigError(
                "variance='forward' is for estimates of clean data, and a denoising diffusion GAN "
                "draws them: use the ancestral sampler with variance='posterior'"
            )

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """Posterior of each step."""
        posterior = denoiser.process.posterior(grid[:-1], grid[1:], denoiser.origin)
        factor = Transition(posterior.on_later, posterior.cov).chol()
        if self.variance == "forward":
            step = denoiser.process.transition(grid[1:], grid[:-1]).chol()
            is_last = grid[1:, None, None] <= denoiser.origin
            factor = torch.where(is_last, torch.zeros_like(step), step)
        return [
            _Row(on_data, on_state, noise if bool(noise.any()) else None)
            for on_data, on_state, noise in zip(
                posterior.on_origin, posterior.on_later, factor, strict=True
            )
        ]

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
        """Draw u_s from q(u_s | u_t, u_0) with u_0 from the denoiser."""
        u_s = act(row.on_data, denoiser.x0(u, t, rng)) + act(row.on_state, u)
        if row.noise is not None:
            u_s = u_s + act(row.noise, rng.normal(*u.shape[1:]).to(u))
        return u_s, None
