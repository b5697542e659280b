"""Exponential moving averages of networks.

After every update of a network, ema <- decay ema + (1 - decay) weights; the first update copies
the weights. With ``warmup`` the decay rises as (1 + n) / (10 + n) at first, so that short runs are
not dominated by their beginning. Buffers are copied.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trilemma.errors import ConfigError

__all__ = ["EMA"]


class EMA:
    """Averaged copy of a network.

    Args:
        network: the network to follow; not modified.
        decay: per update, in [0, 1).
        warmup: cap the decay by (1 + n) / (10 + n) after n updates.

    Raises:
        ConfigError: for a decay outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.9999, *, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"ema_decay={decay} must lie in [0, 1)")
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.warmup, self.num_updates = decay, warmup, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights."""
        decay = self.decay if self.num_updates else 0.0
        if self.warmup:
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        ours: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(ours, list[Tensor](network.parameters()), 1 - decay)
        for mine, its in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(its)
        self.num_updates += 1
