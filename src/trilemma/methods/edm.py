"""The baseline of Karras et al.: preconditioned denoising under growing noise.

The process is variance exploding on a linear clock, so that time is noise level; input, output and
loss are scaled to unit variance at every level, and levels are drawn from a log-normal law.

Source: Karras, Aittala, Aila, Laine: Elucidating the design space of diffusion-based generative
models, 2022.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from trilemma.errors import ConfigError
from trilemma.methods.score import ScoreMatching
from trilemma.methods.weighting import EDMWeight, LogNormal, Proposal, Weight
from trilemma.parametrisation import Preconditioned
from trilemma.processes import VE, LinearSDE
from trilemma.rng import Pairing

__all__ = ["EDM"]


class EDM(ScoreMatching):
    """Preconditioned diffusion model.

    Args:
        network: called as (scaled u, ln(sigma) / 4, None, label).
        process: forward process of one block; VE on a linear clock up to 80 by default.
        sigma_data: standard deviation of the data.
        log_mean, log_std: log-normal law of training noise levels.
        weight: what is minimised; that of the paper by default.
        proposal: density of training times; the log-normal law by default.
        pairing: how the times of a batch relate.
        t_min: earliest training time, in (0, 1), in units of the largest noise level.
        label_dropout: share of training labels replaced by none, for classifier-free guidance.
        default_steps: steps of the default sampling grid.
    """

    default_sampler: ClassVar[str] = "heun"
    default_grid: ClassVar[str] = "rho"

    def __init__(
        self,
        network: nn.Module,
        process: LinearSDE | None = None,
        *,
        sigma_data: float = 0.5,
        log_mean: float = -1.2,
        log_std: float = 1.2,
        weight: Weight | None = None,
        proposal: Proposal | None = None,
        pairing: Pairing = "independent",
        t_min: float = 2.5e-5,
        label_dropout: float = 0.0,
        default_steps: int = 18,
    ) -> None:
        if getattr(network, "log_time", False):
            raise ConfigError(
                "the network takes the logarithm of its time; that of EDM, ln(sigma) / 4, can be "
                "negative: set time_embedding to fourier_linear or positional, or log_time to false"
            )
        levels = LogNormal(log_mean, log_std)
        objective = EDMWeight(sigma_data, log_mean=log_mean, log_std=log_std)
        super().__init__(
            network,
            VE(sigma_max=80.0, clock="linear") if process is None else process,
            Preconditioned(sigma_data),
            weight=objective if weight is None else weight,
            proposal=levels if proposal is None else proposal,
            pairing=pairing,
            t_min=t_min,
            label_dropout=label_dropout,
        )
        self.default_steps, self.sampling_t_min = default_steps, t_min
