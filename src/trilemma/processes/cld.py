r"""Critically-damped Langevin diffusion: every datum is a particle in a heat bath.

The state is (position, velocity); noise enters the velocity alone and reaches the data through
the coupling of the two:

.. math:: dx = \beta M^{-1} v\,dt, \qquad
          dv = (-\beta x - \Gamma\beta M^{-1} v)\,dt + \sqrt{2\Gamma\beta}\,dw .

The stationary law is N(x; 0, I) N(v; 0, M I) for every friction. With B = int_s^t beta the drift
is B A, and A + (c/2) I =: n with c = Gamma / M has the square n^2 = omega^2 I,
omega^2 = (Gamma^2 / 4 - M) / M^2, so that

.. math:: \Psi = e^{-cB/2} \left(\cosh(\omega B)\,I + \frac{\sinh(\omega B)}{\omega}\,n\right) .

Friction Gamma^2 < 4 M oscillates (omega imaginary), Gamma^2 > 4 M creeps; at Gamma^2 = 4 M the
return to equilibrium is fastest, and this *critical* case is the default. There, with the clock
a = 2 B / sqrt(M) and P3(a) = 1 - e^{-a} (1 + a + a^2 / 2), the regularised incomplete gamma
function, the covariance gathered from s to t is a sum of terms that are never negative,

.. math:: Q_{xx} = P_3(a), \quad Q_{xv} = \tfrac{\sqrt M}{2} a^2 e^{-a}, \quad
          Q_{vv} = M\,(P_3(a) + 2 a e^{-a}),

hence accurate to the last digits for steps of any size. For other frictions the two variances are
integrals of squares, 2 Gamma int Psi_xv^2 and 2 Gamma int Psi_vv^2, done by Gauss-Legendre
quadrature on panels short enough for machine precision, and Q_xv = Gamma M Psi_xv^2.

The initial velocity is N(0, gamma M I). Hybrid score matching integrates it out: it is the
``initial_cov`` of this process.

Source: Dockhorn, Vahdat, Kreis: Score-based generative modeling with critically-damped Langevin
diffusion, 2022.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.processes.base import LinearSDE, Transition, as_times, check_range
from trilemma.typing import Blocks, Times

__all__ = ["CLD"]

PANEL = 8.0
"""Longest panel of the quadrature, in units of the fastest rate of the integrand."""


class CLD(LinearSDE):
    """Langevin diffusion of (position, velocity), critically damped unless a friction is given.

    Args:
        beta_min: time change beta at t = 0, >= 0; 0 only with beta_max > 0.
        beta_max: beta at t = 1, linear in between; None keeps it constant.
        mass: M, > 0; the stationary variance of the velocity.
        friction: Gamma, > 0; None is the critical 2 sqrt(M).
        init_velocity_scale: gamma, >= 0; the initial velocity has variance gamma M.
        init_position_var: variance around the datum at the start, >= 0, carried by the dynamics.
        jitter: variance added to position and velocity of every marginal, >= 0. It changes the
            model that is trained and exists for weights that were trained with it.

    Raises:
        ConfigError: for values outside their range, or not finite.
    """

    num_blocks: ClassVar[int] = 2

    def __init__(
        self,
        beta_min: float = 4.0,
        beta_max: float | None = None,
        *,
        mass: float = 0.25,
        friction: float | None = None,
        init_velocity_scale: float = 0.04,
        init_position_var: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        beta_max = beta_min if beta_max is None else beta_max
        check_range("beta_min", beta_min, 0.0)
        check_range("beta_max", beta_max, 0.0)
        if beta_min == beta_max == 0:
            raise ConfigError(f"beta_min={beta_min}, beta_max={beta_max}: one must be positive")
        if not 0 < mass < math.inf:
            raise ConfigError(f"mass={mass} must be positive and finite")
        friction = 2 * math.sqrt(mass) if friction is None else friction
        if not 0 < friction < math.inf:
            raise ConfigError(
                f"friction={friction} must be positive and finite; null is critical damping"
            )
        check_range("init_velocity_scale", init_velocity_scale, 0.0)
        check_range("init_position_var", init_position_var, 0.0)
        check_range("jitter", jitter, 0.0)
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)
        self.mass, self.friction = float(mass), float(friction)
        self.init_velocity_scale = float(init_velocity_scale)
        self.init_position_var, self.jitter = float(init_position_var), float(jitter)

    @property
    def is_critical(self) -> bool:
        """Whether friction^2 = 4 mass, to rounding."""
        return math.isclose(self.friction**2, 4 * self.mass, rel_tol=1e-14)

    def beta(self, t: Times | float) -> Times:
        """Time change beta(t), per unit time, float64."""
        return self.beta_min + (self.beta_max - self.beta_min) * as_times(t)

    def beta_integral(self, s: Times | float, t: Times | float) -> Times:
        """B(s, t), the integral of beta from s to t, without cancellation for nearby times."""
        s, t = as_times(s), as_times(t)
        return (t - s) * (self.beta_min + (self.beta_max - self.beta_min) * (t + s) / 2)

    def drift_matrix(self, t: Times) -> Blocks:
        """F(t) = beta [[0, 1 / M], [-1, -Gamma / M]]."""
        beta = self.beta(t)
        unit = [[0.0, 1 / self.mass], [-1.0, -self.friction / self.mass]]
        return beta[..., None, None] * beta.new_tensor(unit)

    def diffusion_matrix(self, t: Times) -> Blocks:
        """G(t) = diag(0, sqrt(2 Gamma beta))."""
        root = (2 * self.friction * self.beta(t)).sqrt()
        return root[..., None, None] * root.new_tensor([[0.0, 0.0], [0.0, 1.0]])

    def transition(self, s: Times | float, t: Times | float) -> Transition:
        """Closed form in the integral of beta, for any friction."""
        s, t = self._ordered(s, t)
        clock = self.beta_integral(s, t)
        psi = self._flow(clock)
        x_v = self.friction * self.mass * psi[..., 0, 1].square()
        x_x, v_v = self._critical(clock) if self.is_critical else self._integrated(clock)
        return Transition(psi, _matrix(x_x, x_v, x_v, v_v))

    def _flow(self, clock: Tensor) -> Blocks:
        """Psi after an integral of beta."""
        decay = self.friction / (2 * self.mass)
        square = (self.friction**2 / 4 - self.mass) / self.mass**2
        if self.is_critical:
            even = torch.exp(-decay * clock)
            odd = even * clock
        elif square < 0:
            omega, envelope = math.sqrt(-square), torch.exp(-decay * clock)
            even = envelope * torch.cos(omega * clock)
            odd = envelope * torch.sin(omega * clock) / omega
        else:
            omega = math.sqrt(square)
            slow = torch.exp((omega - decay) * clock)
            fast = torch.expm1(-2 * omega * clock)
            even, odd = slow * (1 + fast / 2), -slow * fast / (2 * omega)
        return _matrix(even + decay * odd, odd / self.mass, -odd, even - decay * odd)

    def _critical(self, clock: Tensor) -> tuple[Tensor, Tensor]:
        """Variances of position and velocity by the incomplete gamma function."""
        a = 2 * clock / math.sqrt(self.mass)
        x_x = torch.special.gammainc(torch.full_like(a, 3.0), a)
        return x_x, self.mass * (x_x + 2 * a * torch.exp(-a))

    def _integrated(self, clock: Tensor) -> tuple[Tensor, Tensor]:
        """Variances of position and velocity by quadrature of squares."""
        square = (self.friction**2 / 4 - self.mass) / self.mass**2
        rate = self.friction / self.mass + 2 * math.sqrt(abs(square))
        panels = (
            max(1, math.ceil(float(clock.detach().max()) * rate / PANEL)) if clock.numel() else 1
        )
        nodes, weights = np.polynomial.legendre.leggauss(32)
        node = (clock.new_tensor(nodes) + 1) / 2
        place = ((torch.arange(panels, device=clock.device)[:, None] + node) / panels).flatten()
        psi = self._flow(clock[..., None] * place)
        scale = clock.new_tensor(weights).repeat(panels) / (2 * panels)
        factor = 2 * self.friction * clock
        return (
            factor * (psi[..., 0, 1].square() * scale).sum(-1),
            factor * (psi[..., 1, 1].square() * scale).sum(-1),
        )

    def initial_cov(self) -> Blocks:
        """diag(init_position_var, gamma M)."""
        variances = [self.init_position_var, self.init_velocity_scale * self.mass]
        return torch.diag(torch.tensor(variances, dtype=torch.float64))

    def marginal(
        self,
        t: Times | float,
        origin: Times | float = 0.0,
        *,
        initial_cov: Blocks | None = None,
    ) -> Transition:
        """The perturbation kernel of positions and velocities given the datum, with the jitter."""
        kernel = super().marginal(t, origin, initial_cov=initial_cov)
        if not self.jitter:
            return kernel
        identity = torch.eye(2, dtype=kernel.cov.dtype, device=kernel.cov.device)
        return Transition(kernel.mean_matrix, kernel.cov + self.jitter * identity)

    def carried_cov(self, t: Times | float) -> Blocks:
        """The covariance with the jitter placed at the start and carried by the dynamics."""
        start = self.initial_cov() + self.jitter * torch.eye(2, dtype=torch.float64)
        return self._spread(self.transition(0.0, t), start).cov

    def prior_cov(self) -> Blocks:
        """diag(1, M)."""
        return torch.diag(torch.tensor([1.0, self.mass], dtype=torch.float64))

    def equilibrium_reversal(self, t: Times | float, s: Times | float) -> Transition:
        """The process itself with the sign of the velocity flipped."""
        psi, cov = self.transition(s, t)
        flip = psi.new_tensor([[1.0, -1.0], [-1.0, 1.0]])
        return Transition(psi * flip, cov * flip)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Blocks:
    """Blocks [[a, b], [c, d]]."""
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)
