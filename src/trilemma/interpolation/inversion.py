"""From data back to the noise that they are made of, and to the latents of an autoencoder.

The probability flow is an ordinary differential equation; followed from data, at the end of the
sampling grid, to t = 1 it reaches the one state from which it leads back. Stochastic samplers and
denoising diffusion GANs have no such inverse.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.interpolation.noise import KnownRng, Noise
from trilemma.methods.base import Method
from trilemma.methods.vae import LatentMethod, unwrap
from trilemma.processes import act
from trilemma.processes.base import cholesky
from trilemma.rng import Rng
from trilemma.samplers.ode import ODE
from trilemma.sampling import Walk
from trilemma.solver import solve
from trilemma.typing import Event, Labels, State, Times

__all__ = ["encode_to_noise", "invertible", "reconstruct"]

TOLERANCE = 1e-4
"""Of the default solver: images come back to a fraction of a grey level, on average."""


def invertible(method: Method, walk: Walk) -> Walk:
    """Return the walk with a solver of the probability flow, the default for data.

    Raises:
        ConfigError: for another sampler.
    """
    if walk.sampler is None:
        return replace(walk, sampler=ODE(rtol=TOLERANCE, atol=TOLERANCE))
    if not isinstance(walk.sampler_for(method), ODE):
        raise ConfigError(
            f"the sampler {type(walk.sampler_for(method)).__name__} has no inverse: data follow "
            "the probability flow; leave the sampler out, or use ode"
        )
    return walk


def encode_to_noise(
    method: Method, x0: Event, walk: Walk, rng: Rng, label: Labels | None = None
) -> Noise:
    """Follow data along the probability flow to t = 1.

    Data enter at the last time of the sampling grid, with the noise that the process has put on
    them by then, and velocities where there are any. Both are drawn: clean data lie outside the law
    of that time, and their noise would have the wrong length. Latents are the means of their
    posteriors.

    Args:
        method: trained method, in eval mode.
        x0: data (b, *event) on the method's device.
        walk: from ``invertible``; the same one leads back.
        rng: random numbers, one row per datum.
        label: class labels (b), or None.

    Raises:
        ConfigError: for a method without a probability flow.
        NumericalError: if the solver gives up.
    """
    solver = walk.sampler_for(method)
    assert isinstance(solver, ODE)
    process, grid = method.process, method.grid(walk.num_steps, walk.grid)
    denoiser = method.denoiser(label, guidance=walk.guidance)
    with torch.no_grad():
        z, others = _latents(method, x0)
        u = process.lift(z)
        if len(grid) > 1:
            u = process.marginal(grid[-1]).sample(u, rng.normal(*u.shape[1:]).to(u))
            u = _follow(denoiser, u, solver.thin(grid).flip(0), solver)
        return Noise(act(torch.linalg.inv(cholesky(process.prior_cov())), u), others)


def _latents(method: Method, x0: Event) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What is diffused, and the latents of all other groups: means of the posterior."""
    if not isinstance(method, LatentMethod):
        return x0, ()
    own, mean = unwrap(method.autoencoder), KnownRng((), len(x0))
    inferred = own.infer(own.prepare(x0, mean), mean)
    return inferred.prior.z, tuple(other.z for other in inferred.others)


def _follow(denoiser: Denoiser, u: State, times: Times, solver: ODE) -> State:
    """Integrate the probability flow over increasing times."""
    if not isinstance(denoiser, ScoreDenoiser):
        raise ConfigError(
            "a denoising diffusion GAN has no probability flow from data back to noise: give the "
            "numbers of samples instead of data"
        )
    start, end = float(times[0]), float(times[-1])

    def slope(time: Tensor, state: Tensor) -> Tensor:
        return denoiser.flow(state, min(max(float(time), start), end))

    solved = solve(
        slope,
        u,
        times.to(u.device),
        solver=solver.solver,
        rtol=solver.rtol,
        atol=solver.atol,
    )
    return solved[-1]


def reconstruct(method: Method, x0: Event) -> Event:
    """Encode data to the means of their latents and decode them to the mean of their law.

    Raises:
        ConfigError: for a method without an autoencoder.
    """
    if not isinstance(method, LatentMethod):
        raise ConfigError(
            f"{type(method).__name__} has no autoencoder: reconstructions need a latent model"
        )
    with torch.no_grad():
        z, others = _latents(method, x0)
        return unwrap(method.autoencoder).decode(z, others).mean
