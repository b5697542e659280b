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
``EDMWeight``      see the class               Karras et al. (2022)
=================  ==========================  ====================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.processes import LinearSDE, Transition
from trilemma.typing import Blocks, Times

__all__ = [
    "EDMWeight",
    "Importance",
    "Likelihood",
    "LogNormal",
    "Proposal",
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
        """Turn uniform numbers (b) in [0, 1) into times in [t_min, 1] with their ratios."""


class UniformTimes(Proposal):
    """Uniform times."""

    def draw(self, process: LinearSDE, uniform: Times, t_min: float) -> Draw:
        """t = t_min + (1 - t_min) r."""
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
        standard = torch.special.ndtri(low + (high - low) * uniform)
        log_ratio = self.log_mean + self.log_std * standard
        t = process.time_of_log_snr(-2 * log_ratio).clamp(t_min, 1.0)
        return Draw(t, 1 / self.density(process, t, t_min))


class Importance(Proposal):
    """Times in proportion to a weight, which makes the estimate's variance small.

    The trace of the weight is tabulated on about ``num_panels`` panels, equal in t and shrinking
    towards both ends, and the distribution function of the resulting histogram is inverted. The
    density drawn from is the histogram's own, known exactly, so the estimate is unbiased for any
    process.

    Args:
        weight: weight to follow; best the one of the objective.
        num_panels: panels of the table, >= 3.
    """

    def __init__(self, weight: Weight, *, num_panels: int = 2048) -> None:
        if num_panels < 3:
            raise ConfigError(f"num_panels={num_panels} must be at least 3")
        self.weight, self.num_panels = weight, num_panels
        self._tables: WeakKeyDictionary[LinearSDE, dict[Any, tuple[Tensor, Tensor]]]
        self._tables = WeakKeyDictionary()

    def _table(self, process: LinearSDE, t_min: float, device: torch.device) -> tuple[Tensor, ...]:
        """Edges of the panels and the distribution function there."""
        tables, key = self._tables.setdefault(process, {}), (t_min, device)
        if key not in tables:
            start = max(t_min, 1e-8)
            place = torch.linspace(0, 1, self.num_panels // 3 + 1, dtype=torch.float64)
            shrinking = start * (1 / start) ** place
            edges = torch.cat([start + (1 - start) * place, shrinking, 1 - shrinking])
            edges = edges.clamp(min=start).unique()
            edges[0], edges[-1] = t_min, 1.0
            middle = (edges[1:] + edges[:-1]) / 2
            density = self.weight.matrix(process, middle, t_min).diagonal(dim1=-2, dim2=-1).sum(-1)
            mass = density * edges.diff()
            total = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0)])
            tables[key] = edges.to(device), (total / total[-1]).to(device)
        return tables[key]

    def draw(self, process: LinearSDE, uniform: Times, t_min: float) -> Draw:
        """Invert the histogram's distribution function."""
        edges, below = self._table(process, t_min, uniform.device)
        panel = (torch.searchsorted(below, uniform, right=True) - 1).clamp(0, len(edges) - 2)
        width, mass = edges.diff()[panel], below.diff()[panel]
        t = edges[panel] + width * (uniform - below[panel]) / mass
        return Draw(t, width / mass / (1 - t_min))
