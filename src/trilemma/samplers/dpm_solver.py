r"""DPM-Solver++ in its multistep form, and its SDE version, for processes of one block.

With half the log signal-to-noise ratio as the clock, lambda = ln(alpha / sigma), the flow is linear
in the state and exactly integrable but for the clean data, which are extrapolated from the last
two calls. With h the increase of lambda over a step and D the extrapolation,

.. math:: u_s = \frac{\sigma_s}{\sigma_t} u_t + \alpha_s (1 - e^{-h}) D \quad\text{(ODE)}, \qquad
          u_s = \frac{\sigma_s}{\sigma_t} e^{-h} u_t + \alpha_s (1 - e^{-2h}) D
                + \sigma_s \sqrt{1 - e^{-2h}}\; z \quad\text{(SDE)} .

Source: Lu et al.: DPM-Solver++, 2022, Alg. 2 and appendix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser
from trilemma.processes import act
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler, need_score
from trilemma.typing import State, Times

__all__ = ["DPMSolver"]


class _Row(NamedTuple):
    on_state: Tensor
    on_data: Tensor
    on_previous: Tensor | None
    noise: Tensor | None


class DPMSolver(Sampler):
    """Second-order multistep solver in the clean data.

    Args:
        stochastic: solve the reverse SDE instead of the flow.
        lower_order_final: take the last step at first order, steadier on coarse grids.
    """

    order = 2

    def __init__(self, *, stochastic: bool = False, lower_order_final: bool = False) -> None:
        self.stochastic, self.lower_order_final = stochastic, lower_order_final

    def check(self, denoiser: Denoiser) -> None:
        """Its clock is the noise level."""
        need_score(self, denoiser, one_block="its clock is the noise level; use gddim")

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """Coefficients of state, newest and previous clean data, and noise."""
        kernel = denoiser.process.marginal(grid)
        alpha, sigma = kernel.mean_matrix, kernel.chol()
        clock = (alpha / sigma).log().flatten()
        h = clock.diff()
        decay = torch.exp(-h) if self.stochastic else torch.ones_like(h)
        gain = -torch.expm1(-h) if not self.stochastic else -torch.expm1(-2 * h)
        on_state = sigma[1:] / sigma[:-1] * decay[:, None, None]
        on_data = alpha[1:] * gain[:, None, None]
        rows = []
        for n in range(len(h)):
            data, previous = on_data[n], None
            is_last = self.lower_order_final and n == len(h) - 1
            if n > 0 and not is_last:
                weight = h[n] / h[n - 1] / 2
                data, previous = on_data[n] * (1 + weight), -on_data[n] * weight
            noise = sigma[n + 1] * (-torch.expm1(-2 * h[n])).sqrt() if self.stochastic else None
            rows.append(_Row(on_state[n], data, previous, noise))
        return rows

    def advance(
        self,
        denoiser: Denoiser,
        u: State,
        t: Times,
        s: Times,
        row: _Row,
        carry: State | None,
        rng: Rng,
    ) -> tuple[State, State]:
        """One step; the carry is the previous prediction of clean data."""
        data = denoiser.x0(u, t, rng)
        moved = act(row.on_state, u) + act(row.on_data, data)
        if row.on_previous is not None:
            assert carry is not None
            moved = moved + act(row.on_previous, carry)
        if row.noise is not None:
            moved = moved + act(row.noise, rng.normal(*u.shape[1:]).to(u))
        return moved, data
