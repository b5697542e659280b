"""The probability flow by a library of solvers, adaptive or on the grid.

An adaptive solver chooses its own steps from an error estimate over the whole batch, so its number
of network calls depends on the batch, and a sample on its batch to within the tolerance. Fixed
methods step on the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError, nearest
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler
from trilemma.solver import ADAPTIVE, FIXED, Solver, solve
from trilemma.typing import State, Times

__all__ = ["ODE"]


class ODE(Sampler):
    """Probability flow solved by torchdiffeq.

    Args:
        solver: "dopri5" (Runge-Kutta 4(5)), "dopri8", "bosh3", "adaptive_heun", which are
            adaptive, or "euler", "midpoint", "rk4", which step on the grid.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.

    Raises:
        ConfigError: for an unknown solver or a tolerance that is not positive.
    """

    def __init__(
        self, *, solver: Solver = "dopri5", rtol: float = 1e-5, atol: float = 1e-5
    ) -> None:
        if solver not in (*ADAPTIVE, *FIXED):
            raise ConfigError(f"solver={solver!r} is unknown; {nearest(solver, Solver.__args__)}")  # type: ignore[attr-defined]
        if not (rtol > 0 and atol > 0):
            raise ConfigError(f"rtol={rtol} and atol={atol} must be positive")
        self.solver, self.rtol, self.atol = solver, rtol, atol
        self.order = (ADAPTIVE | FIXED)[solver]
        self.evals_per_step = FIXED.get(solver, 1)

    def thin(self, grid: Times) -> Times:
        """Only the ends of the grid for an adaptive solver."""
        return grid if self.solver in FIXED else grid[[0, -1]]

    def advance(
        self,
        denoiser: Denoiser,
        u: State,
        t: Times,
        s: Times,
        row: None,
        carry: None,
        rng: Rng,
    ) -> tuple[State, None]:
        """Integrate from t to s."""
        assert isinstance(denoiser, ScoreDenoiser)

        def slope(time: Tensor, state: Tensor) -> Tensor:
            # To choose its first step, an adaptive solver may look far outside the interval.
            return denoiser.flow(state, min(max(float(time), float(s)), float(t)))

        ends = torch.stack([t, s]).to(u.device, non_blocking=True)
        path = solve(slope, u, ends, solver=self.solver, rtol=self.rtol, atol=self.atol)
        return path[-1], None
