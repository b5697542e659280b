"""Methods: what is trained, in which phases, on which loss.

A method owns networks and says in which *phases* they are trained: ("score",) for a diffusion
model, ("discriminator", "generator") for an adversarial one. The trainer loops over the phases,
one optimiser step each; it needs to know nothing else, so a new method is one file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from trilemma.denoiser import Denoiser
from trilemma.processes import LinearSDE, act
from trilemma.processes.base import cholesky
from trilemma.rng import Rng
from trilemma.typing import Event, Final, Labels, Times

__all__ = ["Loss", "Method", "channels_last", "prior_sample"]


@dataclass
class Loss:
    """A scalar to minimise and the named, detached parts to log."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A training algorithm with its networks."""

    phases: dict[str, tuple[str, ...]]
    """Phase name to the names of the submodules that it trains, in order."""
    averaged: tuple[str, ...]
    """Networks whose exponential moving average is kept and sampled from."""
    averaged_in: tuple[str, ...] = ()
    """Phases whose loss sees these networks with averaged weights, but for those it trains."""
    process: LinearSDE
    default_steps: int
    """Steps of the default sampling grid."""
    default_sampler: ClassVar[str]
    """Name of the sampler that suits the method."""
    default_grid: ClassVar[str] = "uniform"
    """Name of the time grid that suits the method."""
    default_final: Final = "none"
    """What suits the method as its last step."""
    sampling_t_min: float = 1e-3
    """Last time of a sampling grid."""
    kept: tuple[str, ...] = ()
    """Networks that sampling needs as they are, without an average."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Arguments that a model file for sampling leaves out."""

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

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one block of a diffused state: that of a datum, or of its latents."""
        return self.event_shape

    def encode(self, x0: Event, rng: Rng) -> Event:
        """Map data to what is diffused: themselves, or their latents."""
        return x0

    def decode(self, z: Event, rng: Rng) -> Event:
        """Map what was diffused back to data; the inverse of ``encode`` for samples."""
        return z

    def begin(self, batches: Iterator[Event]) -> None:
        """Look at data once before the first training step, in eval mode, without gradients."""

    def phase_networks(self, phase: str) -> list[nn.Module]:
        """Networks that a phase trains."""
        return [self.get_submodule(name) for name in self.phases[phase]]

    def optimizer_networks(self) -> dict[str, tuple[str, ...]]:
        """Names of the networks that each optimiser of the recipe steps.

        A phase with one network has the optimiser of its name; where one loss trains several,
        every network has its own, named by the first part of the network's name.
        """
        found: dict[str, tuple[str, ...]] = {}
        for phase, names in self.phases.items():
            parts = {phase: names} if len(names) == 1 else {n.split(".")[0]: (n,) for n in names}
            found |= parts
        return found

    def train_only(self, phase: str) -> None:
        """Let gradients reach the networks of one phase alone."""
        self.requires_grad_(False)
        for network in self.phase_networks(phase):
            network.requires_grad_(True)

    def sampling_state(self) -> dict[str, Tensor]:
        """Tensors that sampling needs, named as in ``state_dict``."""
        names = tuple(f"{name}." for name in (*self.averaged, *self.kept))
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
