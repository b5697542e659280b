r"""A denoiser without a network: the exact score of a Gaussian mixture under any linear process.

With it a sampler's error is its own. Around each centre c_j the states are Gaussian with the same
covariance,

.. math:: u_t \mid j \sim \mathcal N(\Psi\,(c_j, 0),\; C), \qquad
          C = \Psi\,(\Sigma_0 + \operatorname{diag}(\sigma^2, 0))\,\Psi^\top + Q,

so the score is C^-1 (m - u) with m the mean of the centres' images under their posterior weights.
Everything is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.parametrisation import Predict
from trilemma.processes import LinearSDE, act
from trilemma.typing import State, Times

__all__ = ["ExactMixture"]


class ExactMixture(ScoreDenoiser):
    """Exact noise, score, flow and clean data of a mixture of equally wide Gaussians.

    Args:
        process: forward process.
        centres: centres (m, d), in the units of x0.
        std: standard deviation of every component, >= 0.
        weights: weights (m), equal by default.

    Raises:
        ConfigError: for shapes that do not fit or a negative width.
    """

    def __init__(
        self,
        process: LinearSDE,
        centres: Tensor,
        std: float,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(_no_network, process, Predict("eps"))
        if centres.dim() != 2 or (weights is not None and weights.shape != centres.shape[:1]):
            raise ConfigError(f"centres {tuple(centres.shape)} must be (m, d), weights (m)")
        if not std >= 0:
            raise ConfigError(f"std={std} must be >= 0")
        self.centres, self.std = centres.double(), float(std)
        count = len(centres)
        even = torch.full((count,), 1 / count, dtype=torch.float64)
        self.log_weights = (even if weights is None else weights.double() / weights.sum()).log()

    def eps(self, u: State, t: Times | float) -> State:
        """Noise -L^T grad log p_t of all blocks, float64."""
        self.nfe += 1
        t = torch.as_tensor(t, dtype=torch.float64)
        process, state = self.process, u.double()
        spread = process.initial_cov()
        spread[0, 0] += self.std**2
        kernel = process.marginal(t, initial_cov=spread)
        precision = torch.linalg.inv(kernel.cov)
        means = act(kernel.mean_matrix, process.lift(self.centres))  # (m, k, d)
        apart = means - state[:, None]  # (b, m, k, d)
        pulled = torch.einsum("kj,bmjd->bmkd", precision, apart)
        log_share = self.log_weights - (apart * pulled).flatten(2).sum(-1) / 2
        score = torch.einsum("bm,bmkd->bkd", log_share.softmax(-1), pulled)
        return -act(process.marginal(t).chol().mT, score).to(u)

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw data (num, d), float64."""
        which = torch.multinomial(self.log_weights.exp(), num, True, generator=rng)
        shape = (num, self.centres.shape[1])
        eps = torch.randn(shape, generator=rng, dtype=torch.float64)
        return self.centres[which] + self.std * eps


def _no_network(*arguments: object) -> Tensor:
    raise ConfigError("an exact mixture has no network to call")
