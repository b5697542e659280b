r"""Loss weights and time proposals: what is minimised, and where it is sampled.

A score-matching objective is an integral over time of a weighted error of the predicted noise,

.. math:: L = \int_{t_{min}}^1 E\; e^\top W(t)\, e\; dt / (1 - t_{min}), \qquad
          e = \hat\epsilon - \epsilon,

estimated with times drawn from a proposal q and the ratio 1 / ((1 - t_min) q). Weight and proposal
are independent: the weight decides *what* is minimised, the proposal only the variance of the
estimate. Neither knows a process by name. W is a k x k matrix, since noise may enter some blocks
only.

=================  ==========================  ====================================================
weight             W(t)                        use
=================  ==========================  ====================================================
``UniformWeight``  I                           sample quality; DDPM's simple loss
``Likelihood``     L^-1 G G^T L^-T / 2         bound on the log-likelihood (Song et al., 2021)
``Reweighted``     G G^T / 2                   between the two (Vahdat et al., 2021)
``Rescaled``       1 / (2 (1 - sigma^2))       every time alike for normal data; one block
``EDMWeight``      see the class               Karras et al. (2022)
=================  ==========================  ====================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.processes import LinearSDE, Transition
from trilemma.processes.base import EARLIEST
from trilemma.typing import Blocks, Times

__all__ = [
    "EDMWeight",
    "Importance",
    "Likelihood",
    "LogNormal",
    "Proposal",
    "Rescaled",
    "Reweighted",
    "UniformTimes",
    "UniformWeight",
    "Weight",
]


class Draw(NamedTuple):
    """Times (b) and the ratio (b) of the uniform density to the proposal's, float64."""

    t: Times
    ratio: Times


class Weight(ABC):
    """Weight of the squared error of the predicted noise."""

    @abstractmethod
    def matrix(
        self, process: LinearSDE, t: Times, t_min: float, kernel: Transition | None = None
    ) -> Blocks:
        """W(t), float64 blocks (b, k, k).

        Args:
            process: forward process.
            t: times (b).
            t_min: earliest training time.
            kernel: perturbation kernel that the noise belongs to; the marginal by default.
        """


class UniformWeight(Weight):
    """W = I: every noise level counts alike."""

    def matrix(
        self, process: LinearSDE, t: Times, t_min: float, kernel: Transition | None = None
    ) -> Blocks:
        """The identity."""
        identity = torch.eye(process.num_blocks, dtype=torch.float64, device=t.device)
        return identity.expand(*t.shape, -1, -1)


class Likelihood(Weight):
    """W = L^-1 G G^T L^-T / 2, which makes the loss a bound on the negative log-likelihood."""

    def matrix(
        self, process: LinearSDE, t: Times, t_min: float, kernel: Transition | None = None
    ) -> Blocks:
        """The formula of the class; for one block g^2 / (2 sigma^2)."""
        chol = (process.marginal(t) if kernel is None else kernel).chol()
        root = torch.linalg.solve_triangular(chol, process.diffusion_matrix(t), upper=False)
        return root @ root.mT / 2


class Reweighted(Weight):
    """W = G G^T / 2: the likelihood's weight times the variance."""

    def matrix(
        self, process: LinearSDE, t: Times, t_min: float, kernel: Transition | None = None
    ) -> Blocks:
        """The formula of the class; for one block g^2 / 2."""
        diffusion = process.diffusion_matrix(t)
        return diffusion @ diffusion.mT / 2


class Rescaled(Weight):
    r"""W = 1 / (2 (1 - sigma^2)), under which uniform times are importance times.

    Data of unit variance under a process that preserves it leave the error 1 - sigma^2 to an exact
    prediction of the noise (see ``Importance``), so every time contributes alike. It is a weight of
    the program of Vahdat, Kreis, Kautz: Score-based generative modeling in latent space, 2021,
    without a place in its tables. Only for processes of one block whose variance stays below one.
    """

    def matrix(
        self, process: LinearSDE, t: Times, t_min: float, kernel: Transition | None = None
    ) -> Blocks:
        """The formula of the class, of the kernel's variance.

        Raises:
            ConfigError: for a process of several blocks, or whose variance reaches one.
        """
        if process.num_blocks != 1 or float(process.marginal(1.0).cov) >= 1:
            raise ConfigError(
                f"the weight Rescaled needs one block and a variance below 1, not {process!r}: "
                "choose UniformWeight or Reweighted"
            )
        return 0.5 / (1 - (process.marginal(t) if kernel is None else kernel).cov)


