r"""A score network whose word counts per channel: the learnt blend of a mixed score.

Latents of an autoencoder that was pulled towards a standard normal law differ from it in some
channels and hardly in others. The mixed score lets training decide: with alpha = sigmoid(logit),
one number per channel,

.. math:: \epsilon = (1 - \alpha)\,\epsilon_{Gauss}(u, t) + \alpha\,\epsilon_\theta(u, t) .

As the Gaussian part is added by the parametrisation, the output here is the remainder
alpha (eps_theta - eps_Gauss). Called without a Gaussian part, it is eps_theta itself.

Source: Vahdat, Kreis, Kautz: Score-based generative modeling in latent space, 2021, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trilemma.errors import ConfigError
from trilemma.typing import OneTime, TimesOrSteps

__all__ = ["MixedScore"]


class MixedScore(nn.Module):
    """Blend a network with the score of Gaussian data; it needs a method with a mixed score.

    Args:
        network: score network, called as (u, t, None, label).
        channels: channels of the network's output.
        logit: start of the blend; -6 begins at a share of 0.0025.

    Raises:
        ConfigError: for channels < 1.
    """

    mixing_logit: nn.Parameter
    """Blend (1, channels, 1, ...); never decayed, since decay would reopen closed channels."""
    is_active: Tensor
    """1 where the network sees and shapes a channel, 0 where it is left to the Gaussian."""

    def __init__(self, network: nn.Module, channels: int, *, logit: float = -6.0) -> None:
        super().__init__()
        if channels < 1:
            raise ConfigError(f"channels={channels} must be at least 1")
        self.network = network
        shape = (1, channels, *[1] * (len(self.event_shape) - 1))
        self.mixing_logit = nn.Parameter(torch.full(shape, float(logit)))
        self.mixing_logit.no_decay = True  # type: ignore[attr-defined]
        self.register_buffer("is_active", torch.ones(shape))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of the network's input."""
        return self._own.event_shape

    @property
    def num_classes(self) -> int:
        """Class labels that the network takes."""
        return int(self._own.num_classes)

    @property
    def log_time(self) -> bool:
        """Whether the network looks at the logarithm of time."""
        return bool(getattr(self._own, "log_time", False))

    @property
    def _own(self) -> Any:
        return self.network

    @property
    def share(self) -> Tensor:
        """Share alpha of the network, by channel; none at all in closed ones."""
        return self.mixing_logit.sigmoid() * self.is_active

    @torch.no_grad()
    def close(self, inactive: Tensor) -> None:
        """Leave channels (c), a mask, to the Gaussian for good."""
        closed = inactive.to(self.is_active.device).reshape(self.is_active.shape)
        self.is_active[closed] = 0.0
        self.mixing_logit[closed] = -15.0

    def forward(
        self,
        u: Tensor,
        t: TimesOrSteps | OneTime,
        code: None = None,
        label: Tensor | None = None,
        *,
        gaussian: Tensor | None = None,
    ) -> Tensor:
        """Return alpha (network - gaussian), or what the network itself predicts.

        Args:
            u: states with blocks joined along the first event axis, (b, k channels, ...).
            t: times (b), or one time for all if the network takes it.
            code: not used.
            label: class labels (b), for a conditional network.
            gaussian: what Gaussian data would make the output, (b, channels, ...); None for the
                network's own output, which sees active channels alone.
        """
        blocks = u.shape[1] // self.is_active.shape[1]
        mask = self.is_active.repeat(1, blocks, *[1] * (u.dim() - 2))
        output = self.network(u * mask.to(u), t, None, label)
        return output if gaussian is None else self.share * (output.to(gaussian) - gaussian)
