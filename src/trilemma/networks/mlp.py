"""Fully connected networks for points in the plane: a generator and a discriminator.

The denoising diffusion GAN on 25 Gaussians uses three fully connected layers of 512 units in each
network (Xiao et al., 2022); how the step and the code enter is not published. Here the embedded
step index and the code are concatenated with the points at the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trilemma.errors import ConfigError
from trilemma.networks.layers import SinusoidalEmbedding
from trilemma.typing import Steps, TimesOrSteps

__all__ = ["PointDiscriminator", "PointGenerator"]


class _MLP(nn.Sequential):
    """``num_layers`` hidden layers with leaky ReLU 0.2, and a linear output."""

    def __init__(self, inputs: int, outputs: int, width: int, num_layers: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [nn.Linear(inputs, width), nn.LeakyReLU(0.2)]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, outputs))


def _check(**positive: int) -> None:
    for name, value in positive.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")


class PointGenerator(nn.Module):
    """Guess the clean point from a noisy one, the step index and a latent code.

    Args:
        dim: dimension of the points.
        code_dim: size of the latent code, > 0.
        width: hidden units per layer.
        num_layers: hidden layers.
        embed_dim: size of the step embedding.
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        code_dim: int = 2,
        width: int = 512,
        num_layers: int = 3,
        embed_dim: int = 16,
    ) -> None:
        super().__init__()
        _check(dim=dim, code_dim=code_dim, width=width, num_layers=num_layers)
        self.code_dim, self.num_classes, self.event_shape = code_dim, 0, (dim,)
        self.embed = SinusoidalEmbedding(embed_dim)
        self.layers = _MLP(dim + embed_dim + code_dim, dim, width, num_layers)

    def forward(self, u: Tensor, t: TimesOrSteps, code: Tensor, label: None = None) -> Tensor:
        """Map points (b, dim), steps or times (b), codes (b, code_dim) to points (b, dim)."""
        return self.layers(torch.cat([u, self.embed(t), code], dim=1))


class PointDiscriminator(nn.Module):
    """Judge pairs of points (u_s, u_t) at a step.

    Args:
        dim: dimension of the points.
        width: hidden units per layer.
        num_layers: hidden layers.
        embed_dim: size of the step embedding.
    """

    def __init__(
        self, dim: int = 2, *, width: int = 512, num_layers: int = 3, embed_dim: int = 16
    ) -> None:
        super().__init__()
        _check(dim=dim, width=width, num_layers=num_layers)
        self.num_classes = 0
        self.embed = SinusoidalEmbedding(embed_dim)
        self.layers = _MLP(2 * dim + embed_dim, 1, width, num_layers)

    def forward(self, u_s: Tensor, t: Steps, u_t: Tensor, label: None = None) -> Tensor:
        """Return logits (b, 1) of pairs of points (b, dim) at steps (b)."""
        return self.layers(torch.cat([u_s, u_t, self.embed(t)], dim=1))
