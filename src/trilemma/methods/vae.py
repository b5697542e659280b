r"""Variational autoencoders: the first stage of a latent score-based model, and its baseline.

.. math:: -\log p(x) \le E_{q(z|x)}\big[-\log p(x|z)\big] + \lambda\,KL\big(q(z|x)\,\|\,p(z)\big),

a bound where the coefficient lambda is one. Here the prior p(z) is standard normal: samples are
decoded noise and cost no network call. Trained with a coefficient below one, the autoencoder keeps
more of the data in its latents, and leaves a prior to learn.

Penalties on the largest singular values of convolutions and on the scales of normalisation layers
keep deep hierarchies stable.

Source: Kingma, Welling: Auto-encoding variational Bayes, 2014; Vahdat, Kautz: NVAE, 2020.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trilemma.autoencoders import Autoencoder
from trilemma.autoencoders.base import Inferred
from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.methods.base import Loss, Method
from trilemma.methods.kl import KLSchedule, group_sizes
from trilemma.networks.regularise import SpectralNorm, convolution_weights, norm_penalty
from trilemma.parametrisation import Predict
from trilemma.processes import VP
from trilemma.rng import Rng
from trilemma.typing import Event, Labels, Times

__all__ = ["VAE", "LatentMethod"]


class LatentMethod(Method):
    """A method whose data pass through an autoencoder.

    Args:
        autoencoder: encoder and decoder.
        kl: coefficient of the divergence over training; one throughout by default.
        penalty: weight of the autoencoder's spectral norms and normalisation scales, >= 0.

    Raises:
        ConfigError: for a negative penalty.
    """

    def __init__(
        self, autoencoder: nn.Module, kl: KLSchedule | None = None, penalty: float = 0.0
    ) -> None:
        super().__init__()
        if penalty < 0:
            raise ConfigError(f"penalty={penalty} must be >= 0")
        if not isinstance(autoencoder, Autoencoder):
            raise ConfigError(f"an Autoencoder is needed, got {type(autoencoder).__name__}")
        self.autoencoder: Any = autoencoder
        self.kl = KLSchedule() if kl is None else kl
        self.penalty = penalty
        if penalty:
            attach_spectral_norm(autoencoder)
        shapes = [(c, *autoencoder.latent_shape[1:]) for c in autoencoder.groups]
        shapes = [*(shapes or [autoencoder.latent_shape]), *autoencoder.other_shapes]
        self._sizes = group_sizes(shapes)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return unwrap(self.autoencoder).event_shape

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the latents that have a learned prior."""
        return unwrap(self.autoencoder).latent_shape

    def encode(self, x0: Event, rng: Rng) -> Tensor:
        """Draw latents behind data."""
        own = unwrap(self.autoencoder)
        return own.infer(own.prepare(x0, rng), rng).prior.z

    def decode(self, z: Tensor, rng: Rng) -> Event:
        """Decode latents, those of all other groups drawn from a standard normal law."""
        own = unwrap(self.autoencoder)
        others = [rng.normal(*shape).to(z) for shape in own.other_shapes]
        law = own.decode(z, others)
        return law.sample(rng) if own.draws else law.mean

    def bound(self, x0: Event, label: Labels | None, rng: Rng, step: int) -> Loss:
        """Return the bound on the negative log-likelihood, nats per datum, with its parts.

        Random numbers are drawn in this order: preparation, latents, cross entropy.
        """
        x = unwrap(self.autoencoder).prepare(x0, rng)
        inferred, law = self.autoencoder(x, rng)
        reconstruction, coefficient = -law.log_prob(x), self.kl.coefficient(step)
        cross, extra = self.cross_entropy(inferred.prior.z, label, rng, coefficient)
        divergences = self._divergences(inferred, cross)
        weights = self.kl.weights(divergences, self._sizes.to(divergences, non_blocking=True), step)
        balanced = coefficient * (weights * divergences).sum(1)
        total = (reconstruction + balanced + extra).mean()
        kl = divergences.sum(1)
        parts = {"reconstruction": reconstruction, "kl": kl, "nelbo": reconstruction + kl}
        found = {name: value.detach().mean() for name, value in parts.items()}
        if self.penalty:
            found["penalty"] = self.penalty * penalty_of(unwrap(self.autoencoder))
            total = total + found["penalty"]
            found["penalty"] = found["penalty"].detach()
        return Loss(total, found)

    def cross_entropy(
        self, z: Tensor, label: Labels | None, rng: Rng, coefficient: float
    ) -> tuple[Tensor, Tensor]:
        """-log p(z) under the prior, or an unbiased estimate of it.

        Args:
            z: latents (b, *latent).
            label: class labels (b), or None.
            rng: random numbers.
            coefficient: of the divergence in the loss.

        Returns:
            Nats for every latent number (b, *latent), and what the loss has besides (b).
        """
        return standard_cross_entropy(z), z.new_zeros(len(z))

    def _divergences(self, inferred: Inferred, cross: Tensor) -> Tensor:
        """KL of every group (b, groups): the prior's first, then all others."""
        own, columns = unwrap(self.autoencoder), []
        for piece in own.split(inferred.prior.log_q + cross):
            columns.append(piece.flatten(1).sum(1))
        for other in inferred.others:
            kl = other.log_q + standard_cross_entropy(other.z)
            columns.append(kl.flatten(1).sum(1))
        return torch.stack(columns, dim=1)


