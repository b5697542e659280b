r"""Variance-preserving diffusion with a linear noise rate.

.. math:: du = -\tfrac12\beta(t)\,u\,dt + \sqrt{\beta(t)}\,dw, \qquad
          \beta(t) = \beta_{min} + (\beta_{max} - \beta_{min})\,t .

With B = int_s^t beta, the transition is u_t | u_s ~ N(e^{-B/2} u_s, (1 - e^{-B}) I): data of unit
variance keep it at all times. On a coarse grid this is the forward chain of denoising diffusion
GANs; on a fine one it is DDPM.
"""

import math

import torch

from trilemma.errors import ConfigError
from trilemma.processes.base import LinearSDE, Transition, as_times, check_range
from trilemma.typing import Blocks, Times

__all__ = ["VP"]


class VP(LinearSDE):
    """Variance-preserving process with linear beta (Song et al., 2021, Eq. 11).

    Args:
        beta_min: noise rate at t = 0, per unit time, >= 0.
        beta_max: noise rate at t = 1, per unit time, >= beta_min, > 0 and finite.
        init_var: variance around the datum at the start, in [0, 1).

    Raises:
        ConfigError: for values outside their range.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, *, init_var: float = 0.0
    ) -> None:
        check_range("beta_min", beta_min, 0.0)
        if not (beta_min <= beta_max and 0 < beta_max < math.inf):
            raise ConfigError(
                f"beta_max={beta_max} must be positive, finite and >= beta_min={beta_min}"
            )
        if not 0 <= init_var < 1:
            raise ConfigError(f"init_var={init_var} is outside its range [0, 1)")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)
        self.init_var = float(init_var)

    def beta(self, t: Times | float) -> Times:
        """Noise rate beta(t), per unit time, float64."""
        return self.beta_min + (self.beta_max - self.beta_min) * as_times(t)

    def beta_integral(self, s: Times | float, t: Times | float) -> Times:
        """B(s, t), the integral of beta from s to t, without cancellation for nearby times."""
        s, t = as_times(s), as_times(t)
        return (t - s) * (self.beta_min + (self.beta_max - self.beta_min) * (t + s) / 2)

    def drift_matrix(self, t: Times) -> Blocks:
        """F(t) = -beta(t) / 2."""
        return (-self.beta(t) / 2)[..., None, None]

    def diffusion_matrix(self, t: Times) -> Blocks:
        """G(t) = sqrt(beta(t))."""
        return self.beta(t).sqrt()[..., None, None]

    def transition(self, s: Times | float, t: Times | float) -> Transition:
        """Closed form: mean e^{-B/2}, covariance 1 - e^{-B}, exact for small B through expm1."""
        s, t = self._ordered(s, t)
        integral = self.beta_integral(s, t)[..., None, None]
        return Transition(torch.exp(-integral / 2), -torch.expm1(-integral))

    def initial_cov(self) -> Blocks:
        """The starting variance ``init_var``."""
        return torch.full((1, 1), self.init_var, dtype=torch.float64)

    def equilibrium_reversal(self, t: Times | float, s: Times | float) -> Transition:
        """The process itself: at equilibrium it is reversible."""
        return self.transition(s, t)
