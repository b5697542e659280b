r"""Encoders and decoders: where data become latents that a diffusion model can have as a prior.

A latent score-based model asks little of its autoencoder. Two methods make one:

- ``encode(x)`` returns the posterior q(z | x), a ``Normal`` with one mean and one log standard
  deviation for every latent number;
- ``decode(z)`` returns the law p(x | z), a ``Likelihood`` with ``log_prob``, ``mean``, ``sample``.

Nothing here assumes images: latents are vectors (d), sequences (c, n) or maps (c, h, w), with
channels first, and data are whatever ``decode`` has a law for.

Hierarchical autoencoders go further. They draw their latents in *groups*, each given the ones
before it, and override ``infer``. The groups that the learned prior models share their shape but
for the channels and are joined along these; all *other* groups keep a standard normal prior. The
log-density log q(z | x) stays apart for every latent number, so that the divergence from the prior
can be balanced between groups and reported for each channel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from trilemma.autoencoders.likelihoods import Likelihood
from trilemma.rng import Rng
from trilemma.typing import Event

__all__ = ["Autoencoder", "Inferred", "Latent", "Normal"]


class Normal(NamedTuple):
    """Independent normal laws with the given means and log standard deviations (b, *latent)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Mean plus noise times standard deviation."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of every number, nats."""
        standard = (z - self.mean) * torch.exp(-self.log_std)
        return -standard.square() / 2 - self.log_std - math.log(2 * math.pi) / 2


class Latent(NamedTuple):
    """Latents that were drawn from a posterior (b, *latent), and their log-density, elementwise."""

    z: Tensor
    log_q: Tensor


class Inferred(NamedTuple):
    """Latents behind a batch: the learned prior's groups, joined, and all others."""

    prior: Latent
    others: tuple[Latent, ...] = ()


class Autoencoder(nn.Module, ABC):
    """An encoder and a decoder.

    Subclasses set ``event_shape`` and ``latent_shape``; hierarchical ones also ``groups`` and
    ``other_shapes``.
    """

    event_shape: tuple[int, ...]
    """Shape of one datum."""
    latent_shape: tuple[int, ...]
    """Shape of the latents that have a learned prior, all groups joined."""
    groups: tuple[int, ...] = ()
    """Channels of the groups that are joined; a single group where empty."""
    other_shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the groups that keep a standard normal prior."""
    draws: ClassVar[bool] = False
    """Whether a sample is drawn from the law of the data; else it is the law's mean."""

    @abstractmethod
    def encode(self, x: Event) -> Normal:
        """Posterior of the latents behind data (b, *event_shape).

        With several groups, those of each one given the means of the groups before it.
        """

    @abstractmethod
    def decode(self, z: Tensor, others: Sequence[Tensor] = ()) -> Likelihood:
        """Law of the data given latents (b, *latent_shape) and those of the other groups."""

    def infer(self, x: Event, rng: Rng) -> Inferred:
        """Draw latents behind data, with their log-densities."""
        posterior = self.encode(x)
        z = posterior.sample(rng.normal(*posterior.mean.shape[1:]).to(posterior.mean))
        return Inferred(Latent(z, posterior.log_prob(z)))

    def forward(self, x: Event, rng: Rng) -> tuple[Inferred, Likelihood]:
        """Draw latents behind data, and say what they decode to: one pass of training."""
        inferred = self.infer(x, rng)
        return inferred, self.decode(inferred.prior.z, [other.z for other in inferred.others])

    def prepare(self, x0: Event, rng: Rng) -> Event:
        """Turn what the data set gives into what the likelihood speaks of; the same by default."""
        return x0

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Latents (b, *latent_shape), or anything of that shape, by group."""
        return z.split(self.groups, dim=1) if self.groups else (z,)
