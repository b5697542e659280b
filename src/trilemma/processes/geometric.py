r"""Variance preservation with a geometric variance, the process of latent score-based models.

The variance itself is prescribed, and beta follows from it:

.. math:: \Sigma_t = q_t - q_0 + \Sigma_0, \quad q_t = \sigma^2_{min}
          \left(\sigma^2_{max} / \sigma^2_{min}\right)^t, \qquad
          \beta = \frac{d\log(1 - \Sigma_t)^{-1}}{dt} = \frac{\dot q}{1 - \Sigma_t} .

The signal is sqrt((1 - Sigma_t) / (1 - Sigma_0)), so data of unit variance keep it. A geometric
variance spends equal time on every scale of noise (Vahdat et al., 2021, App. B).
"""

import math

import torch

from trilemma.errors import ConfigError
from trilemma.processes.base import LinearSDE, Transition, as_times
from trilemma.typing import Blocks, Times

__all__ = ["GeometricVP"]


class GeometricVP(LinearSDE):
    """Variance-preserving process whose variance grows geometrically (Vahdat et al., 2021).

    Args:
        var_min: q at t = 0, > 0.
        var_max: q at t = 1, in (var_min, 1).
        init_var: variance around the datum at the start, >= 0 with final variance below 1.

    Raises:
        ConfigError: for variances outside their range.
    """

    def __init__(
        self, var_min: float = 3e-5, var_max: float = 0.999, *, init_var: float = 3e-5
    ) -> None:
        if not 0 < var_min < var_max < 1:
            raise ConfigError(f"0 < var_min={var_min} < var_max={var_max} < 1 is needed")
        if not (init_var >= 0 and var_max - var_min + init_var < 1):
            raise ConfigError(
                f"init_var={init_var} must be >= 0 and leave var_max - var_min + init_var below 1"
            )
        self.var_min, self.var_max = float(var_min), float(var_max)
        self.init_var = float(init_var)

    @property
    def _rate(self) -> float:
        return math.log(self.var_max / self.var_min)

    def variance(self, t: Times | float) -> Times:
        """Sigma_t around the datum, float64."""
        return self.init_var + self.var_min * torch.expm1(as_times(t) * self._rate)

    def beta(self, t: Times | float) -> Times:
        """Noise rate beta(t), per unit time, float64."""
        t = as_times(t)
        return self.var_min * self._rate * torch.exp(t * self._rate) / (1 - self.variance(t))

    def drift_matrix(self, t: Times) -> Blocks:
        """F(t) = -beta(t) / 2."""
        return (-self.beta(t) / 2)[..., None, None]

    def diffusion_matrix(self, t: Times) -> Blocks:
        """G(t) = sqrt(beta(t))."""
        return self.beta(t).sqrt()[..., None, None]

    def transition(self, s: Times | float, t: Times | float) -> Transition:
        """Closed form: covariance (Sigma_t - Sigma_s) / (1 - Sigma_s), without cancellation."""
        s, t = self._ordered(s, t)
        grown = self.var_min * torch.exp(s * self._rate) * torch.expm1((t - s) * self._rate)
        cov = (grown / (1 - self.variance(s)))[..., None, None]
        return Transition((1 - cov).sqrt(), cov)

    def initial_cov(self) -> Blocks:
        """The starting variance ``init_var``."""
        return torch.full((1, 1), self.init_var, dtype=torch.float64)

    def equilibrium_reversal(self, t: Times | float, s: Times | float) -> Transition:
        """The process itself: at equilibrium it is reversible."""
        return self.transition(s, t)
