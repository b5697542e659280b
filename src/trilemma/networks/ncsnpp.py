r"""NCSN++, the U-Net of score models and of the denoising diffusion GAN's generator.

One network serves both roles. Conditioned on time alone it predicts noise or a score (Song et
al., 2021); given a latent ``code`` as well, every group norm inside its residual blocks becomes
adaptive and the network is a generator of clean images (Xiao et al., 2022). Going down, each level
runs ``num_res_blocks`` blocks, with attention at the listed resolutions, and a resampling block;
the middle has block, attention, block; going up, each level runs one block more on the
concatenation [features, skip], one attention, and a resampling block.

Two pyramids may run beside the U-Net. The *input* pyramid feeds the resampled input to every lower
level: "residual" replaces the features by the learned, strided view of it plus the features;
"input_skip" adds or concatenates a 1 x 1 projection. The *output* pyramid "output_skip" sums one
image per level on the way up.

With ``patch_size`` p the network works on p x p space-to-depth patches, at 1/p of the resolution:
the way to afford it on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.errors import ConfigError, nearest
from trilemma.networks.layers import (
    AdaptiveGroupNorm,
    Attention,
    FourierEmbedding,
    LabelEmbedding,
    PixelNorm,
    Resampler,
    SinusoidalEmbedding,
    StridedConv,
    conv,
    group_norm,
    linear,
    make_resampler,
    one_each,
)
from trilemma.typing import Image, Labels, OneTime, TimesOrSteps

__all__ = ["NCSNpp"]

Conditioning = tuple[Tensor | None, Tensor | None]
"""Time embedding (b, 4 channels) and style (b, style_dim), each None where unused."""
Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "relu": F.relu,
    "elu": F.elu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
}


class ResBlock(nn.Module):
    """Two normalised 3 x 3 convolutions around the time embedding, plus a shortcut.

    Args:
        inputs, outputs: channels.
        time_dim: size of the time embedding, 0 for none.
        style_dims: style sizes of the two norms; 0 makes a norm an ordinary affine one.
        resample: "up", "down" or "none"; both branches are resampled.
        is_ddpm: the shortcut is a channel mix that starts at a tenth of the variance.
        activation: after the norms.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        time_dim: int,
        style_dims: tuple[int, int],
        resampler: Resampler,
        resample: str = "none",
        dropout: float = 0.0,
        rescale: bool = True,
        is_ddpm: bool = False,
        activation: Activation = F.silu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.norm1 = _norm(inputs, style_dims[0])
        self.conv1 = conv(inputs, outputs)
        self.time = linear(time_dim, outputs) if time_dim else None
        self.norm2 = _norm(outputs, style_dims[1])
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(outputs, outputs, scale=0.0)
        self.is_ddpm, scale = is_ddpm, 0.1 if is_ddpm else 1.0
        needs_projection = inputs != outputs or resample != "none"
        self.shortcut: Any = conv(inputs, outputs, 1, scale=scale) if needs_projection else None
        self.resampler, self.resample = resampler, resample
        self.gain = math.sqrt(0.5) if rescale else 1.0

    def forward(self, x: Image, cond: Conditioning) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h', w')."""
        time, style = cond
        h = self.activation(_normalise(self.norm1, x, style))
        h = self.conv1(self._resampled(h))
        if self.time is not None and time is not None:
            h = h + self.time(time)[:, :, None, None]
        h = self.activation(_normalise(self.norm2, h, style))
        h = self.conv2(self.dropout(h))
        return (self._skipped(x) + h).mul_(self.gain)

    def _resampled(self, x: Image) -> Image:
        if self.resample == "none":
            return x
        return self.resampler.down(x) if self.resample == "down" else self.resampler.up(x)

    def _skipped(self, x: Image) -> Image:
        """Resampled, projected input: mixing channels and resampling commute, cheap side first."""
        if self.shortcut is None:
            return self._resampled(x)
        if self.resample == "up":
            bias = self.shortcut.bias
            return self.resampler.up(self.shortcut.mix(x, None)) + bias[:, None, None]
        return self.shortcut(self._resampled(x))


class PlainResample(nn.Module):
    """Resampling without weights, between the levels of "ddpm" blocks."""

    def __init__(self, resampler: Resampler, resample: str) -> None:
        super().__init__()
        self.resampler, self.resample = resampler, resample

    def forward(self, x: Image, cond: Conditioning) -> Image:
        """Halve or double the sides of x."""
        return self.resampler.down(x) if self.resample == "down" else self.resampler.up(x)


class ResidualInput(nn.Module):
    """Input pyramid "residual": the learned view of the pyramid plus the features becomes both."""

    def __init__(self, inputs: int, channels: int, resampler: Resampler, rescale: bool) -> None:
        super().__init__()
        self.down = StridedConv(inputs, channels, resampler)
        self.gain = math.sqrt(0.5) if rescale else 1.0

    def forward(self, pyramid: Image, h: Image) -> tuple[Image, Image]:
        """Return the new pyramid and the new features, which are the same tensor."""
        h = (self.down(pyramid) + h) * self.gain
        return h, h


class SkipInput(nn.Module):
    """Input pyramid "input_skip": a 1 x 1 projection of the resampled input joins the features."""

    def __init__(self, inputs: int, channels: int, resampler: Resampler, combine: str) -> None:
        super().__init__()
        self.resampler, self.combine = resampler, combine
        self.project = conv(inputs, channels, 1)

    def forward(self, pyramid: Image, h: Image) -> tuple[Image, Image]:
        """Return the resampled pyramid and the joined features."""
        pyramid = self.resampler.down(pyramid)
        projected = self.project(pyramid)
        joined = torch.cat([projected, h], 1) if self.combine == "cat" else projected + h
        return pyramid, joined


class Head(nn.Module):
    """Group norm, activation and a vanishing 3 x 3 convolution to the output channels."""

    def __init__(self, inputs: int, outputs: int, activation: Activation = F.silu) -> None:
        super().__init__()
        self.activation = activation
        self.norm = group_norm(inputs)
        self.conv = conv(inputs, outputs, scale=0.0)

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h, w)."""
        return self.conv(self.activation(self.norm(x)))


