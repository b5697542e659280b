r"""What a network's output means: noise, clean data, a score, or a remainder of one of them.

Every parametrisation here is linear, eps = A(t) u + B(t) r, in the state u and the network's
output r, where eps is the standard normal noise of the perturbation u_t = Psi (x_0, 0) + L eps.
So one pair of matrices per time, float64, says everything a sampler or a loss needs, and from the
noise follow

.. math:: \nabla_u \log p_t = -L^{-\top} \epsilon, \qquad x_0 = \Psi^{-1} (u - L \epsilon) .

==================  ======================================  ====================================
parametrisation     A                                       B
==================  ======================================  ====================================
eps                 0                                       1
x0                  1 / sigma                               -alpha / sigma
score               0                                       -L^T
v_prediction        sigma / (alpha^2 + sigma^2)             alpha / (alpha^2 + sigma^2)
preconditioned      sigma / (alpha sqrt(..)), see below     -sigma_data / sqrt(..)
velocity noise      see ``VelocityNoise``                   see ``VelocityNoise``
==================  ======================================  ====================================

A *mixed score* adds the noise that Gaussian data of a given variance would show, so that the
network learns the difference alone. With a ``trilemma.networks.MixedScore`` the two are blended
instead, by a learnt share for each channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trilemma.errors import ConfigError, nearest
from trilemma.networks import MixedScore
from trilemma.processes import LinearSDE, Transition, act
from trilemma.typing import Blocks, State, Times

__all__ = [
    "Inputs",
    "Parametrisation",
    "Preconditioned",
    "Predict",
    "Readout",
    "VelocityNoise",
    "gaussian_part",
]

Kind = Literal["eps", "x0", "score", "v_prediction"]


class Readout(NamedTuple):
    """eps = on_state u + on_output r, float64 blocks (..., k, k) and (..., k, p).

    With a mixed score ``gaussian`` u, blocks (..., p, k), is the noise that Gaussian data would
    show in the predicted blocks; it is part of ``on_state`` already, and None without one.
    """

    on_state: Blocks
    on_output: Tensor
    gaussian: Tensor | None = None


def gaussian_part(
    network: Callable[..., Tensor], gaussian: Tensor | None, u: State
) -> dict[str, Tensor]:
    """Arguments that a network which blends itself with Gaussian noise is called with besides.

    Args:
        network: score network; only a ``MixedScore`` asks for anything.
        gaussian: see ``Readout``, with or without a batch axis.
        u: states (b, k, *event).

    Raises:
        ConfigError: for a ``MixedScore`` without a mixed score to blend with.
    """
    if not isinstance(getattr(network, "module", network), MixedScore):
        return {}
    if gaussian is None:
        raise ConfigError("a MixedScore network needs a method with mixed_score=True")
    return {"gaussian": act(gaussian, u).flatten(1, 2)}


class Inputs(NamedTuple):
    """What the network gets: the state times ``scale`` and the number ``time``, both (...)."""

    scale: Times
    time: Times


class Parametrisation(ABC):
    """Meaning of a network's output."""

    has_full_score: bool = True
    """Whether the noise of every block is known; else rows of unknown blocks are zero."""

    def check(self, process: LinearSDE) -> None:
        """Raise ConfigError where the parametrisation does not fit a process."""
        if process.num_blocks != 1:
            raise ConfigError(
                f"{type(self).__name__} needs a process of one block, {type(process).__name__} "
                f"has {process.num_blocks}"
            )

    def output_blocks(self, process: LinearSDE) -> slice:
        """Blocks whose noise the network predicts, which is what a loss compares."""
        return slice(0, process.num_blocks)

    def kernel(self, process: LinearSDE, t: Times) -> Transition:
        """Perturbation kernel that eps refers to."""
        return process.marginal(t)

    def inputs(self, process: LinearSDE, t: Times) -> Inputs:
        """What the network is given: by default the state as it is, and t."""
        return Inputs(torch.ones_like(t), t)

    @abstractmethod
    def readout(self, process: LinearSDE, t: Times) -> Readout:
        """Matrices that turn state and output into eps, for times t > 0 of shape (...)."""


class Predict(Parametrisation):
    """The network predicts noise, clean data, the score, or alpha eps - sigma x0.

    Args:
        kind: "eps", "x0", "score" or "v_prediction"; only "eps" and "score" take several blocks.
        mixed_score: add the noise of Gaussian data of variance ``data_var`` (kind "eps" only).
        data_var: variance of the data, for the mixed score.

    Raises:
        ConfigError: for an unknown kind, or a mixed score of another kind.
    """

    def __init__(
        self, kind: Kind = "eps", *, mixed_score: bool = False, data_var: float = 1.0
    ) -> None:
        if kind not in ("eps", "x0", "score", "v_prediction"):
            raise ConfigError(f"predict={kind!r} is unknown; {nearest(kind, Kind.__args__)}")  # type: ignore[attr-defined]
        if mixed_score and kind != "eps":
            raise ConfigError(f"a mixed score needs predict='eps', got {kind!r}")
        if not data_var > 0:
            raise ConfigError(f"data_var={data_var} must be positive")
        self.kind, self.mixed_score, self.data_var = kind, mixed_score, float(data_var)

    def check(self, process: LinearSDE) -> None:
        """Refuse several blocks where the formula has one."""
        if self.kind in ("x0", "v_prediction") or self.mixed_score:
            super().check(process)

    def readout(self, process: LinearSDE, t: Times) -> Readout:
        """See the table of the module."""
        kernel = process.marginal(t)
        alpha, sigma = kernel.mean_matrix, kernel.chol()
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        if self.kind == "score":
            return Readout(zero, -sigma.mT)
        if self.kind == "x0":
            return Readout(1 / sigma, -alpha / sigma)
        if self.kind == "v_prediction":
            total = alpha.square() + sigma.square()
            return Readout(sigma / total, alpha / total)
        if self.mixed_score:
            gaussian = sigma / (alpha.square() * self.data_var + kernel.cov)
            return Readout(gaussian, one, gaussian)
        identity = torch.eye(process.num_blocks, dtype=sigma.dtype, device=sigma.device)
        return Readout(zero, identity.expand_as(sigma))


