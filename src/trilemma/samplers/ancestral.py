r"""Ancestral sampling: draw clean data, then an earlier state from the posterior given both.

.. math:: u_s \sim q(u_s \mid u_t, \hat u_0), \qquad \hat u_0 \text{ from the denoiser.}

On a fine grid with the posterior mean as the denoiser this is DDPM (Ho et al., 2020, Alg. 2); on
the T-step grid of a denoising diffusion GAN, whose denoiser *draws* clean data, it is exact for a
perfect generator however large the steps are (Xiao et al., 2022, Eq. 7).
"""

from __future__ import annotations

from typing import ClassVar

from trilemma.denoiser import Denoiser
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler
from trilemma.typing import State, Times

__all__ = ["Ancestral"]


class Ancestral(Sampler):
    """Posterior sampling on a grid; the last step adds no noise.

    Args:
        t_min: time at which clean data live, the end of the grid.
    """

    evals_per_step: ClassVar[int] = 1

    def __init__(self, t_min: float = 1e-3) -> None:
        self.t_min = t_min

    def step(
        self, denoiser: Denoiser, u: State, t: Times, s: Times, carry: None, rng: Rng
    ) -> tuple[State, None]:
        """Draw u_s from q(u_s | u_t, u_0) with u_0 from the denoiser."""
        u_0 = denoiser.x0(u, t, rng)
        posterior = denoiser.process.posterior(t, s, self.t_min)
        if not posterior.cov.any():
            return posterior.mean(u_0, u), None
        eps = rng.normal(*u.shape[1:]).to(u)
        return posterior.sample(u_0, u, eps), None
