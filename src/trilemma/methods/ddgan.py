r"""Denoising diffusion GANs.

A diffusion model denoises with a Gaussian, which is right for tiny steps only. Take T = 2 to 8
large steps instead: the true denoising law q(u_s | u_t) is then broad and multimodal, and a
conditional GAN models it. The generator draws clean data from the noisier state and a latent code,
:math:`\hat x_0 = G(u_t, n, z)`; the Gaussian posterior of the forward process returns to the
earlier state, :math:`u_s \sim q(u_s \mid u_t, \hat x_0)`; the discriminator judges pairs
(u_s, u_t). With the non-saturating loss, softplus(a) = log(1 + e^a) and logits l = D(u_s, n, u_t),

.. math:: L_D = E\,\mathrm{softplus}(-l_{real}) + E\,\mathrm{softplus}(l_{fake})
               + \tfrac{\gamma}{2} E\,\lVert \nabla_{u_s} l_{real} \rVert^2, \qquad
          L_G = E\,\mathrm{softplus}(-l_{fake}) .

The gradient penalty R1 is taken with respect to the cleaner image alone and applied every
``r1_every`` steps, not multiplied by that interval. T = 1 is a plain GAN whose discriminator also
sees the (almost pure) noise.

Source: Xiao, Kreis, Vahdat: Tackling the generative learning trilemma with denoising diffusion
GANs, 2022.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.denoiser import GeneratorDenoiser
from trilemma.errors import ConfigError
from trilemma.methods.base import Loss, Method
from trilemma.processes import VP, LinearSDE, Posterior, Transition, uniform_grid
from trilemma.rng import Rng
from trilemma.typing import Event, Labels, State, Steps, Times

__all__ = ["DDGAN"]


class DDGAN(Method):
    """Denoising diffusion GAN with T large steps shared by one generator.

    Args:
        generator: called as (u_t, step, code, label); has ``code_dim`` and ``num_classes``.
        discriminator: called as (u_s, step, u_t, label); None in a model file for sampling.
        process: forward process with one block; VP(0.1, 20) by default.
        num_steps: T, network calls per sample, >= 1.
        t_min: time at which clean data live, so that the first step has room, in [0, 1).
        r1_weight: gamma of the gradient penalty, >= 0; 0 turns it off.
        r1_every: steps between two penalties, >= 1.

    Raises:
        ConfigError: for values outside their range, or networks that disagree about classes.
    """

    averaged = ("generator",)
    training_only = ("discriminator",)
    default_sampler: ClassVar[str] = "ancestral"

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None = None,
        process: LinearSDE | None = None,
        *,
        num_steps: int = 4,
        t_min: float = 1e-3,
        r1_weight: float = 0.05,
        r1_every: int = 1,
    ) -> None:
        super().__init__()
        process = VP() if process is None else process
        if process.num_blocks != 1:
            raise ConfigError(f"DDGAN needs a process of one block, got {type(process).__name__}")
        if r1_weight < 0 or r1_every < 1:
            raise ConfigError(f"r1_weight={r1_weight} must be >= 0 and r1_every={r1_every} >= 1")
        if discriminator is not None and generator.num_classes != discriminator.num_classes:
            raise ConfigError(
                f"generator and discriminator disagree about num_classes: {generator.num_classes} "
                f"and {discriminator.num_classes}"
            )
        seen = getattr(discriminator, "image_channels", None)
        drawn = getattr(generator, "event_shape", (seen,))[0]
        if seen is not None and seen != drawn:
            raise ConfigError(
                f"the generator draws {drawn} channels, the discriminator reads {seen}: set its "
                "image_channels"
            )
        self.phases = {"discriminator": ("discriminator",), "generator": ("generator",)}
        self.generator, self.discriminator = generator, discriminator
        self.process, self.default_steps = process, num_steps
        self.t_min = self.sampling_t_min = t_min
        self.r1_weight, self.r1_every = r1_weight, r1_every
        self._times = uniform_grid(num_steps, t_min).flip(0)
        early, late = self._times[:-1], self._times[1:]
        cpu = torch.device("cpu")
        self._tables: dict[tuple[str, torch.device], list[Tensor]] = {
            ("marginal", cpu): list(process.marginal(early, t_min)),
            ("transition", cpu): list(process.transition(early, late)),
            ("posterior", cpu): list(process.posterior(late, early, t_min)),
        }

    @property
    def num_classes(self) -> int:
        """Class labels that the generator takes; 0 for none."""
        return _unwrap(self.generator).num_classes

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum that the generator takes."""
        return _unwrap(self.generator).event_shape

    def marginal(self, step: Steps) -> Transition:
        """Kernel from clean data to the cleaner state of each step, blocks (b, 1, 1)."""
        return Transition(*self._rows("marginal", step))

    def transition(self, step: Steps) -> Transition:
        """Kernel from the cleaner to the noisier state of each step, blocks (b, 1, 1)."""
        return Transition(*self._rows("transition", step))

    def posterior(self, step: Steps) -> Posterior:
        """Law of the cleaner state given the noisier one and clean data, blocks (b, 1, 1)."""
        return Posterior(*self._rows("posterior", step))

    def _rows(self, name: str, step: Steps) -> list[Tensor]:
        """Rows of a coefficient table, copied once to each device."""
        key = (name, step.device)
        if key not in self._tables:
            record = self._tables[name, torch.device("cpu")]
            self._tables[key] = [table.to(step.device) for table in record]
        return [table[step] for table in self._tables[key]]

    def real_pair(self, x0: Event, step: Steps, rng: Rng) -> tuple[State, State]:
        """Draw (u_s, u_t) along the forward chain: two independent noises, not two marginals."""
        u_0 = x0[:, None]
        eps_t = rng.normal(*u_0.shape[1:]).to(u_0)
        eps_s = rng.normal(*u_0.shape[1:]).to(u_0)
        u_s = self.marginal(step).sample(u_0, eps_s)
        return u_s, self.transition(step).sample(u_s, eps_t)

    def fake(self, u_t: State, step: Steps, label: Labels | None, rng: Rng) -> State:
        """Draw a denoised state u_s from the model, given the noisier one."""
        code = rng.normal(_unwrap(self.generator).code_dim).to(u_t)
        u_0 = self.generator(u_t[:, 0], step, code, label)[:, None].to(u_t)
        return self.posterior(step).sample(u_0, u_t, rng.normal(*u_t.shape[1:]).to(u_t))

    def loss(self, x0: Event, label: Labels | None, phase: str, rng: Rng, step: int) -> Loss:
        """Return the loss of the phase "discriminator" or "generator".

        Random numbers are drawn in this order: step index, noise of u_t, noise of u_s, code,
        posterior noise.
        """
        if self.discriminator is None:
            raise ConfigError("this DDGAN was loaded for sampling; training needs a discriminator")
        if self.num_classes == 0:
            label = None
        index = rng.integers(self.default_steps)
        u_s, u_t = self.real_pair(x0, index, rng)
        if phase == "generator":
            logits = self._judge(self.fake(u_t, index, label, rng), index, u_t, label)
            total = F.softplus(-logits).mean()
            return Loss(total, {"loss": total.detach()})
        with torch.no_grad():
            fake = self.fake(u_t, index, label, rng)
        has_penalty = self.r1_weight > 0 and step % self.r1_every == 0
        real_logits = self._judge(u_s.requires_grad_(has_penalty), index, u_t, label)
        real, penalty = F.softplus(-real_logits).mean(), real_logits.new_zeros(())
        if has_penalty:
            penalty = self.r1_weight / 2 * self._gradient_norm(real_logits, u_s)
        fake_loss = F.softplus(self._judge(fake, index, u_t, label)).mean()
        parts = {"real": real.detach(), "fake": fake_loss.detach()}
        if has_penalty:
            parts["r1"] = penalty.detach()
        return Loss(real + fake_loss + penalty, parts)

    def _judge(self, u_s: State, step: Steps, u_t: State, label: Labels | None) -> Tensor:
        assert self.discriminator is not None
        return self.discriminator(u_s[:, 0], step, u_t[:, 0], label)[:, 0].float()

    @staticmethod
    def _gradient_norm(logits: Tensor, u_s: State) -> Tensor:
        """Batch mean of the squared norm of d logits / d u_s, differentiable again."""
        (gradient,) = torch.autograd.grad(logits.sum(), u_s, create_graph=True)
        return gradient.flatten(1).square().sum(1).mean()

    def denoiser(self, label: Labels | None = None, *, guidance: float = 1.0) -> GeneratorDenoiser:
        """Return the generator as samplers see it; it cannot be guided."""
        if guidance != 1.0:
            raise ConfigError(f"guidance={guidance}: guidance mixes scores, a generator has none")
        return GeneratorDenoiser(self.generator, self.process, self._times, label)

    def grid(self, num_steps: int | None = None, name: str | None = None) -> Times:
        """Return the T-step grid from t = 1 down to t_min.

        Raises:
            ConfigError: if the grid is not the one that the generator was trained on.
        """
        if name not in (None, "uniform"):
            raise ConfigError(
                f"grid {name!r}: this denoising diffusion GAN was trained on a uniform grid"
            )
        if num_steps not in (None, self.default_steps):
            raise ConfigError(
                f"this denoising diffusion GAN was trained on {self.default_steps} steps and "
                f"cannot sample in {num_steps}: leave the number of steps out, or train another"
            )
        return self._times.flip(0)


def _unwrap(network: nn.Module) -> Any:
    """The network itself, without a wrapper for parallel training."""
    return getattr(network, "module", network)
