"""Methods: what is trained, in which phases, on which loss.

A method owns networks and says in which *phases* they are trained: ("score",) for a diffusion
model, ("discriminator", "generator") for an adversarial one. The trainer loops over the phases,
one optimiser step each; it needs to know nothing else, so a new method is one file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from trilemma.denoiser import Denoiser
from trilemma.processes import LinearSDE, act
from trilemma.processes.base import cholesky
from trilemma.rng import Rng
from trilemma.typing import Event, Labels, Times

__all__ = ["Loss", "Method", "channels_last", "prior_sample"]


@dataclass
class Loss:
    """A scalar to minimise and the named, detached parts to log."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A training algorithm with its networks."""

    phases: ClassVar[dict[str, tuple[str, ...]]]
    """Phase name to the attribute names of the networks that it trains, in order."""
    averaged: ClassVar[tuple[str, ...]]
    """Networks whose exponential moving average is kept and sampled from."""
    process: LinearSDE
    default_steps: int
    """Steps of the default sampling grid."""
    default_sampler: ClassVar[str]
    """Name of the sampler that suits the method."""
    default_grid: ClassVar[str] = "uniform"
    """Name of the time grid that suits the method."""
    sampling_t_min: float = 1e-3
    """Last time of a sampling grid."""

    @abstractmethod
    def loss(self, x0: Event, label: Labels | None, phase: str, rng: Rng, step: int) -> Loss:
        """Return the loss of one phase on clean data.

        Args:
            x0: data (b, *event), images in [-1, 1].
            label: class labels (b), or None.
            phase: one of ``phases``.
            rng: random numbers, one row per sample.
            step: index of the training step, from 0.
        """

    @abstractmethod
    def denoiser(self, label: Labels | None = None, *, guidance: float = 1.0) -> Denoiser:
        """Return the view that samplers use, with the networks as they are now."""

    @abstractmethod
    def grid(self, num_steps: int | None = None, name: str | None = None) -> Times:
        """Decreasing sampling grid; ConfigError where its length or kind is not possible."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Class labels that sampling takes; 0 for none."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum that the networks take."""

    def phase_networks(self, phase: str) -> list[nn.Module]:
        """Networks that a phase trains."""
        return [getattr(self, name) for name in self.phases[phase]]

    def train_only(self, phase: str) -> None:
        """Let gradients reach the networks of one phase alone."""
        trained = set(map(id, self.phase_networks(phase)))
        for name in {name for names in self.phases.values() for name in names}:
            network = getattr(self, name)
            network.requires_grad_(id(network) in trained)

    def sampling_state(self) -> dict[str, Tensor]:
        """Tensors that sampling needs, named as in ``state_dict``."""
        names = tuple(f"{name}." for name in self.averaged)
        return {k: v for k, v in self.state_dict().items() if k.startswith(names)}


def channels_last(method: Method) -> Method:
    """Lay convolution weights out with channels last, in place, and return the method."""
    for parameter in method.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return method


def prior_sample(process: LinearSDE, event: tuple[int, ...], rng: Rng) -> Tensor:
    """Draw states (b, k, *event) from the base distribution at t = 1."""
    return act(cholesky(process.prior_cov()), rng.normal(process.num_blocks, *event))
