r"""Ancestral sampling: draw clean data, then an earlier state from the posterior given both.

.. math:: u_s \sim q(u_s \mid u_t, \hat u_0), \qquad \hat u_0 \text{ from the denoiser.}

On a fine grid with the posterior mean as the denoiser this is DDPM (Ho et al., 2020, Alg. 2); on
the T-step grid of a denoising diffusion GAN, whose denoiser *draws* clean data, it is exact for a
perfect generator however large the steps are (Xiao et al., 2022, Eq. 7).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
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
    """Posterior sampling on a grid; a step that ends where clean data live adds no noise."""

    uses_score: ClassVar[bool] = False

    def check(self, denoiser: Denoiser) -> None:
        """Every denoiser that estimates or draws clean data will do."""
        if isinstance(denoiser, ScoreDenoiser):
            need_score(self, denoiser, full=True)

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """Posterior of each step."""
        posterior = denoiser.process.posterior(grid[:-1], grid[1:], denoiser.origin)
        factor = Transition(posterior.on_later, posterior.cov).chol()
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
