"""Exponential moving averages of networks.

After every update of a network, ema <- decay ema + (1 - decay) weights; the first update copies
the weights. With ``warmup`` the decay rises as (1 + n) / (10 + n) at first, so that short runs are
not dominated by their beginning. Buffers are copied.

A loss that is to see the averages gets them by an exchange without a copy: ``lend`` gives them to
the network itself, so what is wrapped around it (precision, compiler, processes) serves for both.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

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

    @contextlib.contextmanager
    def lend(self, network: nn.Module) -> Iterator[None]:
        """Let the network have the averaged weights for a while; mode and buffers are its own.

        The way back belongs inside too: autograd remembers parameters, not what they held.

        Args:
            network: the network that is followed; not to be trained meanwhile.
        """
        pairs = list(zip(self.network.parameters(), network.parameters(), strict=True))
        _exchange(pairs)
        try:
            yield
        finally:
            _exchange(pairs)


def _exchange(pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Let the parameters of each pair have each other's values, without a copy."""
    for one, other in pairs:
        one.data, other.data = other.data, one.data