class VAE(LatentMethod):
    """Variational autoencoder with a standard normal prior.

    Args:
        autoencoder: encoder and decoder.
        kl: coefficient of the divergence over training; one throughout by default.
        penalty: weight of spectral norms and normalisation scales, >= 0.
    """

    averaged = ("autoencoder",)
    default_sampler: ClassVar[str] = "ancestral"
    default_steps = 0
    num_classes = 0

    def __init__(
        self, autoencoder: nn.Module, kl: KLSchedule | None = None, *, penalty: float = 0.0
    ) -> None:
        super().__init__(autoencoder, kl, penalty)
        self.phases = {"vae": ("autoencoder",)}
        self.process = VP()

    def loss(self, x0: Event, label: Labels | None, phase: str, rng: Rng, step: int) -> Loss:
        """Return the bound."""
        return self.bound(x0, label, rng, step)

    def denoiser(self, label: Labels | None = None, *, guidance: float = 1.0) -> ScoreDenoiser:
        """Return the exact score of the standard normal prior."""
        score = Predict("eps", mixed_score=True)
        return ScoreDenoiser(_nothing, self.process, score, label, guidance=guidance)

    def grid(self, num_steps: int | None = None, name: str | None = None) -> Times:
        """Return the single time t = 1: noise is decoded as it is.

        Raises:
            ConfigError: if steps are asked for.
        """
        if num_steps or name is not None:
            raise ConfigError("a VAE decodes noise without a step: leave steps and grid out")
        return torch.ones(1, dtype=torch.float64)


def standard_cross_entropy(z: Tensor) -> Tensor:
    """-log N(z; 0, 1) of every number, nats."""
    return (z.square() + math.log(2 * math.pi)) / 2


def attach_spectral_norm(network: nn.Module) -> None:
    """Give a network the vectors of its power iterations, which travel with its weights."""
    network.add_module("spectral", SpectralNorm(network))


def penalty_of(network: nn.Module) -> Tensor:
    """Spectral norms, where the network has vectors for them, and normalisation scales."""
    total = norm_penalty(network)
    spectral = getattr(network, "spectral", None)
    return total if spectral is None else total + spectral(convolution_weights(network))


def unwrap(network: nn.Module) -> Any:
    """The network itself, without a wrapper for parallel training."""
    return getattr(network, "module", network)


def _nothing(u: Tensor, t: Tensor, code: None, label: Labels | None) -> Tensor:
    """The remainder of a score that is exact."""
    return torch.zeros_like(u)