class Level(nn.Module):
    """One resolution of the U-Net, on the way down or up."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: nn.ModuleList = nn.ModuleList()
        self.attentions: nn.ModuleList = nn.ModuleList()
        self.pyramid: Any = None
        self.resample: Any = None

    @staticmethod
    def of(levels: nn.ModuleList) -> Iterator[Level]:
        """Iterate over levels with their type."""
        return (level for level in levels if isinstance(level, Level))


class TimeEmbedding(nn.Module):
    """Embedding of time, two linear layers with an activation between: (b) to (b, 4 n)."""

    def __init__(
        self, embed: nn.Module, embed_dim: int, dim: int, activation: Activation = F.silu
    ) -> None:
        super().__init__()
        self.embed, self.activation = embed, activation
        self.linear1 = linear(embed_dim, dim)
        self.linear2 = linear(dim, dim)

    def forward(self, t: TimesOrSteps) -> Tensor:
        """Embed times, or step indices, (b)."""
        return self.linear2(self.activation(self.linear1(self.embed(t))))


class Mapping(nn.Sequential):
    """Mapping network of the latent code: pixel norm, then linear layers each with SiLU."""

    def __init__(self, code_dim: int, style_dim: int, num_layers: int) -> None:
        widths = [code_dim] + [style_dim] * num_layers
        layers: list[nn.Module] = [PixelNorm()]
        for inputs, outputs in pairwise(widths):
            layers += [linear(inputs, outputs, fan="out"), nn.SiLU()]
        super().__init__(*layers)


class NCSNpp(nn.Module):
    """U-Net of residual blocks; with ``code_dim`` > 0 a generator with adaptive group norms.

    Args:
        image_size: side of the input in pixels; decides which levels attend.
        in_channels: channels of the input (2 c for position and velocity of c-channel images).
        out_channels: channels of the output; by default those of the input.
        channels: base width n, a multiple of 4.
        channel_mult: width of each level in units of n; the number of levels.
        num_res_blocks: residual blocks per level on the way down, one more on the way up.
        attention_resolutions: resolutions, of the feature maps, with attention; the middle always.
        dropout: inside residual blocks, in [0, 1).
        block: "biggan" (resamples inside), "biggan_oneadagn" (second norm not adaptive), "ddpm".
        resample: "fir" or "mean".
        fir_kernel: taps of the FIR filter.
        skip_rescale: divide sums of branches by sqrt(2).
        input_pyramid: "none", "residual" or "input_skip".
        combine: how "input_skip" joins: "sum" or "cat".
        output_pyramid: "none" or "output_skip".
        time_embedding: "positional", "fourier" (of log t), "fourier_linear" (of t) or "none".
        time_scale: multiplies t before the positional embedding.
        fourier_scale: standard deviation of the Fourier frequencies.
        embed_dim: numbers that time is embedded in, even; its two layers are 4 times as wide. By
            default ``channels``, twice as many for Fourier frequencies.
        code_dim: size of the latent code, 0 for a network without one.
        style_dim: width of the mapping network.
        num_mapping_layers: linear layers of the mapping network, >= 1.
        num_classes: class labels; 0 for an unconditional network.
        rescale_input: map inputs in [0, 1] to [-1, 1] first.
        tanh: bound the output to (-1, 1).
        patch_size: space-to-depth factor of input and output, 1 for none.
        activation: "silu", "relu", "elu" or "leaky_relu" (slope 0.2); the mapping's stays SiLU.

    Raises:
        ConfigError: for unknown names, or sizes that do not divide.

    Source: Song et al., 2021, appendix H; Xiao et al., 2022, appendix C.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int = 3,
        out_channels: int | None = None,
        *,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        block: str = "biggan",
        resample: str = "fir",
        fir_kernel: Sequence[int] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        input_pyramid: str = "none",
        combine: str = "sum",
        output_pyramid: str = "none",
        time_embedding: str = "positional",
        time_scale: float = 1.0,
        fourier_scale: float = 16.0,
        embed_dim: int | None = None,
        code_dim: int = 0,
        style_dim: int = 256,
        num_mapping_layers: int = 4,
        num_classes: int = 0,
        rescale_input: bool = False,
        tanh: bool = False,
        patch_size: int = 1,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        _check("activation", activation, tuple(ACTIVATIONS))
        _check("block", block, ("biggan", "biggan_oneadagn", "ddpm"))
        _check("input_pyramid", input_pyramid, ("none", "residual", "input_skip"))
        _check("output_pyramid", output_pyramid, ("none", "output_skip"))
        _check("combine", combine, ("sum", "cat"))
        positive = {"image_size": image_size, "in_channels": in_channels, "channels": channels}
        positive |= {"patch_size": patch_size, "style_dim": style_dim}
        positive |= {f"channel_mult[{i}]": mult for i, mult in enumerate(channel_mult)}
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if not channel_mult:
            raise ConfigError("channel_mult=[] must name at least one level")
        if min(num_res_blocks, code_dim, num_classes) < 0:
            raise ConfigError(
                f"num_res_blocks={num_res_blocks}, code_dim={code_dim} and "
                f"num_classes={num_classes} must be at least 0"
            )
        if embed_dim is not None and (embed_dim < 2 or embed_dim % 2):
            raise ConfigError(f"embed_dim={embed_dim} must be even and at least 2")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout} must lie in [0, 1)")
        if num_classes and not code_dim and time_embedding == "none":
            raise ConfigError(
                f"num_classes={num_classes}: labels enter with the code or with time; give "
                "code_dim > 0 or a time_embedding"
            )
        size = image_size // patch_size
        halvings = 2 ** (len(channel_mult) - 1)
        if image_size % patch_size or size % halvings:
            raise ConfigError(
                f"image_size={image_size} must be divisible by patch_size={patch_size} times "
                f"{halvings} for the {len(channel_mult)} levels of channel_mult; pad or resize"
            )
        self.code_dim, self.num_classes = code_dim, num_classes
        self.log_time = time_embedding == "fourier"
        self.event_shape = (in_channels, image_size, image_size)
        self.rescale_input, self.tanh, self.patch_size = rescale_input, tanh, patch_size
        self._rescale, self._block, self._dropout = skip_rescale, block, dropout
        self.activation = ACTIVATIONS[activation]
        self._style_dim = style_dim if code_dim else 0
        self._time_dim = 4 * (embed_dim or channels) if time_embedding != "none" else 0
        self.resampler = make_resampler(resample, fir_kernel)

        embed, features = _time_features(
            time_embedding, embed_dim, self._time_dim, time_scale, fourier_scale
        )
        self.time = (
            None
            if embed is None
            else TimeEmbedding(embed, features, self._time_dim, self.activation)
        )
        self.mapping = Mapping(code_dim, style_dim, num_mapping_layers) if code_dim else None
        label_dim = self._style_dim or self._time_dim
        self.label = LabelEmbedding(num_classes, label_dim) if num_classes else None

        inputs = in_channels * patch_size**2
        outputs = (out_channels or in_channels) * patch_size**2
        widths = [channels * mult for mult in channel_mult]
        attends = [size // 2**i in tuple(attention_resolutions) for i in range(len(widths))]
        self.stem = conv(inputs, channels)
        self.down = nn.ModuleList()
        skips = self._build_down(inputs, widths, attends, num_res_blocks, input_pyramid, combine)
        self.middle = nn.ModuleList(
            [
                self._res_block(skips[-1], skips[-1]),
                Attention(skips[-1], rescale=skip_rescale),
                self._res_block(skips[-1], skips[-1]),
            ]
        )
        self.up = nn.ModuleList()
        self._build_up(skips, outputs, widths, attends, num_res_blocks, output_pyramid)
        self.head = Head(widths[0], outputs, self.activation) if output_pyramid == "none" else None

    def _res_block(self, inputs: int, outputs: int, resample: str = "none") -> nn.Module:
        if self._block == "ddpm" and resample != "none":
            return PlainResample(self.resampler, resample)
        second = 0 if self._block == "biggan_oneadagn" else self._style_dim
        return ResBlock(
            inputs,
            outputs,
            time_dim=self._time_dim,
            style_dims=(self._style_dim, second),
            resampler=self.resampler,
            resample=resample,
            dropout=self._dropout,
            rescale=self._rescale,
            is_ddpm=self._block == "ddpm",
            activation=self.activation,
        )

    def _build_down(
        self,
        inputs: int,
        widths: list[int],
        attends: list[bool],
        num_res_blocks: int,
        pyramid: str,
        combine: str,
    ) -> list[int]:
        """Fill ``self.down`` and return the channels of all skips in order."""
        width, pyramid_width = self.stem.out_channels, inputs
        skips = [width]
        for i, outputs in enumerate(widths):
            level = Level()
            for _ in range(num_res_blocks):
                level.blocks.append(self._res_block(width, outputs))
                width = outputs
                if attends[i]:
                    level.attentions.append(Attention(width, rescale=self._rescale))
                skips.append(width)
            if i + 1 < len(widths):
                level.resample = self._res_block(width, width, "down")
                if pyramid == "residual":
                    level.pyramid = ResidualInput(
                        pyramid_width, width, self.resampler, self._rescale
                    )
                    pyramid_width = width
                elif pyramid == "input_skip":
                    level.pyramid = SkipInput(inputs, width, self.resampler, combine)
                    width *= 2 if combine == "cat" else 1
                skips.append(width)
            self.down.append(level)
        return skips

    def _build_up(
        self,
        skips: list[int],
        outputs: int,
        widths: list[int],
        attends: list[bool],
        num_res_blocks: int,
        pyramid: str,
    ) -> None:
        """Fill ``self.up``, from the lowest level to the highest."""
        skips, width = list(skips), skips[-1]
        for i in reversed(range(len(widths))):
            level = Level()
            for _ in range(num_res_blocks + 1):
                level.blocks.append(self._res_block(width + skips.pop(), widths[i]))
                width = widths[i]
            if attends[i]:
                level.attentions.append(Attention(width, rescale=self._rescale))
            if pyramid == "output_skip":
                level.pyramid = Head(width, outputs, self.activation)
            if i > 0:
                level.resample = self._res_block(width, width, "up")
            self.up.append(level)

    def condition(self, t: TimesOrSteps, code: Tensor | None, label: Labels | None) -> Conditioning:
        """Embed time, latent code and label, shared by all blocks.

        Raises:
            ConfigError: if the network needs a code or a label and none is given, or the reverse.
        """
        if (code is None) != (self.mapping is None):
            raise ConfigError(f"this network takes a code of size {self.code_dim}, 0 meaning none")
        if (label is None) != (self.label is None):
            raise ConfigError(f"this network takes labels of {self.num_classes} classes")
        time = None if self.time is None else self.time(t)
        style = None if self.mapping is None else self.mapping(code)
        if self.label is not None:
            embedded = self.label(label)
            if style is not None:
                style = style + embedded
            else:
                time = time + embedded
        return (None if time is None else self.activation(time)), style

    def forward(
        self,
        u: Image,
        t: TimesOrSteps | OneTime | float,
        code: Tensor | None = None,
        label: Labels | None = None,
    ) -> Image:
        """Evaluate the network.

        Args:
            u: diffused images (b, in_channels, h, w).
            t: times, or indices of large steps, (b), or one for all.
            code: standard normal latent code (b, code_dim), if the network has one.
            label: class labels (b), if the network is conditional.

        Returns:
            Images (b, out_channels, h, w).
        """
        cond = self.condition(one_each(t, u), code, label)
        x = 2 * u - 1 if self.rescale_input else u
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        h, skips = self._descend(x, cond)
        first, attend, second = self.middle
        h = second(attend(first(h, cond)), cond)
        y = self._ascend(h, skips, cond)
        if self.patch_size > 1:
            y = F.pixel_shuffle(y, self.patch_size)
        return torch.tanh(y) if self.tanh else y

    def _descend(self, x: Image, cond: Conditioning) -> tuple[Image, list[Image]]:
        pyramid, h = x, self.stem(x)
        skips = [h]
        for level in Level.of(self.down):
            for i, block in enumerate(level.blocks):
                h = block(h, cond)
                if level.attentions:
                    h = level.attentions[i](h)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h, cond)
                if level.pyramid is not None:
                    pyramid, h = level.pyramid(pyramid, h)
                skips.append(h)
        return h, skips

    def _ascend(self, h: Image, skips: list[Image], cond: Conditioning) -> Image:
        pyramid: Tensor | None = None
        for level in Level.of(self.up):
            for block in level.blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), cond)
            for attention in level.attentions:
                h = attention(h)
            if level.pyramid is not None:
                image = level.pyramid(h)
                pyramid = image if pyramid is None else self.resampler.up(pyramid) + image
            if level.resample is not None:
                h = level.resample(h, cond)
        if self.head is not None:
            return self.head(h)
        assert pyramid is not None
        return pyramid


def _norm(channels: int, style_dim: int) -> nn.Module:
    return AdaptiveGroupNorm(channels, style_dim) if style_dim else group_norm(channels)


def _normalise(norm: nn.Module, x: Image, style: Tensor | None) -> Image:
    return norm(x, style) if isinstance(norm, AdaptiveGroupNorm) else norm(x)


def _time_features(
    kind: str, embed_dim: int | None, time_dim: int, time_scale: float, fourier_scale: float
) -> tuple[nn.Module | None, int]:
    """The fixed features of time and their number."""
    kinds = ("positional", "fourier", "fourier_linear", "none")
    _check("time_embedding", kind, kinds)
    if kind == "none":
        return None, 0
    if kind == "positional":
        features = embed_dim or time_dim // 4
        return SinusoidalEmbedding(features, time_scale), features
    features = embed_dim or time_dim // 2
    return FourierEmbedding(features // 2, fourier_scale, of_log=kind == "fourier"), features


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is unknown; {nearest(value, allowed)}")
