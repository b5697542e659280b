r"""Latent score-based generative models: a diffusion model as the prior of an autoencoder.

.. math:: -\log p(x) \le E_{q(z|x)}\big[-\log p(x|z)\big] + E_q\big[\log q(z|x)\big]
                        + CE\big(q(z|x)\,\|\,p_\theta(z)\big) .

The cross entropy with a diffusion prior is a denoising score-matching loss with the likelihood's
weight (``ScoreMatching.cross_entropy``). Its target is the score of the kernel, which is known, so
gradients reach the encoder although the score of the encoded data is not. Encoder and decoder are
always trained on this bound; the prior may have a weight of its own that favours samples.

The prior is *any method of this library* on latents: DDPM on any process, EDM, Langevin diffusion
in latent position and velocity, or a denoising diffusion GAN for a few calls (which has no density
and so takes an autoencoder as it is). How the two are trained follows from what is asked for:

===========  ==================================  ==================  =========================
autoencoder  prior                               phases              algorithm of the source
===========  ==================================  ==================  =========================
trained      likelihood weight, same times       joint               1
trained      ``times`` given                     autoencoder, prior  2, with separate passes
trained      another weight, same times          joint               3, one pass back
as it is     anything                            those of the prior
===========  ==================================  ==================  =========================

With tied times a single pass back trains both, each on its own weight, where the source needs
two: see ``ScoreMatching.tied_losses``. The prior's optimiser is ``prior`` in all cases
(``discriminator`` and ``generator`` for a GAN).

With separate passes the autoencoder may see the prior's moving averages (``averaged_prior``), as
samples do. Gradients go through them to the encoder and leave them as they are.

Source: Vahdat, Kreis, Kautz: Score-based generative modeling in latent space, 2021, algorithms 1
to 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from trilemma.denoiser import Denoiser
from trilemma.errors import ConfigError
from trilemma.methods.base import Loss, Method
from trilemma.methods.kl import KLSchedule
from trilemma.methods.score import ScoreMatching
from trilemma.methods.vae import (
    LatentMethod,
    attach_spectral_norm,
    penalty_of,
    standard_cross_entropy,
    unwrap,
)
from trilemma.methods.weighting import Likelihood, Proposal
from trilemma.networks import MixedScore
from trilemma.rng import BatchRng, Rng
from trilemma.typing import Event, Labels, Times

__all__ = ["LSGM"]

LOOKED_AT = 1001
"""Batches that decide which channels are active."""


class LSGM(LatentMethod):
    """Autoencoder with a method of this library as its prior.

    Args:
        autoencoder: encoder and decoder; trained from a first stage or from scratch.
        prior: the method on latents, whose network takes ``autoencoder.latent_shape``.
        train_autoencoder: train it with the prior; else it stays as it is.
        times: density of times of the autoencoder's cross entropy; the prior's by default.
        averaged_prior: train the autoencoder on the prior's averages, which the trainer puts in
            the place of its weights; only where ``times`` are given.
        kl: coefficient of the divergence over training; one throughout by default.
        penalty: weight of the autoencoder's spectral norms and normalisation scales, >= 0.
        prior_penalty: the same for the prior's network.
        prior_spectral: whether the prior's penalty has spectral norms.
        drop_inactive: leave latent channels whose divergence from a standard normal law is at
            most this many nats before the first step to the Gaussian; the prior's network must be
            a ``MixedScore``. 0 keeps all.
        sampling_t_min: last time of a sampling grid, in (0, 1); the prior's by default.

    Raises:
        ConfigError: for parts that do not fit each other.
    """

    kept = ("autoencoder",)

    def __init__(
        self,
        autoencoder: nn.Module,
        prior: Method,
        *,
        train_autoencoder: bool = True,
        times: Proposal | None = None,
        averaged_prior: bool = False,
        kl: KLSchedule | None = None,
        penalty: float = 0.0,
        prior_penalty: float = 0.0,
        prior_spectral: bool = True,
        drop_inactive: float = 0.0,
        sampling_t_min: float | None = None,
    ) -> None:
        super().__init__(autoencoder, kl, penalty)
        if prior.event_shape != self.state_shape:
            raise ConfigError(
                f"the autoencoder has latents of shape {self.state_shape}, the prior's network "
                f"takes {prior.event_shape}: set its image_size and in_channels, or inputs"
            )
        is_score = isinstance(prior, ScoreMatching)
        if not is_score and (train_autoencoder or prior_penalty or drop_inactive):
            raise ConfigError(
                f"{type(prior).__name__} has no density to train an autoencoder with: set "
                "train_autoencoder=False and leave penalties of the prior out"
            )
        if prior_penalty < 0 or drop_inactive < 0:
            raise ConfigError(f"{prior_penalty=} and {drop_inactive=} must be >= 0")
        if drop_inactive and not isinstance(_network(prior), MixedScore):
            raise ConfigError(f"{drop_inactive=} needs a MixedScore around the prior's network")
        self.prior: Any = prior
        self.train_autoencoder, self.times = train_autoencoder, times
        self.prior_penalty, self.drop_inactive = prior_penalty, drop_inactive
        if prior_penalty and prior_spectral:
            attach_spectral_norm(_network(prior))
        self.process, self.default_steps = prior.process, prior.default_steps
        self.default_sampler = prior.default_sampler  # type: ignore[misc]
        self.default_grid = prior.default_grid  # type: ignore[misc]
        if is_score and prior.default_sampler == "ancestral":
            # Latents lie close to a Gaussian: their flow is smooth, and few calls suffice.
            self.default_sampler, self.default_grid = "gddim", "log_snr"  # type: ignore[misc]
        self.sampling_t_min = prior.sampling_t_min
        if sampling_t_min is not None:
            if not 0 < sampling_t_min < 1 or not is_score:
                raise ConfigError(f"{sampling_t_min=} must lie in (0, 1), and needs a score model")
            self.sampling_t_min = prior.sampling_t_min = sampling_t_min
        self.averaged = tuple(f"prior.{name}" for name in prior.averaged)
        self._phases_of_prior = {
            phase if len(prior.phases) > 1 else "prior": phase for phase in prior.phases
        }
        nested = {
            ours: tuple(f"prior.{name}" for name in prior.phases[theirs])
            for ours, theirs in self._phases_of_prior.items()
        }
        has_one_weight = is_score and isinstance(prior.weight, Likelihood)
        self._is_tied = train_autoencoder and times is None and not has_one_weight
        if self._is_tied and self.kl.balance:
            raise ConfigError("a balanced divergence needs `times` of the autoencoder's own")
        if averaged_prior and (times is None or not train_autoencoder):
            raise ConfigError(
                "averaged_prior=True is for an autoencoder that is trained in a phase of its own: "
                "give its `times` and leave train_autoencoder=True, or leave averaged_prior out"
            )
        self.averaged_in = ("autoencoder",) if averaged_prior else ()
        if train_autoencoder and times is None:
            self.phases = {"joint": ("autoencoder", *nested["prior"])}
        elif train_autoencoder:
            self.phases = {"autoencoder": ("autoencoder",), **nested}
        else:
            self.phases = nested

    @property
    def num_classes(self) -> int:
        """Class labels that the prior takes; 0 for none."""
        return self.prior.num_classes

    def train(self, mode: bool = True) -> LSGM:
        """Set training mode; an autoencoder that is not trained stays in eval mode."""
        super().train(mode)
        if not self.train_autoencoder:
            self.autoencoder.eval()
        return self

    def loss(self, x0: Event, label: Labels | None, phase: str, rng: Rng, step: int) -> Loss:
        """Return the bound, the prior's own loss on encoded data, or both at once.

        Random numbers are drawn in this order: preparation, latents, then those of the prior.
        """
        if phase in ("joint", "autoencoder"):
            loss = self.bound(x0, label, rng, step)
        else:
            with torch.no_grad():
                z = self.encode(x0, rng)
            loss = self.prior.loss(z, label, self._phases_of_prior[phase], rng, step)
        if phase != "autoencoder" and self.prior_penalty:
            penalty = self.prior_penalty * penalty_of(_network(self.prior))
            loss = Loss(loss.total + penalty, {**loss.parts, "prior_penalty": penalty.detach()})
        if phase != "autoencoder" and isinstance(_network(self.prior), MixedScore):
            loss.parts["network_share"] = _network(self.prior).share.detach().mean()
        return loss

    def cross_entropy(
        self, z: Tensor, label: Labels | None, rng: Rng, coefficient: float
    ) -> tuple[Tensor, Tensor]:
        """Estimate -log p(z) by the prior; with tied times its own loss comes besides."""
        if not self._is_tied:
            return self.prior.cross_entropy(z, label, rng, self.times), z.new_zeros(len(z))
        loss, nats = self.prior.tied_losses(z, label, rng, coefficient)
        return nats, loss.flatten(1).sum(1)

    def begin(self, batches: Iterator[Event]) -> None:
        """Find the channels that carry next to nothing, and close them."""
        if not self.drop_inactive:
            return
        own, sums, count = unwrap(self.autoencoder), None, 0
        for i, x0 in enumerate(islice(batches, LOOKED_AT)):
            rng = BatchRng(i, len(x0), device=x0.device)
            latent = own.infer(own.prepare(x0, rng), rng).prior
            kl = (latent.log_q + standard_cross_entropy(latent.z)).sum(0)
            kl = kl.reshape(len(kl), -1).sum(1)
            sums, count = kl if sums is None else sums + kl, count + len(x0)
        if sums is not None:
            _network(self.prior).close(sums / count <= self.drop_inactive)

    def denoiser(self, label: Labels | None = None, *, guidance: float = 1.0) -> Denoiser:
        """Return the prior as samplers see it, in latents."""
        return self.prior.denoiser(label, guidance=guidance)

    def grid(self, num_steps: int | None = None, name: str | None = None) -> Times:
        """Return the prior's sampling grid."""
        return self.prior.grid(num_steps, name)


def _network(prior: Method) -> Any:
    """The prior's own network, unwrapped; its generator for a GAN."""
    return unwrap(prior.get_submodule(prior.averaged[0]))