class Preconditioned(Parametrisation):
    r"""Preconditioning of Karras et al. (2022), Table 1: unit variance in, unit variance out.

    With the noise-to-signal ratio s = sigma / alpha the clean data are
    c_skip u / alpha + c_out F(c_in u / alpha, ln(s) / 4), which in terms of noise reads

    .. math:: \epsilon = \frac{s}{s^2 + \sigma_d^2}\,\frac{u}{\alpha}
              - \frac{\sigma_d}{\sqrt{s^2 + \sigma_d^2}}\,F .

    Args:
        sigma_data: standard deviation of the data, > 0.

    Raises:
        ConfigError: for one that is not positive.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ConfigError(f"sigma_data={sigma_data} must be positive")
        self.sigma_data = float(sigma_data)

    def _ratio(self, process: LinearSDE, t: Times) -> tuple[Tensor, Tensor]:
        kernel = process.marginal(t)
        return kernel.mean_matrix, kernel.chol() / kernel.mean_matrix

    def inputs(self, process: LinearSDE, t: Times) -> Inputs:
        """c_in / alpha and ln(s) / 4."""
        alpha, ratio = self._ratio(process, t)
        scale = 1 / (alpha * (ratio.square() + self.sigma_data**2).sqrt())
        return Inputs(scale[..., 0, 0], ratio[..., 0, 0].log() / 4)

    def readout(self, process: LinearSDE, t: Times) -> Readout:
        """The formula of the class."""
        alpha, ratio = self._ratio(process, t)
        total = ratio.square() + self.sigma_data**2
        return Readout(ratio / (total * alpha), -self.sigma_data / total.sqrt())


class VelocityNoise(Parametrisation):
    r"""The network predicts the noise of the velocity, all that the dynamics of CLD needs.

    With the mixed score the velocity's noise is eps_v = L_vv v / V + r, where V is the velocity's
    variance for Gaussian data without spread (Dockhorn et al., 2022, Eq. 10).

    Hybrid score matching leaves the datum as the only unknown of two blocks, so the noise of the
    position follows exactly: u - L eps must be a multiple of Psi's first column, hence

    .. math:: \epsilon_x = \frac{\Psi_{vx}\, x - \Psi_{xx}\,(v - L_{vv} \epsilon_v)}
              {\Psi_{vx} L_{xx} - \Psi_{xx} L_{vx}} .

    Denoising score matching conditions on the initial velocity as well; the position's noise is
    then unknown and its row is zero.

    Args:
        mixed_score: add the Gaussian part.
        hybrid: hybrid score matching; else denoising score matching.
    """

    def __init__(self, *, mixed_score: bool = True, hybrid: bool = True) -> None:
        self.mixed_score, self.hybrid = mixed_score, hybrid
        self.has_full_score = hybrid

    def check(self, process: LinearSDE) -> None:
        """Refuse anything but (position, velocity)."""
        if process.num_blocks != 2:
            raise ConfigError(
                f"a velocity needs a process of two blocks such as CLD, not "
                f"{type(process).__name__}"
            )

    def output_blocks(self, process: LinearSDE) -> slice:
        """The velocity."""
        return slice(1, 2)

    def kernel(self, process: LinearSDE, t: Times) -> Transition:
        """Without the spread of initial velocities where these are conditioned on."""
        if self.hybrid:
            return process.marginal(t)
        initial = process.initial_cov().clone()
        initial[1, 1] = 0.0
        return process.marginal(t, initial_cov=initial)

    def readout(self, process: LinearSDE, t: Times) -> Readout:
        """The formulas of the class, as matrices on (x, v) and on the output."""
        kernel = self.kernel(process, t)
        psi, chol = kernel.mean_matrix, kernel.chol()
        zero, one = torch.zeros_like(chol[..., 0, 0]), torch.ones_like(chol[..., 0, 0])
        mixed = zero
        if self.mixed_score:
            mixed = chol[..., 1, 1] / process.marginal(t).cov[..., 1, 1]
        x_x, x_v, x_out = zero, zero, zero
        if self.hybrid:
            signal_x, signal_v = psi[..., 0, 0], psi[..., 1, 0]
            below = signal_v * chol[..., 0, 0] - signal_x * chol[..., 1, 0]
            x_x = signal_v / below
            x_out = signal_x * chol[..., 1, 1] / below
            x_v = x_out * mixed - signal_x / below
        rows = [torch.stack([x_x, x_v], -1), torch.stack([zero, mixed], -1)]
        gaussian = torch.stack([zero, mixed], -1)[..., None, :] if self.mixed_score else None
        return Readout(torch.stack(rows, -2), torch.stack([x_out, one], -1)[..., None], gaussian)
