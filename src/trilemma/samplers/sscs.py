r"""The symmetric splitting sampler, for any linear process with a Gaussian prior N(0, P).

The reverse SDE is split into what it would be if the data already were the prior, and the rest:

.. math:: \text{A}: \; du = (-F - G G^\top P^{-1})\,u\,d\tau + G\,dw, \qquad
          \text{S}: \; du = G G^\top (\nabla\log p_t(u) + P^{-1} u)\,d\tau .

A is linear and solved exactly, noise included (``LinearSDE.equilibrium_reversal``); S needs the
network and takes an Euler step. One step of length h is A over h/2, S over h, A over h/2, with one
network call. For Langevin diffusion A is the forward process with the velocity's sign flipped
(Dockhorn et al., 2022, Alg. 1); for VP it is the forward process itself.

The published algorithm evaluates the score at the time where the step starts. The authors' code
also starts the clock of *both* half-steps there, which is wrong where beta varies; here the second
half-step continues from the middle, unless ``reference_clock`` asks for theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.processes import act
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler
from trilemma.typing import State, Times

__all__ = ["SSCS"]


class _Row(NamedTuple):
    first: Tensor
    first_noise: Tensor
    on_state: Tensor
    on_score: Tensor
    second: Tensor
    second_noise: Tensor


class SSCS(Sampler):
    """Symmetric splitting: exact Langevin half-steps around one step along the score.

    Args:
        reference_clock: both half-steps start their clock at the step's start, as in the authors'
            code; the same where beta is constant.
    """

    def __init__(self, *, reference_clock: bool = False) -> None:
        self.reference_clock = reference_clock

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """Kernels of both half-steps, and the matrices of the step between them."""
        process, t, s = denoiser.process, grid[:-1], grid[1:]
        h, middle = (t - s)[:, None, None], (t + s) / 2
        first = process.equilibrium_reversal(t, middle)
        second = first if self.reference_clock else process.equilibrium_reversal(middle, s)
        diffusion = process.diffusion_matrix(t)
        on_score = h * diffusion @ diffusion.mT
        on_state = on_score @ torch.linalg.inv(process.prior_cov())
        parts = (
            first.mean_matrix,
            first.chol(),
            on_state,
            on_score,
            second.mean_matrix,
            second.chol(),
        )
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
        """Half a step of A, a step of S, half a step of A."""
        assert isinstance(denoiser, ScoreDenoiser)
        u = act(row.first, u) + act(row.first_noise, rng.normal(*u.shape[1:]).to(u))
        u = u + act(row.on_state, u) + act(row.on_score, denoiser.score(u, t))
        return act(row.second, u) + act(row.second_noise, rng.normal(*u.shape[1:]).to(u)), None