class EDMWeight(Weight):
    r"""The objective of Karras et al. (2022): noise levels from a log-normal law.

    With s = sigma / alpha, the error of the preconditioned clean data has the weight
    (s^2 + sigma_data^2) / (s sigma_data)^2, hence (s^2 + sigma_data^2) / sigma_data^2 for the
    noise, under ln s ~ N(log_mean, log_std^2), restricted to the noise levels of the process.

    Args:
        sigma_data: standard deviation of the data, > 0.
        log_mean: mean of ln s.
        log_std: standard deviation of ln s, > 0.
    """

    def __init__(
        self, sigma_data: float = 0.5, *, log_mean: float = -1.2, log_std: float = 1.2
    ) -> None:
        if not (sigma_data > 0 and log_std > 0):
            raise ConfigError(f"sigma_data={sigma_data} and log_std={log_std} must be positive")
        self.sigma_data, self.levels = float(sigma_data), LogNormal(log_mean, log_std)

    def matrix(
        self, process: LinearSDE, t: Times, t_min: float, kernel: Transition | None = None
    ) -> Blocks:
        """Weight times the density of the noise level, relative to uniform times."""
        ratio = torch.exp(-process.log_snr(t) / 2)
        weight = (ratio.square() + self.sigma_data**2) / self.sigma_data**2
        return (weight * self.levels.density(process, t, t_min))[..., None, None]


class Proposal(ABC):
    """Density of training times."""

    @abstractmethod
    def draw(self, process: LinearSDE, uniform: Times, t_min: float) -> Draw:
        """Turn uniform numbers (b) in [0, 1) into times in [t_min, 1] with ratios, float64."""


class UniformTimes(Proposal):
    """Uniform times."""

    def draw(self, process: LinearSDE, uniform: Times, t_min: float) -> Draw:
        """t = t_min + (1 - t_min) r."""
        uniform = uniform.double()
        return Draw(t_min + (1 - t_min) * uniform, torch.ones_like(uniform))


class LogNormal(Proposal):
    """Log-normal noise-to-signal ratios, restricted to those of the process (one block).

    Args:
        log_mean: mean of ln(sigma / alpha).
        log_std: standard deviation of ln(sigma / alpha), > 0.
    """

    def __init__(self, log_mean: float = -1.2, log_std: float = 1.2) -> None:
        if not log_std > 0:
            raise ConfigError(f"log_std={log_std} must be positive")
        self.log_mean, self.log_std = float(log_mean), float(log_std)

    def _standard(self, process: LinearSDE, t: Times) -> Times:
        return (-process.log_snr(t) / 2 - self.log_mean) / self.log_std

    def _share(self, process: LinearSDE, t_min: float, like: Tensor) -> Tensor:
        """Cumulative shares (2) of the law below the ends of time."""
        ends = torch.tensor([t_min, 1.0], dtype=torch.float64, device=like.device)
        return torch.special.ndtr(self._standard(process, ends))

    def density(self, process: LinearSDE, t: Times, t_min: float) -> Times:
        """Density of t relative to the uniform one, through d ln s / dt = g^2 / (2 sigma^2)."""
        if process.num_blocks != 1:
            raise ConfigError("log-normal noise levels need a process of one block")
        low, high = self._share(process, t_min, t)
        standard = self._standard(process, t)
        speed = Likelihood().matrix(process, t, t_min)[..., 0, 0] / self.log_std
        normal = torch.exp(-standard.square() / 2) / math.sqrt(2 * math.pi)
        return normal * speed * (1 - t_min) / (high - low)

    def draw(self, process: LinearSDE, uniform: Times, t_min: float) -> Draw:
        """Invert the normal distribution function, then the noise level."""
        low, high = self._share(process, t_min, uniform)
        standard = torch.special.ndtri(low + (high - low) * uniform.double())
        log_ratio = self.log_mean + self.log_std * standard
        t = process.time_of_log_snr(-2 * log_ratio).clamp(t_min, 1.0)
        return Draw(t, 1 / self.density(process, t, t_min))


