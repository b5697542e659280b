r"""Time-conditional discriminators of denoising diffusion GANs.

They judge pairs (u_s, u_t): is the cleaner image u_s a plausible denoising of the noisier u_t at
this step? Both images are concatenated on channels, so the same network learns all the steps.
Residual blocks without normalisation, leaky ReLU, FIR downsampling, and before the last
convolution one channel that holds the spread over a few samples of the batch (minibatch standard
deviation), which lets the discriminator see a collapsed batch.

Source: Xiao et al., 2022, appendix C; minibatch standard deviation: Karras et al., 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.errors import ConfigError
from trilemma.networks.layers import (
    LabelEmbedding,
    Resampler,
    SinusoidalEmbedding,
    conv,
    linear,
    make_resampler,
    one_each,
)
from trilemma.typing import Image, Labels, OneTime, Steps

__all__ = ["Discriminator", "StridedDiscriminator", "minibatch_stddev"]

SMALL = ((2, False), (4, True), (8, True), (8, True))
LARGE = ((4, True), (8, True), (8, True), (8, True), (8, True), (8, True))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def minibatch_stddev(x: Image, group_size: int = 4) -> Image:
    """Append one channel: the spread over groups of samples, averaged over all features.

    Sample i is grouped with i + b/g, i + 2b/g, ... for g = min(b, group_size), so that a batch
    dealt out over processes like cards keeps its groups.

    Raises:
        ConfigError: if the batch is larger than the group and not a multiple of it.
    """
    batch, channels, height, width = x.shape
    group = min(batch, group_size)
    if batch % group:
        raise ConfigError(
            f"the discriminator got {batch} images; its minibatch statistics need 1, 2, 3 or a "
            f"multiple of {group_size} images per process and accumulation step"
        )
    grouped = x.reshape(group, batch // group, channels, height, width)
    deviation = grouped - grouped.mean(dim=0)  # var(dim=0) is far slower on a CPU
    spread = (deviation.square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    column = spread.repeat(group).to(x)[:, None, None, None]
    return torch.cat([x, column.expand(-1, 1, height, width)], dim=1)


class DiscriminatorBlock(nn.Module):
    """Two activated 3 x 3 convolutions around the time embedding, optional halving, shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embed_dim: int,
        down: bool,
        resampler: Resampler,
        branch_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, fan="out")
        self.time = linear(embed_dim, outputs, fan="out")
        self.conv2 = conv(outputs, outputs, scale=branch_scale, fan="out")
        self.shortcut = conv(inputs, outputs, 1, fan="out", bias=False)
        self.resampler, self.down = resampler, down

    def forward(self, x: Image, time: Tensor) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h', w')."""
        h = _leaky(self.conv1(_leaky(x)) + self.time(time)[:, :, None, None])
        if self.down:
            h, x = self.resampler.down(h), self.resampler.down(x)
        return (self.conv2(h) + self.shortcut(x)) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """Discriminator of pairs (u_s, u_t) at a large denoising step.

    Args:
        image_channels: channels of one image.
        channels: base width; blocks are multiples of it.
        widths: output width of each block in units of ``channels``.
        downs: which blocks halve the resolution, as many as ``widths``.
        embed_dim: size of the step embedding.
        stem_width: width after the first 1 x 1 convolution, in units of ``channels``.
        branch_scale: initial variance scale of the last convolution of each block.
        final_scale: initial variance scale of the last convolution.
        mean_pool: average over pixels at the end, not sum. Summing, as published, multiplies the
            logits' common offset; with few steps to train, averaging learns far sooner.
        resample: "fir" or "mean".
        num_classes: class labels; 0 for an unconditional discriminator.
        patch_size: space-to-depth factor of the input, 1 for none.

    Raises:
        ConfigError: if widths and downs differ in length.

    Source: Xiao et al., 2022; ``small`` and ``large`` give the published ones.
    """

    def __init__(
        self,
        image_channels: int = 3,
        *,
        channels: int = 64,
        widths: Sequence[int] = tuple(width for width, _ in SMALL),
        downs: Sequence[bool] = tuple(down for _, down in SMALL),
        embed_dim: int = 256,
        stem_width: int = 2,
        branch_scale: float = 0.0,
        final_scale: float = 0.0,
        mean_pool: bool = False,
        resample: str = "fir",
        num_classes: int = 0,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        if len(widths) != len(downs):
            raise ConfigError(f"widths={list(widths)} and downs={list(downs)} differ in length")
        self.num_classes, self.image_channels = num_classes, image_channels
        self.patch_size, self.mean_pool = patch_size, mean_pool
        self.embed = SinusoidalEmbedding(embed_dim)
        self.time1 = linear(embed_dim, embed_dim, fan="out")
        self.time2 = linear(embed_dim, embed_dim, fan="out")
        self.label = LabelEmbedding(num_classes, embed_dim) if num_classes else None
        resampler = make_resampler(resample)
        sizes = [stem_width * channels] + [width * channels for width in widths]
        self.stem = conv(2 * image_channels * patch_size**2, sizes[0], 1, fan="out")
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(
                inputs,
                outputs,
                embed_dim=embed_dim,
                down=down,
                resampler=resampler,
                branch_scale=branch_scale,
            )
            for inputs, outputs, down in zip(sizes[:-1], sizes[1:], downs, strict=True)
        )
        self.final = conv(sizes[-1] + 1, sizes[-1], scale=final_scale, fan="out")
        self.out = linear(sizes[-1], 1, fan="out")

    @classmethod
    def small(
        cls, image_channels: int = 3, channels: int = 64, embed_dim: int = 256
    ) -> Discriminator:
        """Return the published discriminator for 32 x 32 images, which reduces sides by 8."""
        return cls(image_channels, channels=channels, embed_dim=embed_dim)

    @classmethod
    def large(
        cls, image_channels: int = 3, channels: int = 64, embed_dim: int = 256
    ) -> Discriminator:
        """Return the published discriminator for 256 x 256 images, which reduces sides by 64."""
        widths, downs = zip(*LARGE, strict=True)
        return cls(
            image_channels,
            channels=channels,
            widths=widths,
            downs=downs,
            embed_dim=embed_dim,
            final_scale=1.0,
        )

    def forward(
        self, u_s: Image, t: Steps | OneTime | int, u_t: Image, label: Labels | None = None
    ) -> Tensor:
        """Return logits (b, 1), large for real pairs.

        Args:
            u_s: cleaner images (b, c, h, w), real or generated.
            t: step indices (b), or one for all; 0 for the step that ends at clean data.
            u_t: noisier images (b, c, h, w), always real.
            label: class labels (b), if the discriminator is conditional.
        """
        if (label is None) != (self.label is None):
            raise ConfigError(f"this discriminator takes labels of {self.num_classes} classes")
        time = _leaky(self.time2(_leaky(self.time1(self.embed(one_each(t, u_s))))))
        if self.label is not None:
            time = time + self.label(label)
        h = torch.cat([u_s, u_t], dim=1)
        if self.patch_size > 1:
            h = F.pixel_unshuffle(h, self.patch_size)
        h = self.stem(h)
        for block in self.blocks:
            h = block(h, time)
        h = _leaky(self.final(minibatch_stddev(h)))
        pooled = h.mean(dim=(2, 3)) if self.mean_pool else h.sum(dim=(2, 3))
        return self.out(pooled)


class StridedDiscriminator(nn.Module):
    """Discriminator of small images: strided 4 x 4 convolutions and a fully connected head.

    It costs a fraction of ``Discriminator``, and its head sees where features are, so it tells
    real pairs from generated ones within far fewer steps; for short trainings on a CPU.

    Args:
        image_size: side of the images in pixels.
        image_channels: channels of one image.
        channels: width of the first layer, doubled by each further one.
        num_layers: convolutions, each halving the resolution.
        embed_dim: size of the step embedding.
        num_classes: class labels; 0 for an unconditional discriminator.

    Raises:
        ConfigError: if the images are too small for that many halvings.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int = 1,
        *,
        channels: int = 64,
        num_layers: int = 3,
        embed_dim: int = 64,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        side = image_size >> num_layers
        if side < 1:
            raise ConfigError(
                f"image_size={image_size} cannot be halved num_layers={num_layers} times"
            )
        self.num_classes, self.image_channels = num_classes, image_channels
        self.embed = SinusoidalEmbedding(embed_dim)
        self.time = nn.Linear(embed_dim, embed_dim)
        self.label = LabelEmbedding(num_classes, embed_dim) if num_classes else None
        widths = [2 * image_channels] + [channels << i for i in range(num_layers)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.shifts = nn.ModuleList(nn.Linear(embed_dim, width) for width in widths[1:])
        self.out = nn.Linear((widths[-1] + 1) * side**2, 1)

    def forward(
        self, u_s: Image, t: Steps | OneTime | int, u_t: Image, label: Labels | None = None
    ) -> Tensor:
        """Return logits (b, 1), large for real pairs; arguments as of ``Discriminator``."""
        if (label is None) != (self.label is None):
            raise ConfigError(f"this discriminator takes labels of {self.num_classes} classes")
        time = _leaky(self.time(self.embed(one_each(t, u_s))))
        if self.label is not None:
            time = time + self.label(label)
        h = torch.cat([u_s, u_t], dim=1)
        for convolution, shift in zip(self.convs, self.shifts, strict=True):
            h = _leaky(convolution(h) + shift(time)[:, :, None, None])
        return self.out(minibatch_stddev(h).flatten(1))
