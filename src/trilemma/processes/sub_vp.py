r"""Sub-variance-preserving diffusion: the drift of VP, and less noise.

.. math:: du = -\tfrac12\beta\,u\,dt + \sqrt{\beta\,(1 - e^{-2B(0, t)})}\,dw .

With B_s = int_0^s beta the variance gathered from s to t factorises,
Q = (1 - e^{-(B_t - B_s)}) (1 - e^{-(B_t + B_s)}), which is (1 - e^{-B_t})^2 from the start: always
below the variance of VP, with the same prior. A variance Sigma_0 at the start fades as the data do:
Sigma_t = (1 - e^{-B_t})^2 + Sigma_0 e^{-B_t} (Vahdat et al., 2021, App. B).
"""

import torch

from trilemma.processes.base import LinearSDE, Transition
from trilemma.processes.vp import VP
from trilemma.typing import Blocks, Times

__all__ = ["SubVP"]


class SubVP(VP):
    """Sub-variance-preserving process with linear beta (Song et al., 2021, Eq. 12).

    Args:
        beta_min: noise rate at t = 0, per unit time, >= 0.
        beta_max: noise rate at t = 1, per unit time, >= beta_min, > 0 and finite.
        init_var: variance around the datum at the start, in [0, 1).

    Raises:
        ConfigError: for values outside their range.
    """

    def diffusion_matrix(self, t: Times) -> Blocks:
        """G(t) = sqrt(beta (1 - e^{-2 B(0, t)}))."""
        damping = -torch.expm1(-2 * self.beta_integral(0.0, t))
        return (self.beta(t) * damping).sqrt()[..., None, None]

    def transition(self, s: Times | float, t: Times | float) -> Transition:
        """Closed form, both factors through expm1."""
        s, t = self._ordered(s, t)
        between = self.beta_integral(s, t)[..., None, None]
        total = (self.beta_integral(0.0, t) + self.beta_integral(0.0, s))[..., None, None]
        cov = torch.expm1(-between) * torch.expm1(-total)
        return Transition(torch.exp(-between / 2), cov)

    def equilibrium_reversal(self, t: Times | float, s: Times | float) -> Transition:
        """By integration: the prior is not stationary here."""
        return LinearSDE.equilibrium_reversal(self, t, s)
