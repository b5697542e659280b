r"""Variance-exploding diffusion: data plus noise of growing size.

.. math:: du = \sqrt{d\sigma^2/dt}\;dw, \qquad
          u_t \mid u_s \sim \mathcal N(u_s,\; \sigma_t^2 - \sigma_s^2) .

Two clocks: ``"geometric"``, sigma = sigma_min (sigma_max / sigma_min)^t, starts at the variance
sigma_min^2 (Song et al., 2021, Eq. 30); ``"linear"``, sigma = sigma_max t, is the process of
Karras et al. (2022), where time is noise level, in units of sigma_max.
"""

import math
from typing import Literal

import torch

from trilemma.errors import ConfigError, nearest
from trilemma.processes.base import EARLIEST, LinearSDE, Transition, as_times, check_range
from trilemma.typing import Blocks, Times

__all__ = ["VE"]

Clock = Literal["geometric", "linear"]


class VE(LinearSDE):
    """Variance-exploding process.

    Args:
        sigma_min: noise at t = 0 of the geometric clock, > 0; the linear clock starts at 0.
        sigma_max: noise at t = 1, in units of the data, > sigma_min and at most 1e6.
        clock: "geometric" or "linear".

    Raises:
        ConfigError: for values outside their range.
    """

    def __init__(
        self, sigma_min: float = 0.01, sigma_max: float = 50.0, *, clock: Clock = "geometric"
    ) -> None:
        if clock not in ("geometric", "linear"):
            raise ConfigError(f"clock={clock!r} is unknown; {nearest(clock, Clock.__args__)}")  # type: ignore[attr-defined]
        if not 0 < sigma_min < sigma_max:
            raise ConfigError(f"0 < sigma_min={sigma_min} < sigma_max={sigma_max} is needed")
        check_range("sigma_max", sigma_max, 0.0, 1e6)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.clock = clock

    def sigma(self, t: Times | float) -> Times:
        """Noise level sigma(t), float64, in units of the data."""
        if self.clock == "linear":
            return self.sigma_max * as_times(t)
        return self.sigma_min * torch.exp(as_times(t) * math.log(self.sigma_max / self.sigma_min))

    def drift_matrix(self, t: Times) -> Blocks:
        """F(t) = 0."""
        return torch.zeros_like(as_times(t))[..., None, None]

    def diffusion_matrix(self, t: Times) -> Blocks:
        """G(t) = sqrt(d sigma^2 / dt)."""
        sigma = self.sigma(t)
        if self.clock == "linear":
            return (2 * self.sigma_max * sigma).sqrt()[..., None, None]
        return sigma[..., None, None] * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def transition(self, s: Times | float, t: Times | float) -> Transition:
        """Closed form: mean 1, covariance sigma_t^2 - sigma_s^2 without cancellation."""
        s, t = self._ordered(s, t)
        if self.clock == "linear":
            cov = self.sigma_max**2 * (t - s) * (t + s)
        else:
            growth = 2 * (t - s) * math.log(self.sigma_max / self.sigma_min)
            cov = self.sigma(s).square() * torch.expm1(growth)
        return Transition(torch.ones_like(cov)[..., None, None], cov[..., None, None])

    def time_of_log_snr(self, log_snr: Times | float) -> Times:
        """Closed form: the noise level is exp(-log_snr / 2)."""
        log_sigma = -torch.as_tensor(log_snr, dtype=torch.float64) / 2
        if self.clock == "linear":
            return (log_sigma.exp() / self.sigma_max).clamp(EARLIEST, 1.0)
        growth = math.log(self.sigma_max / self.sigma_min)
        return ((log_sigma - math.log(self.sigma_min)) / growth).clamp(EARLIEST, 1.0)

    def initial_cov(self) -> Blocks:
        """sigma(0)^2, zero on the linear clock."""
        return self.sigma(0.0).square().reshape(1, 1)

    def prior_cov(self) -> Blocks:
        """sigma_max^2."""
        return torch.full((1, 1), self.sigma_max**2, dtype=torch.float64)
