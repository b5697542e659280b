r"""Log-likelihoods by the probability flow.

Along the flow du/dt = f(u, t) the log-density changes by the divergence, so that

.. math:: \log p_0(u_0) = \log \mathcal N(u_1; 0, P) + \int_{t_{min}}^1 \nabla\cdot f(u_t, t)\,dt .

The divergence is the trace of a Jacobian: exact with one backward pass per dimension, or
estimated without bias by one random probe, e^T (df/du) e with E e e^T = I (Hutchinson). Only the
blocks that noise enters need a probe: in the others the flow is the drift F u, whose trace is
known. A probe of position and velocity together, as published, brings the coupling between them
into the estimate, where it adds variance and nothing else.

*Images* are bytes; a density needs noise under the last bit. With x uniform in a byte's cell,
log-likelihoods in bits per dimension are those of the bytes, up to the usual bound: uniform bytes
under the right uniform density score exactly 8.

*Position and velocity*: with v drawn from its initial law N(0, S), the density of x is bounded,

.. math:: \log p(x) \ge E_v \log p(x, v) + H(v), \qquad H(v) = \tfrac12 \log\det(2\pi e S),

so what is reported for Langevin diffusion is an upper bound on the negative log-likelihood.

*Latents*: with a posterior q(z | x) and a law p(x | z) the negative evidence bound is
-log p(x | z) + log q(z | x) - log p(z), its last term by the flow. K draws of z give a tighter one,

.. math:: -\log p(x) \le -\log \tfrac1K \sum_k e^{-\mathrm{NELBO}_k}
          \quad\text{in expectation (Burda et al., 2016).}

A law of bytes, or of black and white, gives nats of the data themselves: nothing is dequantised.

Source: Song et al., 2021, Eq. 39; Dockhorn et al., 2022, App. B.5; Grathwohl et al., 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from trilemma.autoencoders import Autoencoder
from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError, NumericalError
from trilemma.processes import LinearSDE
from trilemma.processes.base import cholesky
from trilemma.rng import Rng
from trilemma.solver import solve
from trilemma.typing import Event, State

__all__ = [
    "NLL",
    "Divergence",
    "LatentNLL",
    "Probe",
    "Probed",
    "dequantise",
    "latent_negative_log_likelihood",
    "negative_log_likelihood",
]

Divergence = Literal["hutchinson", "exact"]
Probe = Literal["rademacher", "gaussian"]
Probed = Literal["noisy", "all"]


@dataclass(frozen=True)
class NLL:
    """Negative log-likelihoods of a batch, and what kind of number they are.

    Args:
        nats: per datum (b), float64, for densities in the units of x0.
        num_dims: dimensions of a datum.
        is_bound: an upper bound in expectation, else an estimate of the value itself.
        divergence: "hutchinson" (unbiased noise of its own) or "exact".
        nfe: evaluations of the flow.
    """

    nats: Tensor
    num_dims: int
    is_bound: bool
    divergence: Divergence
    nfe: int

    def bits_per_dim(self, levels: int = 256) -> Tensor:
        """Bits per dimension (b) of data with so many levels spread over [-1, 1]."""
        return self.nats / (self.num_dims * math.log(2)) + math.log2(levels / 2)

    @property
    def kind(self) -> str:
        """What the numbers are, in words."""
        what = "upper bound on the NLL (velocities averaged)" if self.is_bound else "NLL"
        how = {"hutchinson": "Hutchinson's estimate of the divergence", "exact": "exact divergence"}
        return f"{what} by the probability flow, {how[self.divergence]}"


@dataclass(frozen=True)
class LatentNLL:
    """Bounds on negative log-likelihoods of a batch under a latent model, and their terms.

    Args:
        nats: the bound per datum (b), float64.
        reconstruction: -log p(x | z) per datum (b), mean over the draws of z.
        kl: log q(z | x) - log p(z) per datum (b), mean over the draws of z.
        num_draws: draws of z, K; 1 is the negative evidence bound.
        num_dims: dimensions of a datum.
        is_discrete: whether the law is of the data themselves, not a density.
        nfe: evaluations of the flow per draw.
    """

    nats: Tensor
    reconstruction: Tensor
    kl: Tensor
    num_draws: int
    num_dims: int
    is_discrete: bool
    nfe: int

    @property
    def bits_per_dim(self) -> Tensor | None:
        """Bits per dimension (b); None for a density, whose unit is arbitrary."""
        return self.nats / (self.num_dims * math.log(2)) if self.is_discrete else None

    @property
    def kind(self) -> str:
        """What the numbers are, in words."""
        bound = "negative evidence bound (NELBO)"
        if self.num_draws > 1:
            bound = f"importance-weighted bound of {self.num_draws} draws"
        return f"upper bound on the NLL: {bound}" + ("" if self.is_discrete else ", of a density")


def latent_negative_log_likelihood(
    autoencoder: Autoencoder,
    denoiser: Denoiser | None,
    x0: Event,
    rng: Rng,
    *,
    num_draws: int = 1,
    **options: Any,
) -> LatentNLL:
    """Bound the negative log-likelihood of data under an autoencoder with a learned prior.

    Random numbers are drawn in this order: preparation; then for every draw latents and those of
    ``negative_log_likelihood``.

    Args:
        autoencoder: encoder and decoder.
        denoiser: the prior of the latents; a standard normal law where None.
        x0: data (b, *event) as the data set gives them.
        rng: random numbers, one row per datum.
        num_draws: K, draws of the latents per datum, >= 1.
        options: of ``negative_log_likelihood``.

    Raises:
        ConfigError: for num_draws < 1, or a prior without a density.
    """
    if num_draws < 1:
        raise ConfigError(f"num_draws={num_draws} must be at least 1")
    x = autoencoder.prepare(x0, rng)
    bounds, reconstructions, divergences, calls, law = [], [], [], 0, None
    for _ in range(num_draws):
        with torch.no_grad():
            inferred, law = autoencoder(x, rng)
        reconstruction = -law.log_prob(x).double()
        z, log_q = inferred.prior
        kl = log_q.double().flatten(1).sum(1)
        if denoiser is None:
            kl = kl + _standard_nats(z)
        else:
            found = negative_log_likelihood(denoiser, z, rng, **options)
            kl, calls = kl + found.nats, calls + found.nfe
        for other in inferred.others:
            kl = kl + other.log_q.double().flatten(1).sum(1) + _standard_nats(other.z)
        reconstructions.append(reconstruction)
        divergences.append(kl)
        bounds.append(reconstruction + kl)
    assert law is not None
    nats = math.log(num_draws) - torch.logsumexp(-torch.stack(bounds), dim=0)
    return LatentNLL(
        nats,
        torch.stack(reconstructions).mean(0),
        torch.stack(divergences).mean(0),
        num_draws,
        law.num_dims(x),
        law.is_discrete,
        calls // num_draws,
    )


def _standard_nats(z: Tensor) -> Tensor:
    """-log N(z; 0, I) per datum (b), float64, nats."""
    return (z.double().square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2


def dequantise(images: Tensor, rng: Rng) -> Event:
    """Spread bytes (b, c, h, w) uniformly over their cells of [-1, 1], float32.

    x = 2 (byte + r) / 256 - 1 with r uniform in [0, 1).
    """
    # Uniform numbers through the normal distribution function: one source of numbers per sample.
    noise = torch.special.ndtr(rng.normal(*images.shape[1:]).double()).clamp(max=1 - 2.0**-24)
    return ((images.double() + noise.to(images.device)) / 128 - 1).float()


def negative_log_likelihood(
    denoiser: Denoiser,
    x0: Event,
    rng: Rng,
    *,
    divergence: Divergence = "hutchinson",
    probe: Probe = "rademacher",
    probed: Probed = "all",
    t_min: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> NLL:
    """Integrate the probability flow from data to the prior.

    Random numbers are drawn in this order: velocities where there are any, probe.

    Args:
        denoiser: the model.
        x0: data (b, *event), already dequantised if they were bytes.
        rng: random numbers, one row per datum.
        divergence: "hutchinson" or "exact"; the latter costs one backward pass per dimension.
        probe: law of Hutchinson's probe.
        probed: blocks that Hutchinson's probe enters: all as published, or those with noise, which
            the command line takes because it is surer.
        t_min: time at which data enter, in (0, 1).
        rtol, atol: tolerances of the Runge-Kutta 4(5) solver, shared by the batch.

    Raises:
        ConfigError: for a model without a score, or an option that is unknown.
        NumericalError: if the solver gives up or the result is not finite.
    """
    if not isinstance(denoiser, ScoreDenoiser):
        raise ConfigError(
            "a likelihood needs a score; a denoising diffusion GAN draws samples and has no density"
        )
    for name, given, allowed in (
        ("divergence", divergence, get_args(Divergence)),
        ("probe", probe, get_args(Probe)),
        ("probed", probed, get_args(Probed)),
    ):
        if given not in allowed:
            raise ConfigError(f"{name}={given!r} must be {' or '.join(map(repr, allowed))}")
    if not 0 < t_min < 1:
        raise ConfigError(f"t_min={t_min} must lie in (0, 1)")
    u_0, entropy = _start(denoiser.process, x0, rng)
    num_dims, is_probed = x0[0].numel(), _noisy(denoiser.process)
    if divergence == "hutchinson" and probed == "all":
        is_probed[:] = True
    directions = None
    if divergence == "hutchinson":
        drawn = rng.normal(*u_0.shape[1:]).to(u_0)
        directions = drawn.sign() if probe == "rademacher" else drawn.clone()
        directions[:, ~is_probed] = 0.0

    def slope(time: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        now = min(max(float(time), t_min), 1.0)
        with torch.enable_grad():
            u = state[0].detach().requires_grad_()
            flow = denoiser.flow(u, now)
            trace = _trace(flow, u, is_probed, directions)
        drift = denoiser.process.drift_matrix(torch.tensor(now, dtype=torch.float64)).diagonal()
        return flow.detach(), trace + num_dims * float(drift[~is_probed].sum())

    calls = denoiser.nfe
    ends = torch.tensor([t_min, 1.0], dtype=torch.float64, device=x0.device)
    start = u_0, u_0.new_zeros(len(u_0))
    path, gained = solve(slope, start, ends, rtol=rtol, atol=atol, norm=_root_mean_square)
    nats = -(_prior_log_prob(denoiser.process, path[-1]) + gained[-1].double()) - entropy
    if not bool(torch.isfinite(nats).all()):
        raise NumericalError("the log-likelihood is not finite; the flow left the numbers")
    is_bound = denoiser.process.num_blocks > 1
    return NLL(nats, num_dims, is_bound, divergence, denoiser.nfe - calls)


def _start(process: LinearSDE, x0: Event, rng: Rng) -> tuple[State, float]:
    """State with drawn velocities, and the entropy of these, nats."""
    u_0 = process.lift(x0)
    if process.num_blocks == 1:
        return u_0, 0.0
    cov = process.initial_cov()[1:, 1:]
    if not bool((torch.linalg.eigvalsh(cov) > 0).all()):
        raise ConfigError(
            "the initial velocity has no spread, hence no density: init_velocity_scale must be > 0"
        )
    factor = cholesky(cov).to(u_0)
    drawn = rng.normal(process.num_blocks - 1, *x0.shape[1:]).to(u_0)
    u_0[:, 1:] = torch.einsum("kj,bj...->bk...", factor, drawn)
    per_dim = float(torch.logdet(cov)) + len(cov) * (1 + math.log(2 * math.pi))
    return u_0, x0[0].numel() * per_dim / 2


def _root_mean_square(parts: tuple[Tensor, ...]) -> Tensor:
    """One norm of states and log-densities together, so that the few of these do not set steps."""
    return torch.cat([part.flatten() for part in parts]).square().mean().sqrt()


def _noisy(process: LinearSDE) -> Bool[Tensor, " k"]:
    """Blocks that noise enters, and with it the score."""
    return process.diffusion_matrix(torch.tensor(0.5, dtype=torch.float64)).ne(0).any(-1)


def _trace(flow: Tensor, u: Tensor, is_probed: Tensor, directions: Tensor | None) -> Tensor:
    """Divergence of the flow (b) in some blocks: exact, or along directions, 0 elsewhere."""
    if directions is not None:
        (product,) = torch.autograd.grad(flow, u, directions)
        return (product * directions).flatten(1).sum(1)
    total = torch.zeros(len(u), dtype=u.dtype, device=u.device)
    for block in is_probed.nonzero()[:, 0].tolist():
        flat = flow[:, block].flatten(1)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), u, retain_graph=True)
            total = total + row[:, block].flatten(1)[:, i]
    return total


def _prior_log_prob(process: LinearSDE, u: State) -> Tensor:
    """Log-density (b) of states under the prior, float64, nats."""
    cov = process.prior_cov()
    whitening = torch.linalg.inv(cholesky(cov)).to(u.device)
    whitened = torch.einsum("kj,bj...->bk...", whitening, u.double())
    num_dims = u[0, 0].numel()
    constant = num_dims * (len(cov) * math.log(2 * math.pi) + float(torch.logdet(cov)))
    return -(whitened.square().flatten(1).sum(1) + constant) / 2
