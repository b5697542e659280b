r"""Score matching on any linear process: one loss for DDPM, EDM and CLD.

Data are perturbed in one jump, u_t = Psi (x_0, 0) + L eps, the network's output is read as noise
(``trilemma.parametrisation``), and the error e of the noise that the network predicts enters as

.. math:: L = E_{t \sim q,\, x_0,\, \epsilon}\; \frac{e^\top W(t)\, e}{(1 - t_{min})\, q(t)},

summed over the dimensions of a datum and averaged over the batch, with weight W and proposal q
from ``trilemma.methods.weighting``. Kernel and weight are computed in float64.

Subclasses state a process, a parametrisation, a weight and a proposal, and nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.methods.base import Loss, Method
from trilemma.methods.weighting import Proposal, UniformTimes, UniformWeight, Weight
from trilemma.parametrisation import Parametrisation
from trilemma.processes import LinearSDE, act, make_grid
from trilemma.rng import Pairing, Rng
from trilemma.typing import Event, Labels, State, Times

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

    phases: ClassVar[dict[str, tuple[str, ...]]] = {"score": ("network",)}
    averaged: ClassVar[tuple[str, ...]] = ("network",)

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
        self.network, self.process, self.parametrisation = network, process, parametrisation
        self.weight = UniformWeight() if weight is None else weight
        self.proposal = UniformTimes() if proposal is None else proposal
        self.pairing, self.t_min, self.label_dropout = pairing, t_min, label_dropout

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
        draw = self.proposal.draw(self.process, rng.uniform(self.pairing), self.t_min)
        u_0 = self.start(x0, rng)
        eps = rng.normal(*u_0.shape[1:]).to(u_0)
        kernel = self.parametrisation.kernel(self.process, draw.t)
        u_t = kernel.sample(u_0, eps)
        label = self._labels(label, rng)
        scale, time = self.parametrisation.inputs(self.process, draw.t)
        joined = act(scale[:, None, None], u_t.flatten(1, 2)[:, None])[:, 0]
        output = self.network(joined, time.float(), None, label)
        output = output.float().unflatten(1, (-1, u_t.shape[2]))
        blocks = self.parametrisation.output_blocks(self.process)
        readout = self.parametrisation.readout(self.process, draw.t)
        predicted = act(readout.on_output[:, blocks], output) + act(
            readout.on_state[:, blocks], u_t
        )
        error = predicted - eps[:, blocks]
        weight = self.weight.matrix(self.process, draw.t, self.t_min, kernel)[:, blocks, blocks]
        weighted = act(weight * draw.ratio[:, None, None], error)
        total = (error * weighted).flatten(1).sum(1).mean()
        per_dim = error.detach().square().mean()
        return Loss(total, {"loss": total.detach(), "eps_mse": per_dim})

    def _labels(self, label: Labels | None, rng: Rng) -> Labels | None:
        """Labels for the network, some of them dropped."""
        if self.num_classes == 0:
            return None
        if label is None:
            raise ConfigError("this network takes labels, the data have none")
        if self.label_dropout == 0:
            return label
        return torch.where(rng.uniform() < self.label_dropout, -1, label)

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


def _unwrap(network: nn.Module) -> Any:
    """The network itself, without a wrapper for parallel training."""
    return getattr(network, "module", network)
