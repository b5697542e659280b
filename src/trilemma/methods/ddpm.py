"""The baseline of diffusion models: predict the noise of a one-block process.

Source: Ho, Jain, Abbeel: Denoising diffusion probabilistic models, 2020; in continuous time Song
et al., 2021.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from trilemma.methods.score import ScoreMatching
from trilemma.methods.weighting import Proposal, Weight
from trilemma.parametrisation import Kind, Predict
from trilemma.processes import VP, LinearSDE
from trilemma.rng import Pairing

__all__ = ["DDPM"]


class DDPM(ScoreMatching):
    """Diffusion model on any process, noise prediction by default.

    Args:
        network: score network, called as (u, t, None, label).
        process: forward process; VP(0.1, 20) by default.
        predict: "eps", "x0", "score" or "v_prediction".
        mixed_score: add the noise of Gaussian data of variance ``data_var``.
        data_var: variance of the data, for the mixed score.
        weight: what is minimised; uniform by default.
        proposal: density of training times; uniform by default.
        pairing: how the times of a batch relate.
        t_min: earliest training time, in (0, 1).
        label_dropout: share of training labels replaced by none, for classifier-free guidance.
        default_steps: steps of the default sampling grid.
    """

    default_sampler: ClassVar[str] = "ancestral"
    default_grid: ClassVar[str] = "uniform"

    def __init__(
        self,
        network: nn.Module,
        process: LinearSDE | None = None,
        *,
        predict: Kind = "eps",
        mixed_score: bool = False,
        data_var: float = 1.0,
        weight: Weight | None = None,
        proposal: Proposal | None = None,
        pairing: Pairing = "independent",
        t_min: float = 1e-5,
        label_dropout: float = 0.0,
        default_steps: int = 50,
    ) -> None:
        super().__init__(
            network,
            VP() if process is None else process,
            Predict(predict, mixed_score=mixed_score, data_var=data_var),
            weight=weight,
            proposal=proposal,
            pairing=pairing,
            t_min=t_min,
            label_dropout=label_dropout,
        )
        self.default_steps = default_steps