NUM_NODES = 8
"""Nodes of the quadrature on a panel, its ends among them."""
RESOLVED = 1e-9
"""Largest leading coefficients of the polynomial of a resolved panel, relative to its mean; the
integral is more accurate by several orders."""
NEGLIGIBLE = 1e-13
"""Share of the whole integral below which a panel is left as it is, as at a jump."""
MAX_PANELS = 2**15
"""Panels that halving may add."""
NEWTON_STEPS = 5
"""Steps of Newton's method, each of which doubles the digits on a resolved panel."""


class _Integral(NamedTuple):
    """A density integrated panel by panel, as an invertible distribution function."""

    edges: Tensor  # (n + 1)
    below: Tensor  # (n), share of the whole before a panel
    share: Tensor  # (n), share of a panel
    powers: Tensor  # (n, NUM_NODES + 1), share within a panel, in powers of its place in [-1, 1]
    total: Tensor  # (), the whole

    @classmethod
    def of(cls, density: Callable[[Times], Times], edges: Tensor) -> _Integral:
        """Integrate, halving panels until the polynomial through the nodes resolves the density.

        Raises:
            ConfigError: for a density that is not finite, that is zero at an end, or that is too
                rough to resolve.
        """
        # Lobatto's nodes: the ends see what is infinite there, and a jump between inner nodes.
        inner = np.sort(np.polynomial.Legendre.basis(NUM_NODES - 1).deriv().roots().real)
        nodes = torch.from_numpy(np.concatenate([[-1.0], inner, [1.0]]))
        order = torch.arange(1, NUM_NODES + 1, dtype=torch.float64)
        to_powers = torch.linalg.inv(nodes[:, None] ** (order - 1)).mT
        weights = to_powers @ ((1 - (-1.0) ** order) / order)
        limit = len(edges) + MAX_PANELS
        while True:
            half, middle = edges.diff() / 2, (edges[1:] + edges[:-1]) / 2
            t = middle[:, None] + half[:, None] * nodes
            t[:, 0], t[:, -1] = edges[:-1], edges[1:]
            value = density(t.flatten()).view_as(t)
            if not bool(value.isfinite().all()):
                where = float(t[~value.isfinite()][0])
                raise ConfigError(f"the density of times is not finite at t={where:.6g}")
            powers, mean = value @ to_powers, value @ weights
            mass = half * mean
            if not bool(mass.any()):
                raise ConfigError("the density of times is zero everywhere")
            for end in (0, -1):
                if value[end, end] == 0 and mass[end] > 0:  # the ratio would have no bound
                    raise ConfigError(f"the density of times is zero at t={float(edges[end]):.6g}")
            rough = half * powers[:, -2:].abs().sum(-1) > RESOLVED * mass + NEGLIGIBLE * mass.sum()
            if not bool(rough.any()):
                break
            if len(edges) > limit:
                where = float(middle[rough][0])
                raise ConfigError(f"the density of times is too rough at t={where:.6g}")
            edges = torch.cat([edges, middle[rough]]).unique()
        powers = powers / order / mean[:, None]
        start = -(powers * (-1.0) ** order).sum(-1, keepdim=True)
        total = mass.sum()
        before = torch.cat([mass.new_zeros(1), mass.cumsum(0)[:-1]])
        behind = mass.flip(0).cumsum(0).flip(0)
        # Counted from the nearer end, since the sums round.
        below = torch.where(before < behind, before / total, 1 - behind / total)
        return cls(edges, below, mass / total, torch.cat([start, powers], 1), total)

    def invert(self, share: Tensor) -> Times:
        """Times before which the given shares (b) in [0, 1) of the whole lie."""
        panel = torch.searchsorted(self.below, share, right=True) - 1
        target = ((share - self.below[panel]) / self.share[panel]).clamp(0, 1)
        powers, order = self.powers[panel], torch.arange(NUM_NODES + 1, device=share.device)
        x = 2 * target - 1
        for _ in range(NEWTON_STEPS):
            monomials = x[:, None] ** order
            excess = (powers * monomials).sum(-1) - target
            slope = (powers[:, 1:] * order[1:] * monomials[:, :-1]).sum(-1)
            x = (x - excess / slope).clamp(-1, 1)
        left, right = self.edges[panel], self.edges[panel + 1]
        return left + (right - left) * ((1 + x) / 2)


