"""Fully connected networks for points in the plane: a generator and a discriminator.

The denoising diffusion GAN on 25 Gaussians uses three fully connected layers of 512 units in each
network (Xiao et al., 2022); how the step and the code enter is not published. Here the embedded
step index and the code are concatenated with the points at the input.

A fully connected network learns first what changes slowly with its input, and a mixture of narrow
modes changes fast: a discriminator of bare coordinates stays blind to modes much narrower than
their distance. ``frequencies`` therefore puts sines and cosines of the coordinates beside every
point that enters (Tancik et al.: Fourier features let networks learn high frequency functions in
low dimensional domains, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

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


class _Waves(nn.Module):
    """Points (b, dim) beside their sines and cosines at fixed angular frequencies."""

    def __init__(self, frequencies: Sequence[float]) -> None:
        super().__init__()
        self.factor = 1 + 2 * len(frequencies)
        self.register_buffer(
            "frequencies", torch.tensor(list(frequencies)).float(), persistent=False
        )
        self.frequencies: Tensor

    def forward(self, u: Tensor) -> Tensor:
        """Map points (b, dim) to (b, factor dim)."""
        phase = (u[:, None] * self.frequencies.to(u)[:, None]).flatten(1)
        return torch.cat([u, phase.sin(), phase.cos()], dim=1)


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
        frequencies: of the sines and cosines of the point, radians per unit; none by default.
        residual: add the noisy point to the output, so that the layers learn a displacement.
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        code_dim: int = 2,
        width: int = 512,
        num_layers: int = 3,
        embed_dim: int = 16,
        frequencies: Sequence[float] = (),
        residual: bool = False,
    ) -> None:
        super().__init__()
        _check(dim=dim, code_dim=code_dim, width=width, num_layers=num_layers)
        self.code_dim, self.num_classes, self.event_shape = code_dim, 0, (dim,)
        self.residual = residual
        self.embed, self.waves = SinusoidalEmbedding(embed_dim), _Waves(frequencies)
        inputs = dim * self.waves.factor + embed_dim + code_dim
        self.layers = _MLP(inputs, dim, width, num_layers)

    def forward(self, u: Tensor, t: TimesOrSteps, code: Tensor, label: None = None) -> Tensor:
        """Map points (b, dim), steps or times (b), codes (b, code_dim) to points (b, dim)."""
        guess = self.layers(torch.cat([self.waves(u), self.embed(t), code], dim=1))
        return guess + u if self.residual else guess


class PointDiscriminator(nn.Module):
    """Judge pairs of points (u_s, u_t) at a step.

    Args:
        dim: dimension of the points.
        width: hidden units per layer.
        num_layers: hidden layers.
        embed_dim: size of the step embedding.
        frequencies: of the sines and cosines of both points, radians per unit; none by default.
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        width: int = 512,
        num_layers: int = 3,
        embed_dim: int = 16,
        frequencies: Sequence[float] = (),
    ) -> None:
        super().__init__()
        _check(dim=dim, width=width, num_layers=num_layers)
        self.num_classes = 0
        self.embed, self.waves = SinusoidalEmbedding(embed_dim), _Waves(frequencies)
        self.layers = _MLP(2 * dim * self.waves.factor + embed_dim, 1, width, num_layers)

    def forward(self, u_s: Tensor, t: Steps, u_t: Tensor, label: None = None) -> Tensor:
        """Return logits (b, 1) of pairs of points (b, dim) at steps (b)."""
        return self.layers(torch.cat([self.waves(u_s), self.waves(u_t), self.embed(t)], dim=1))
