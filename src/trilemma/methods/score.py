r"""Score matching on any linear process: one loss for DDPM, EDM and CLD.

Data are perturbed in one jump, u_t = Psi (x_0, 0) + L eps, the network's output is read as noise
(``trilemma.parametrisation``), and the error e of the noise that the network predicts enters as

.. math:: L = E_{t \sim q,\, x_0,\, \epsilon}\; \frac{e^\top W(t)\, e}{(1 - t_{min})\, q(t)},

summed over the dimensions of a datum and averaged over the batch, with weight W and proposal q
from ``trilemma.methods.weighting``. Kernel and weight are computed in float64.

Subclasses state a process, a parametrisation, a weight and a proposal, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.methods.base import Loss, Method
from trilemma.methods.weighting import (
    Draw,
    Likelihood,
    Proposal,
    UniformTimes,
    UniformWeight,
    Weight,
)
from trilemma.parametrisation import Parametrisation, gaussian_part
from trilemma.processes import LinearSDE, Transition, act, make_grid
from trilemma.rng import Pairing, Rng
from trilemma.typing import Event, Final, Labels, State, Times

__all__ = ["ScoreMatching"]


class ScoreMatching(Method):
    """Train a network on the noise of perturbed data.

    Args:
        network: called as (u, t, None, label) with the blocks joined along the first event axis.
        process: forward process.
        parametrisation: meaning of the network's output.
        weight: what is minimised; uniform by default.
        proposal: density of training times; uniform by default.
        pairing: how the times of a batch relate.
        t_min: earliest training time, in (0, 1).
        label_dropout: share of training labels replaced by none, for classifier-free guidance.

    Raises:
        ConfigError: for values outside their range, or parts that do not fit.
    """

    averaged = ("network",)
    default_final: Final = "x0"

    def __init__(
        self,
        network: nn.Module,
        process: LinearSDE,
        parametrisation: Parametrisation,
        *,
        weight: Weight | None = None,
        proposal: Proposal | None = None,
        pairing: Pairing = "independent",
        t_min: float = 1e-5,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        parametrisation.check(process)
        if not 0 < t_min < 1:
            raise ConfigError(f"t_min={t_min} must lie in (0, 1)")
        if not 0 <= label_dropout < 1:
            raise ConfigError(f"label_dropout={label_dropout} must lie in [0, 1)")
        if label_dropout and not getattr(network, "num_classes", 0):
            raise ConfigError(f"label_dropout={label_dropout} needs a network with num_classes")
        self.phases = {"score": ("network",)}
        self.network, self.process, self.parametrisation = network, process, parametrisation
        self.weight = UniformWeight() if weight is None else weight
        self.proposal = UniformTimes() if proposal is None else proposal
        self.pairing, self.t_min, self.label_dropout = pairing, t_min, label_dropout
        # Below its earliest training time a network only guesses.
        self.sampling_t_min = max(self.sampling_t_min, t_min)

    @property
    def num_classes(self) -> int:
        """Class labels that the network takes; 0 for none."""
        return int(_unwrap(self.network).num_classes)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum: that of the network's input, divided among the blocks."""
        first, *rest = _unwrap(self.network).event_shape
        if first % self.process.num_blocks:
            raise ConfigError(
                f"the network takes {first} channels, which do not divide into the "
                f"{self.process.num_blocks} blocks of {type(self.process).__name__}"
            )
        return (first // self.process.num_blocks, *rest)

    def start(self, x0: Event, rng: Rng) -> State:
        """State that perturbation starts from: the data, zeros in the other blocks."""
        return self.process.lift(x0)

    def loss(self, x0: Event, label: Labels | None, phase: str, rng: Rng, step: int) -> Loss:
        """Return the loss; random numbers are drawn in this order: times, start, noise, labels."""
        seen = self._look(x0, label, rng, self.proposal)
        total = seen.weighted(self._weight_at(seen, self.weight)).flatten(1).sum(1).mean()
        return Loss(total, {"loss": total.detach(), "eps_mse": seen.mse})

    def cross_entropy(
        self, x0: Event, label: Labels | None, rng: Rng, proposal: Proposal | None = None
    ) -> Event:
        r"""Estimate -log p(x0) from above, for every number of x0, in nats, differentiably.

        The likelihood's weight makes score matching an estimate of the cross entropy between data
        and model (Vahdat et al., 2021, theorem 1). With Sigma the kernel's covariance at t_min,

        .. math:: -\log p(x_0) \le \int_{t_{min}}^1 E\, e^\top W e\,dt
                  + \tfrac12 \log\det(2\pi e \Sigma) - H(v_{t_{min}})

        per dimension, up to the distance between the process at t = 1 and its prior. The entropy
        of the velocities is there for processes of several blocks alone.

        Args:
            x0: clean data (b, *event).
            label: class labels (b), or None.
            rng: random numbers.
            proposal: density of times; the method's own by default.

        Returns:
            Nats (b, *event).
        """
        seen = self._look(x0, label, rng, self.proposal if proposal is None else proposal)
        return self._nats(seen)

    def tied_losses(
        self, x0: Event, label: Labels | None, rng: Rng, coefficient: float = 1.0
    ) -> tuple[Event, Event]:
        """Train network and data at once, each on its own weight, in one pass.

        The first result is the method's own loss, by number. Its gradient with respect to the
        network is its own; that with respect to x0 is ``coefficient`` times the gradient of the
        cross entropy, because each datum has one time, at which the two weights differ by a
        factor that the gradient is multiplied by on its way back.

        Returns:
            The loss by number (b, *event), and the cross entropy, detached, nats (b, *event).

        Raises:
            ConfigError: for a weight of several blocks, where there is no such factor.
        """
        blocks = self.parametrisation.output_blocks(self.process)
        if len(range(*blocks.indices(self.process.num_blocks))) > 1:
            raise ConfigError("several blocks cannot share times: give the LSGM its own `times`")

        def factor(seen: _Seen) -> Tensor:
            own, wanted = (self._weight_at(seen, w) for w in (self.weight, Likelihood()))
            return coefficient * (1 - self.t_min) * (wanted / own)[:, 0, 0]

        seen = self._look(x0, label, rng, self.proposal, factor)
        loss = seen.weighted(self._weight_at(seen, self.weight))
        with torch.no_grad():
            return loss, self._nats(seen)

    def _nats(self, seen: _Seen) -> Event:
        """The cross entropy, from the error at drawn times."""
        at_start = torch.tensor([self.t_min], dtype=torch.float64)
        entropy = _entropy(self.parametrisation.kernel(self.process, at_start).cov[0])
        velocities = self.process.marginal(at_start).cov[0][1:, 1:]
        if len(velocities):
            entropy -= _entropy(velocities)
        return (1 - self.t_min) * seen.weighted(self._weight_at(seen, Likelihood())) + entropy

    def _weight_at(self, seen: _Seen, weight: Weight) -> Tensor:
        """Weight of the predicted blocks at drawn times, over their density (b, p, p)."""
        blocks = self.parametrisation.output_blocks(self.process)
        matrix = weight.matrix(self.process, seen.draw.t, self.t_min, seen.kernel)
        return matrix[:, blocks, blocks] * seen.draw.ratio[:, None, None]

    def _look(
        self,
        x0: Event,
        label: Labels | None,
        rng: Rng,
        proposal: Proposal,
        factor: Callable[[_Seen], Tensor] | None = None,
    ) -> _Seen:
        """Perturb data at random times and predict the noise.

        Random numbers are drawn in this order: times, start, noise, labels. ``factor`` gives the
        numbers (b) by which the gradient that reaches x0 is multiplied.
        """
        draw = proposal.draw(self.process, rng.uniform(self.pairing), self.t_min)
        seen = _Seen(draw, self.parametrisation.kernel(self.process, draw.t), x0)
        if factor is not None:
            shape = (-1, *[1] * (x0.dim() - 1))
            scale = factor(seen).to(x0, non_blocking=True).reshape(shape)
            x0 = _ScaledGradient.apply(x0, scale)
        u_0 = self.start(x0, rng)
        eps = rng.normal(*u_0.shape[1:]).to(u_0)
        u_t = seen.kernel.sample(u_0, eps)
        label = self._labels(label, rng)
        scale, time = self.parametrisation.inputs(self.process, draw.t)
        joined = act(scale[:, None, None], u_t.flatten(1, 2)[:, None])[:, 0]
        blocks = self.parametrisation.output_blocks(self.process)
        readout = self.parametrisation.readout(self.process, draw.t)
        extra = gaussian_part(self.network, readout.gaussian, u_t)
        time = time.to(joined.device, torch.float32, non_blocking=True)
        output = self.network(joined, time, None, label, **extra)
        output = output.to(u_t).unflatten(1, (-1, u_t.shape[2]))
        predicted = act(readout.on_output[:, blocks], output) + act(
            readout.on_state[:, blocks], u_t
        )
        return seen._replace(error=predicted - eps[:, blocks])

    def _labels(self, label: Labels | None, rng: Rng) -> Labels | None:
        """Labels for the network, some of them dropped."""
        if self.num_classes == 0:
            return None
        if label is None:
            raise ConfigError("this network takes labels, the data have none")
        if self.label_dropout == 0:
            return label
        dropped = rng.uniform() < self.label_dropout
        return torch.where(dropped.to(label.device, non_blocking=True), -1, label)

    def denoiser(self, label: Labels | None = None, *, guidance: float = 1.0) -> ScoreDenoiser:
        """Return the network as samplers see it."""
        return ScoreDenoiser(
            self.network, self.process, self.parametrisation, label, guidance=guidance
        )

    def grid(self, num_steps: int | None = None, name: str | None = None) -> Times:
        """Return a sampling grid, by default the method's own."""
        return make_grid(
            name or self.default_grid,
            self.process,
            self.default_steps if num_steps is None else num_steps,
            self.sampling_t_min,
        )


class _Seen(NamedTuple):
    """Times, kernels and the error of the predicted noise (b, p, *event) of a batch."""

    draw: Draw
    kernel: Transition
    error: Tensor

    @property
    def mse(self) -> Tensor:
        """Mean squared error of the noise per dimension."""
        return self.error.detach().square().mean()

    def weighted(self, matrix: Tensor) -> Event:
        """e^T W e for every number of a datum (b, *event)."""
        return (self.error * act(matrix, self.error)).sum(1)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by given numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None


def _entropy(cov: Tensor) -> float:
    """Entropy of a normal law with the given covariance, nats."""
    return float(torch.logdet(2 * math.pi * math.e * cov)) / 2


def _unwrap(network: nn.Module) -> Any:
    """The network itself, without a wrapper for parallel training."""
    return getattr(network, "module", network)