class Importance(Proposal):
    r"""Times in proportion to weight times expected error, so that the loss is estimated calmly.

    Were the data Gaussian, of variance d in the first block, the error of an exact prediction of
    the noise would have the mean outer product, under the kernel u_t ~ N(psi x_0, L L^T),

    .. math:: R = I - L^\top (d\,\psi\psi^\top + L L^\top)^{-1} L
                = \frac{d\,w w^\top}{1 + d\,w^\top w}, \qquad w = L^{-1}\psi,

    and the loss would be the integral of tr(W R). With the density of times

    .. math:: q(t) = \operatorname{tr}(W R)(t) \Big/ \int_{t_{min}}^1 \operatorname{tr}(W R)\,ds

    every time contributes alike then, and the choice of times adds no variance. For data of unit
    variance under a process that preserves it, R = 1 - sigma^2 (Vahdat, Kreis, Kautz: Score-based
    generative modeling in latent space, 2021, Sec. 3.3 and App. B). The estimate is unbiased for
    any data.

    In general the distribution function has no closed form. It is integrated by Gauss-Lobatto
    quadrature on panels that are equal in t and shrink towards both ends, halved where they do not
    resolve the density, and it is inverted by Newton's method, all close to machine precision.

    Args:
        weight: weight to follow; best the one of the objective.
        data_var: variance d of the data, > 0; None is R = I, so that times follow the trace of the
            weight.
        num_panels: panels to start with, >= 3.

    Raises:
        ConfigError: for values outside their range; on drawing, for a density of times that is
            not finite, that is zero at an end of time, or that is too rough to resolve.
    """

    def __init__(
        self, weight: Weight, *, data_var: float | None = 1.0, num_panels: int = 2048
    ) -> None:
        if num_panels < 3:
            raise ConfigError(f"num_panels={num_panels} must be at least 3")
        if data_var is not None and not 0 < data_var < math.inf:
            raise ConfigError(f"data_var={data_var} must be positive and finite, or null")
        self.weight, self.data_var, self.num_panels = weight, data_var, num_panels
        self._integrals: WeakKeyDictionary[LinearSDE, dict[Any, _Integral]] = WeakKeyDictionary()

    def _density(self, process: LinearSDE, t: Times, t_min: float) -> Times:
        """tr(W R), the density up to a factor."""
        kernel = process.marginal(t)
        weight = self.weight.matrix(process, t, t_min, kernel)
        if self.data_var is None:
            return weight.diagonal(dim1=-2, dim2=-1).sum(-1)
        signal = kernel.mean_matrix[..., :1]
        if process.num_blocks == 1:  # L^-1 is not taken: the noise may be zero at the start
            power = self.data_var * signal.square()
            return (weight * power / (power + kernel.cov))[..., 0, 0]
        root = torch.linalg.solve_triangular(kernel.chol(), signal, upper=False)
        return (root.mT @ weight @ root / (1 / self.data_var + root.mT @ root))[..., 0, 0]

    def _integral(self, process: LinearSDE, t_min: float, device: torch.device) -> _Integral:
        """The integrated density, made once."""
        integrals, key = self._integrals.setdefault(process, {}), (t_min, device)
        if key not in integrals:
            place = torch.linspace(0, 1, self.num_panels // 3 + 1, dtype=torch.float64)
            shrinking = EARLIEST ** (1 - place)
            edges = t_min + (1 - t_min) * torch.cat([place, shrinking, 1 - shrinking]).unique()
            edges[-1] = 1.0
            try:
                integral = _Integral.of(lambda t: self._density(process, t, t_min), edges)
            except ConfigError as error:
                weight = type(self.weight).__name__
                raise ConfigError(
                    f"{error}, by {weight} on {process!r} from t_min={t_min}"
                ) from None
            integrals[key] = _Integral(*(part.to(device) for part in integral))
        return integrals[key]

    def draw(self, process: LinearSDE, uniform: Times, t_min: float) -> Draw:
        """Invert the distribution function; the ratio is that of the density at these times."""
        integral = self._integral(process, t_min, uniform.device)
        t = integral.invert(uniform.double())
        return Draw(t, integral.total / (1 - t_min) / self._density(process, t, t_min))
