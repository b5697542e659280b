"""Fully connected score networks for points: the two small ones of the paper on Langevin diffusion.

Source: Dockhorn, Vahdat, Kreis: Score-based generative modeling with critically-damped Langevin
diffusion, 2022, toy experiments.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.errors import ConfigError
from trilemma.typing import TimesOrSteps

__all__ = ["PointResNet", "PointScore"]


def _check(**positive: int) -> None:
    for name, value in positive.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")


class PointScore(nn.Module):
    """Five linear layers with SiLU on (u, t); the time enters as it is, beside its logarithm.

    Args:
        inputs: numbers in a state, all blocks together; 4 for position and velocity in the plane.
        outputs: numbers that the network predicts; by default as many as the inputs.
        width: hidden units per layer.
        num_layers: linear layers, >= 2.
        log_time: also give ln t to the first layer.
    """

    def __init__(
        self,
        inputs: int = 2,
        outputs: int | None = None,
        *,
        width: int = 128,
        num_layers: int = 5,
        log_time: bool = True,
    ) -> None:
        super().__init__()
        outputs = inputs if outputs is None else outputs
        _check(inputs=inputs, outputs=outputs, width=width, num_layers=num_layers - 1)
        self.num_classes, self.event_shape = 0, (inputs,)
        self.log_time = log_time
        widths = [inputs + 1 + log_time] + [width] * (num_layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, u: Tensor, t: TimesOrSteps, code: None = None, label: None = None) -> Tensor:
        """Map states (b, inputs) and times (b) to predictions (b, outputs)."""
        times = [t[:, None], t[:, None].log()] if self.log_time else [t[:, None]]
        h = torch.cat([u, *times], dim=1)
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.layers[-1](h)


class PointResNet(nn.Module):
    """Residual layers h <- silu(h + W (h, ln t)) between two linear ones.

    Args:
        inputs: numbers in a state, all blocks together.
        outputs: numbers that the network predicts; by default as many as the inputs.
        width: hidden units per layer.
        num_layers: residual layers.
    """

    def __init__(
        self, inputs: int = 2, outputs: int | None = None, *, width: int = 64, num_layers: int = 20
    ) -> None:
        super().__init__()
        outputs = inputs if outputs is None else outputs
        _check(inputs=inputs, outputs=outputs, width=width, num_layers=num_layers)
        self.num_classes, self.event_shape = 0, (inputs,)
        self.log_time = True
        hidden = [nn.Linear(width + 1, width) for _ in range(num_layers)]
        self.layers = nn.ModuleList(
            [nn.Linear(inputs + 1, width), *hidden, nn.Linear(width + 1, outputs)]
        )

    def forward(self, u: Tensor, t: TimesOrSteps, code: None = None, label: None = None) -> Tensor:
        """Map states (b, inputs) and times (b) to predictions (b, outputs)."""
        log_time = t[:, None].log()
        first, *hidden, last = self.layers
        h = F.silu(first(torch.cat([u, log_time], dim=1)))
        for layer in hidden:
            h = F.silu(h + layer(torch.cat([h, log_time], dim=1)))
        return last(torch.cat([h, log_time], dim=1))
