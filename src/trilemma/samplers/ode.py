"""The probability flow by a library of solvers, adaptive or on the grid.

An adaptive solver chooses its own steps from an error estimate over the whole batch, so its number
of network calls depends on the batch, and a sample on its batch to within the tolerance. Fixed
methods step on the grid.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchdiffeq import odeint

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError, NumericalError, nearest
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler
from trilemma.typing import State, Times

__all__ = ["ODE"]

ADAPTIVE = {"dopri5": 5, "dopri8": 8, "bosh3": 3, "adaptive_heun": 2}
FIXED = {"euler": 1, "midpoint": 2, "rk4": 4}
"""Solvers with their order; a fixed one calls the network as often per step."""
Solver = Literal["dopri5", "dopri8", "bosh3", "adaptive_heun", "euler", "midpoint", "rk4"]


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

        ends = torch.stack([t, s]).to(u.device)
        tolerances: dict[str, Any] = {}
        if self.solver in ADAPTIVE:
            # Steps must end at s: beyond it there is no process to evaluate.
            tolerances = {"rtol": self.rtol, "atol": self.atol, "options": {"step_t": ends[1:]}}
        try:
            return odeint(slope, u, ends, method=self.solver, **tolerances)[-1], None
        except AssertionError as error:
            raise NumericalError(
                f"the solver {self.solver} gave up between t={float(t):.4g} and {float(s):.4g}: "
                f"{error}; loosen rtol={self.rtol} and atol={self.atol}"
            ) from error
