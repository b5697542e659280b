r"""How strongly the latents' divergence from their prior counts, and how groups share it.

Early in training the divergence is cheap to remove and reconstructions are hard to learn, so its
coefficient starts low and rises linearly. While it is below one, the divergence may be *balanced*
between groups: with KL_i the batch mean of group i and alpha_i the number of its positions over
the number of groups that share it, relative to the smallest, group i gets the weight

.. math:: w_i \propto (|KL_i| + 0.01) / \alpha_i, \qquad \tfrac1n \sum_i w_i = 1 .

Source: Vahdat, Kautz: NVAE, 2020, appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from trilemma.errors import ConfigError

__all__ = ["KLSchedule", "group_sizes"]


class KLSchedule:
    """Coefficient of the divergence: constant, then linear in the training steps.

    coefficient(n) = start + (end - start) (n - constant_steps) / steps, kept between the two.

    Args:
        start: first coefficient, in [0, 1].
        end: last coefficient, in (0, 1].
        steps: training steps from the first to the last; 0 takes the last at once.
        constant_steps: training steps before the rise.
        balance: share the divergence between groups while the coefficient is below one.

    Raises:
        ConfigError: for values outside their range.
    """

    def __init__(
        self,
        start: float = 1.0,
        end: float = 1.0,
        *,
        steps: int = 0,
        constant_steps: int = 0,
        balance: bool = False,
    ) -> None:
        if not (0 <= start <= end and end > 0):
            raise ConfigError(f"KL coefficients need 0 <= start={start} <= end={end}, end > 0")
        if min(steps, constant_steps) < 0:
            raise ConfigError(f"steps={steps} and constant_steps={constant_steps} must be >= 0")
        self.start, self.end = float(start), float(end)
        self.steps, self.constant_steps, self.balance = steps, constant_steps, balance

    def coefficient(self, step: int) -> float:
        """Coefficient at a training step."""
        if self.steps == 0:
            return self.end
        risen = (self.end - self.start) * (step - self.constant_steps) / self.steps
        return min(max(self.start + risen, self.start), self.end)

    def weights(self, divergences: Tensor, sizes: Tensor, step: int) -> Tensor:
        """Weights (groups) of the groups' divergences (b, groups), their mean one, detached."""
        if not self.balance or self.coefficient(step) >= 1:
            return torch.ones_like(sizes)
        shares = (divergences.detach().abs().mean(0) + 0.01) / sizes
        return shares / shares.mean()


def group_sizes(shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """Positions of each group over the number of groups with as many, relative to the smallest."""
    positions = [prod(shape[1:]) for shape in shapes]
    sizes = torch.tensor([area / positions.count(area) for area in positions])
    return sizes / sizes.min()
