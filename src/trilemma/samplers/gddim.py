r"""Generalised DDIM: exact steps for Gaussian data, on processes of one or two blocks.

For data without spread the noise of a state is constant along the probability flow,
u_t = Psi(t, 0) u_0 + R_t eps, if the factor R of the covariance follows the flow itself,

.. math:: \dot R = (F + \tfrac12 G G^\top \Sigma^{-1})\,R, \qquad R R^\top = \Sigma .

With one block R = sigma and this is DDIM. With two, R is the Cholesky factor turned by an angle,

.. math:: R = L \begin{pmatrix}\cos\phi & \sin\phi\\ -\sin\phi & \cos\phi\end{pmatrix}, \qquad
          \dot\phi = \left(L^{-1} F L + \tfrac12 L^{-1} G G^\top L^{-\top}\right)_{01},

which for Langevin diffusion is beta L_vv / (M L_xx): about two full turns, the reason why solvers
that extrapolate the Cholesky noise need hundreds of steps. The noise in this frame,
eps = -R^T grad log p, is extrapolated by the polynomial through the last q calls:

.. math:: u_s = \Psi(s, t)\,u_t + \sum_j C_j\,\epsilon_j, \qquad
          C_j = \int_t^s \tfrac12 \Psi(s, r)\, G G^\top R_r^{-\top}\, \ell_j(r)\, dr ,

in closed form R_s - Psi(s, t) R_t for q = 1 and by Gauss-Legendre quadrature otherwise.

With noise, lambda > 0, the marginals are kept: u_s has the mean
Psi u_t + (Psi^ - Psi) R_t eps and the covariance Sigma_s - Psi^ Sigma_t Psi^^T, where Psi^ obeys
dPsi^/dt = (F + (1 + lambda^2)/2 G G^T Sigma^-1) Psi^.

Source: Zhang, Tao, Chen: gDDIM, 2023. The angle, and the recovery of the full score from a network
that predicts the velocity's noise alone (``trilemma.parametrisation.VelocityNoise``), are ours.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.processes import LinearSDE, act
from trilemma.processes.base import cholesky
from trilemma.rng import Rng
from trilemma.samplers.base import Sampler, need_score
from trilemma.typing import Blocks, State, Times

__all__ = ["GDDIM", "rotated_factor", "rotation_angle"]

EARLIEST = 1e-14
"""Where the integral of the angle starts; its integrand is at most like 1 / t."""


@cache
def _legendre(num: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def _angular_speed(process: LinearSDE, t: Times) -> Times:
    """d phi / dt of a process of two blocks."""
    chol = cholesky(process.carried_cov(t))
    diffusion = process.diffusion_matrix(t)
    inverse = torch.linalg.inv(chol)
    noise = inverse @ diffusion
    return (inverse @ process.drift_matrix(t) @ chol + noise @ noise.mT / 2)[..., 0, 1]


def rotation_angle(process: LinearSDE, t: Times) -> Times:
    """Angle phi(t), radians, float64, of a process of two blocks, for times t > 0 of any shape.

    Gauss-Legendre quadrature in ln t, from the far past to the first time and on from each time to
    the next.
    """
    flat, order = t.reshape(-1).sort()
    nodes, weights = _legendre(16)

    def integrate(edges: Tensor) -> Tensor:
        """Angles gained between neighbouring edges, logarithms of times."""
        width = edges.diff()[:, None]
        times = torch.exp(edges[:-1, None] + width * nodes)
        return (_angular_speed(process, times) * times * width * weights).sum(-1)

    earliest, logs = math.log(EARLIEST), flat.log()
    start = torch.linspace(earliest, float(logs[0]), 65, dtype=torch.float64)
    head = _angular_speed(process, start[:1].exp()) * EARLIEST
    gained = [head + integrate(start).sum()]
    if len(flat) > 1:
        panels = max(1, math.ceil(float(logs.diff().max()) / 0.25))
        place = torch.arange(panels, dtype=torch.float64) / panels
        inner = (logs[:-1, None] + logs.diff()[:, None] * place).flatten()
        fine = integrate(torch.cat([inner, logs[-1:]]))
        gained.append(fine.reshape(-1, panels).sum(-1))
    angle = torch.empty_like(flat)
    angle[order] = torch.cat(gained).cumsum(0)
    return angle.reshape(t.shape)


def rotated_factor(process: LinearSDE, t: Times) -> Blocks:
    """R_t with R R^T = Sigma_t, along which the noise of Gaussian data is constant, (..., k, k)."""
    chol = cholesky(process.carried_cov(t))
    if process.num_blocks == 1:
        return chol
    angle = rotation_angle(process, t)
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    return chol @ rotation


class _Tilted(LinearSDE):
    """The linear flow F + (1 + lambda^2)/2 G G^T Sigma^-1, backwards on the clock 1 - t."""

    def __init__(self, process: LinearSDE, stochasticity: float) -> None:
        self.process, self.tilt = process, (1 + stochasticity**2) / 2
        self.num_blocks = process.num_blocks  # type: ignore[misc]

    def drift_matrix(self, t: Times) -> Blocks:
        diffusion = self.process.diffusion_matrix(1 - t)
        precision = torch.linalg.inv(self.process.carried_cov(1 - t))
        noise = diffusion @ diffusion.mT @ precision
        return -self.process.drift_matrix(1 - t) - self.tilt * noise

    def diffusion_matrix(self, t: Times) -> Blocks:
        return torch.zeros_like(self.process.diffusion_matrix(1 - t))


class _Quadrature(NamedTuple):
    """Nodes (steps, nodes) and the weighted integrand (steps, nodes, k, k) without polynomials."""

    times: Tensor
    integrand: Tensor

    def coefficients(self, grid: Times, n: int, count: int) -> list[Blocks]:
        """C_j of step n for the last ``count`` times, newest first."""
        past = grid[n - count + 1 : n + 1].flip(0)
        found = []
        for j in range(count):
            others = torch.cat([past[:j], past[j + 1 :]])
            lagrange = ((self.times[n][:, None] - others) / (past[j] - others)).prod(-1)
            found.append((self.integrand[n] * lagrange[:, None, None]).sum(0))
        return found


class _Row(NamedTuple):
    on_state: Tensor
    to_eps: Tensor
    on_eps: tuple[Tensor, ...]
    noise: Tensor | None


class GDDIM(Sampler):
    """Exponential multistep solver in the frame where noise is constant; DDIM with one block.

    Args:
        num_history: q >= 1, calls that the polynomial passes through; 1 is DDIM. The first steps
            have fewer, which limits the order to 2 in the end.
        stochasticity: lambda >= 0; 0 is deterministic, 1 the reverse SDE's noise. Needs q = 1.
        factor: "rotated" (R) or "cholesky" (L), for comparison.

    Raises:
        ConfigError: for values outside their range.
    """

    def __init__(
        self,
        *,
        num_history: int = 2,
        stochasticity: float = 0.0,
        factor: Literal["rotated", "cholesky"] = "rotated",
    ) -> None:
        if factor not in ("rotated", "cholesky"):
            raise ConfigError(f"factor={factor!r}: 'rotated' or 'cholesky' is needed")
        if num_history < 1 or not stochasticity >= 0:
            raise ConfigError(
                f"num_history={num_history} must be >= 1 and stochasticity={stochasticity} >= 0"
            )
        if stochasticity and (num_history > 1 or factor != "rotated"):
            raise ConfigError(
                f"stochasticity={stochasticity} needs num_history=1 and factor='rotated', got "
                f"num_history={num_history} and factor={factor!r}"
            )
        self.num_history, self.stochasticity, self.factor = num_history, stochasticity, factor
        self.order = min(num_history, 2)

    def check(self, denoiser: Denoiser) -> None:
        """The frame mixes blocks, so every block's score is needed."""
        need_score(self, denoiser, full=True)
        if denoiser.process.num_blocks > 2:
            raise ConfigError(
                f"GDDIM turns a plane; {type(denoiser.process).__name__} has "
                f"{denoiser.process.num_blocks} blocks"
            )

    def plan(self, denoiser: Denoiser, grid: Times) -> list[_Row]:
        """Transitions, factors, and the coefficients of the noise at the last q times."""
        process, t, s = denoiser.process, grid[:-1], grid[1:]
        back = torch.linalg.inv(process.transition(s, t).mean_matrix)
        factors = self._factors(process, grid)
        to_eps = -factors[:-1].mT
        if self.stochasticity:
            return self._noisy(process, grid, back, factors, to_eps)
        has_closed_form = self.num_history == 1 and self.factor == "rotated"
        table = None if has_closed_form else self._quadrature(process, grid)
        rows = []
        for n in range(len(t)):
            count = min(self.num_history, n + 1)
            if table is None or (count == 1 and self.factor == "rotated"):
                on_eps = [factors[n + 1] - back[n] @ factors[n]]
            else:
                on_eps = table.coefficients(grid, n, count)
            rows.append(_Row(back[n], to_eps[n], tuple(on_eps), None))
        return rows

    def _factors(self, process: LinearSDE, t: Times) -> Blocks:
        if self.factor == "rotated":
            return rotated_factor(process, t)
        return cholesky(process.carried_cov(t))

    def _quadrature(self, process: LinearSDE, grid: Times) -> _Quadrature:
        """Nodes of all steps at once, equal in sqrt(t) panel by panel."""
        nodes, weights = _legendre(24)
        panels = 4
        roots = grid.sqrt()
        place = torch.arange(panels, dtype=torch.float64) / panels
        width = roots.diff()[:, None, None] / panels
        left = roots[:-1, None, None] + roots.diff()[:, None, None] * place[:, None]
        root = (left + width * nodes).flatten(1)
        measure = 2 * root * (width * weights).expand(-1, panels, -1).flatten(1)
        times = root.square()
        diffusion = process.diffusion_matrix(times)
        psi = process.transition(grid[1:, None], times).mean_matrix
        speed = torch.linalg.solve(psi, diffusion @ diffusion.mT) / 2
        speed = speed @ torch.linalg.inv(self._factors(process, times)).mT
        return _Quadrature(times, speed * measure[..., None, None])

    def _noisy(
        self, process: LinearSDE, grid: Times, back: Blocks, factors: Blocks, to_eps: Blocks
    ) -> list[_Row]:
        """Rows of the stochastic version."""
        t, s = grid[:-1], grid[1:]
        tilted = _Tilted(process, self.stochasticity).transition(1 - t, 1 - s).mean_matrix
        cov = process.carried_cov(grid)
        left = cov[1:] - tilted @ cov[:-1] @ tilted.mT
        noise = cholesky((left + left.mT) / 2)
        on_eps = (tilted - back) @ factors[:-1]
        return [_Row(back[n], to_eps[n], (on_eps[n],), noise[n]) for n in range(len(t))]

    def advance(
        self,
        denoiser: Denoiser,
        u: State,
        t: Times,
        s: Times,
        row: _Row,
        carry: tuple[State, ...] | None,
        rng: Rng,
    ) -> tuple[State, tuple[State, ...]]:
        """One step; the carry holds the noises of earlier calls, newest first."""
        assert isinstance(denoiser, ScoreDenoiser)
        history = (act(row.to_eps, denoiser.score(u, t)), *(carry or ()))[: self.num_history]
        moved = act(row.on_state, u)
        for matrix, eps in zip(row.on_eps, history, strict=False):
            moved = moved + act(matrix, eps)
        if row.noise is not None:
            moved = moved + act(row.noise, rng.normal(*u.shape[1:]).to(u))
        return moved, history
