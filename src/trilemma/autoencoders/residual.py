r"""A residual convolutional variational autoencoder: the small default for images.

Levels of group norm, SiLU and 3 x 3 convolutions, halved in resolution between one and the next;
the decoder mirrors the encoder. One group of latents at the lowest resolution, so the latent map
keeps the picture's layout, which a convolutional prior exploits. No batch normalisation: a decoded
image does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.autoencoders.base import Autoencoder, Normal
from trilemma.autoencoders.images import ImageLaw
from trilemma.autoencoders.likelihoods import Likelihood, full_precision, soft_clamp
from trilemma.errors import ConfigError
from trilemma.networks.layers import conv, group_norm
from trilemma.rng import Rng
from trilemma.typing import Event, Image

__all__ = ["ResidualVAE"]


class _Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), starting as the identity."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels), conv(channels, channels)
        self.norm2, self.conv2 = group_norm(channels), conv(channels, channels, scale=0.0)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Image) -> Image:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(h))))


class _Up(nn.Module):
    """Twice the resolution: repeated pixels, then a 3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs)

    def forward(self, x: Image) -> Image:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResidualVAE(Autoencoder):
    """Convolutional autoencoder with one group of latents (latent_channels, h / f, w / f).

    Args:
        image_size: side of the images in pixels, divisible by f = 2^(levels - 1) patch_size.
        image_channels: 1 or 3.
        channels: width of the first level.
        channel_mult: width of each level in units of ``channels``; the number of levels.
        num_blocks: residual blocks per level, in the encoder and in the decoder.
        latent_channels: channels of the latent map.
        likelihood: law of the pixels, a name of ``trilemma.autoencoders.likelihoods``.
        bits: colour depth of the likelihood.
        binarise: make every pixel black or white by chance, by its brightness, at each look.
        dropout: inside residual blocks, in [0, 1).
        patch_size: space-to-depth factor of the first level.

    Raises:
        ConfigError: for values that do not fit.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int = 3,
        *,
        channels: int = 64,
        channel_mult: Sequence[int] = (1, 2),
        num_blocks: int = 2,
        latent_channels: int = 8,
        likelihood: str = "logistic",
        bits: int = 8,
        binarise: bool = False,
        dropout: float = 0.0,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        factor = patch_size * 2 ** (len(channel_mult) - 1)
        if image_size % factor:
            raise ConfigError(
                f"image_size={image_size} must be divisible by {factor}: patch_size={patch_size} "
                f"and {len(channel_mult)} levels; pad or resize the images"
            )
        self.law = ImageLaw(likelihood, image_channels, bits=bits, binarise=binarise)
        side = image_size // factor
        self.event_shape = (image_channels, image_size, image_size)
        self.latent_shape = (latent_channels, side, side)
        self.patch_size = patch_size
        widths = [channels * mult for mult in channel_mult]
        area = patch_size**2
        encoder: list[Any] = [conv(image_channels * area, widths[0])]
        for inputs, outputs in pairwise([widths[0], *widths]):
            if len(encoder) > 1:
                encoder.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
            encoder += [_Block(outputs, dropout) for _ in range(num_blocks)]
        encoder += [group_norm(widths[-1]), nn.SiLU(), conv(widths[-1], 2 * latent_channels)]
        self.encoder = nn.Sequential(*encoder)
        decoder: list[Any] = [conv(latent_channels, widths[-1])]
        for inputs, outputs in pairwise([widths[-1], *reversed(widths)]):
            if len(decoder) > 1:
                decoder.append(_Up(inputs, outputs))
            decoder += [_Block(outputs, dropout) for _ in range(num_blocks)]
        outputs = self.law.num_parameters * area
        decoder += [group_norm(widths[0]), nn.SiLU(), conv(widths[0], outputs)]
        self.decoder = nn.Sequential(*decoder)

    def prepare(self, x0: Event, rng: Rng) -> Event:
        """Round to the colour depth, or make black and white."""
        return self.law.prepare(x0, rng)

    def encode(self, x: Event) -> Normal:
        """Means and log standard deviations, each bounded by 5 tanh(. / 5)."""
        h = full_precision(self.encoder(F.pixel_unshuffle(x, self.patch_size)))
        mean, log_std = h.chunk(2, dim=1)
        return Normal(soft_clamp(mean), soft_clamp(log_std))

    def decode(self, z: Tensor, others: Sequence[Tensor] = ()) -> Likelihood:
        """Law of the pixels."""
        parameters = self.decoder(z.to(memory_format=torch.contiguous_format))
        return self.law(F.pixel_shuffle(parameters, self.patch_size))
