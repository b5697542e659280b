r"""Score matching for critically-damped Langevin diffusion.

Noise enters the velocity alone, so only the velocity's score is learnt. *Hybrid* score matching
conditions on the datum and integrates the initial velocity out, which bounds the target and lowers
its variance; *denoising* score matching conditions on both. The mixed score gives the network the
Gaussian part of the answer.

Source: Dockhorn, Vahdat, Kreis: Score-based generative modeling with critically-damped Langevin
diffusion, 2022.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from trilemma import processes
from trilemma.errors import ConfigError
from trilemma.methods.score import ScoreMatching
from trilemma.methods.weighting import Proposal, Weight
from trilemma.parametrisation import VelocityNoise
from trilemma.processes import LinearSDE
from trilemma.rng import Pairing, Rng
from trilemma.typing import Event, State

__all__ = ["CLDSGM"]


class CLDSGM(ScoreMatching):
    """Diffusion model in position and velocity.

    Args:
        network: score network with 2 c input and c output channels, called as (u, t, None, label).
        process: process of two blocks; critically damped with constant beta = 4 by default.
        objective: "hybrid" or "denoising" score matching.
        mixed_score: add the Gaussian part of the velocity's noise.
        weight: what is minimised; uniform by default.
        proposal: density of training times; uniform by default.
        pairing: how the times of a batch relate.
        t_min: earliest training time, in (0, 1).
        label_dropout: share of training labels replaced by none, for classifier-free guidance.
        default_steps: steps of the default sampling grid.
    """

    default_sampler: ClassVar[str] = "gddim"
    default_grid: ClassVar[str] = "root"

    def __init__(
        self,
        network: nn.Module,
        process: LinearSDE | None = None,
        *,
        objective: Literal["hybrid", "denoising"] = "hybrid",
        mixed_score: bool = True,
        weight: Weight | None = None,
        proposal: Proposal | None = None,
        pairing: Pairing = "independent",
        t_min: float = 1e-5,
        label_dropout: float = 0.0,
        default_steps: int = 50,
    ) -> None:
        if objective not in ("hybrid", "denoising"):
            raise ConfigError(f"objective={objective!r}: 'hybrid' or 'denoising' is needed")
        super().__init__(
            network,
            processes.CLD() if process is None else process,
            VelocityNoise(mixed_score=mixed_score, hybrid=objective == "hybrid"),
            weight=weight,
            proposal=proposal,
            pairing=pairing,
            t_min=t_min,
            label_dropout=label_dropout,
        )
        self.default_steps = default_steps
        if objective == "denoising":
            self.default_sampler = "sscs"  # type: ignore[misc]
            self.default_final = "none"  # the position's noise is unknown

    def start(self, x0: Event, rng: Rng) -> State:
        """Data with zero velocity, or with a drawn one where the objective conditions on it."""
        u_0 = super().start(x0, rng)
        if not self.parametrisation.has_full_score:
            variance = float(self.process.initial_cov()[1, 1])
            u_0[:, 1] = rng.normal(*x0.shape[1:]).to(x0) * variance**0.5
        return u_0
