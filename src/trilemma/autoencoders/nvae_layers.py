r"""Layers of the hierarchical autoencoder: normalised convolutions, cells, combiners, flows.

A *cell* adds a tenth of a branch to its input, out = skip(x) + 0.1 g(branch(x)), where g weighs
the channels (squeeze and excitation, Hu et al., 2018). Down cells halve the sides, up cells double
them. Branches are "residual", twice [norm, swish, 3 x 3 convolution], or "inverted": expand the
channels, filter each one 5 x 5, project back (Vahdat & Kautz: NVAE, 2020, figure 3).

Outside inverted branches every convolution is normalised: filter o has the norm e^{l_o}, where l
is a parameter of its own, so that its direction and its length are learned apart.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.autoencoders.likelihoods import full_precision
from trilemma.networks.layers import PointwiseConv
from trilemma.typing import Image

__all__ = [
    "CELLS",
    "Cell",
    "DecoderCombiner",
    "DownSkip",
    "EncoderCombiner",
    "Flow",
    "InvertedBranch",
    "MaskedConv",
    "NormSwishConv",
    "NormedConv",
    "SqueezeExcite",
    "UpSkip",
    "batch_norm",
]

CELLS = ("residual", "inverted")
SHARE = 0.1
"""Weight of a cell's branch; initial scale of a shift."""


class NormedConv(nn.Conv2d):
    """Convolution whose filters have learned norms: W = e^l w / (|w| + 1e-5).

    Args:
        inputs, outputs: channels.
        kernel: its side; stride 1 keeps the shape.
        stride: 1 or 2.
        bias: whether there is one.
        groups: of channels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        bias: bool = True,
        groups: int = 1,
    ) -> None:
        padding = kernel // 2
        super().__init__(
            inputs, outputs, kernel, stride=stride, padding=padding, bias=bias, groups=groups
        )
        self.log_norm = nn.Parameter(torch.log(self._norm(self.weight.detach()) + 1e-2))

    @staticmethod
    def _norm(weight: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)

    def effective_weight(self) -> Tensor:
        """The filters that the convolution applies."""
        return self.weight * (self.log_norm.exp() / (self._norm(self.weight) + 1e-5))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (b, inputs, h, w)."""
        return self._conv_forward(input, self.effective_weight(), self.bias)


class MaskedConv(NormedConv):
    """Normalised convolution that sees only numbers before its own.

    Pixels come in raster order, or in the reverse one; the channels of a pixel in order. With the
    channels cut into as many equal runs as the smaller side has, output run i sees input runs
    below i of its own pixel, and run i too if ``sees_itself``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        sees_itself: bool,
        is_reversed: bool,
        bias: bool = False,
        groups: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias, groups=groups)
        runs = min(inputs, outputs)
        first = torch.arange(outputs) * runs // outputs
        second = torch.arange(inputs // groups) * runs // inputs
        if groups > 1:
            second = first[:, None]  # one input per output: its own
        before = second <= first[:, None] if sees_itself else second < first[:, None]
        mask = torch.zeros(outputs, inputs // groups, kernel, kernel)
        middle = kernel // 2
        mask[:, :, :middle] = 1
        mask[:, :, middle, :middle] = 1
        mask[:, :, middle, middle] = before.float()
        mask = mask.flip(2, 3) if is_reversed else mask
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor
        self.log_norm.data = torch.log(self._norm(self.weight.detach() * mask) + 1e-2)

    def effective_weight(self) -> Tensor:
        """The filters with zeros where they may not look; the others make up the norm."""
        weight = self.weight * self.mask
        return weight * (self.log_norm.exp() / (self._norm(weight) + 1e-5))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with slow running statistics."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.05)


class NormSwishConv(nn.Module):
    """Normalise over the batch, swish, convolve 3 x 3; ``is_up`` repeats pixels in between."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, is_up: bool = False) -> None:
        super().__init__()
        self.norm = batch_norm(inputs)
        self.conv = NormedConv(inputs, outputs, stride=stride)
        self.is_up = is_up

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h', w')."""
        h = _swish(self.norm(x))
        return self.conv(double(h) if self.is_up else h)


class InvertedBranch(nn.Module):
    """Norm, expand, norm, swish, 5 x 5 on each channel, norm, swish, project, norm.

    Args:
        inputs, outputs: channels.
        expansion: inner channels in units of ``inputs``.
        is_up: whether the sides are doubled.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, *, is_up: bool = False) -> None:
        super().__init__()
        inner = expansion * inputs
        self.norm = batch_norm(inputs)
        self.expand, self.expand_norm = PointwiseConv(inputs, inner, False), batch_norm(inner)
        self.filter = nn.Conv2d(inner, inner, 5, padding=2, groups=inner, bias=False)
        self.filter_norm = batch_norm(inner)
        self.project, self.project_norm = PointwiseConv(inner, outputs, False), batch_norm(outputs)
        self.is_up = is_up

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h', w')."""
        # What acts on single pixels may come before they are repeated, at a quarter of the work;
        # but running variances count pixels, so training repeats them first.
        is_late = self.is_up and not self.training
        h = self.norm(double(x) if self.is_up and self.training else x)
        h = _swish(_normalised(self.expand, self.expand_norm, h))
        h = double(h) if is_late else h
        h = _swish(_normalised(self.filter, self.filter_norm, h))
        return _normalised(self.project, self.project_norm, h)


def _normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Image) -> Image:
    """norm(conv(x)); where the statistics are fixed, as one convolution."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None:
        return norm(conv(x))
    gain = norm.weight * torch.rsqrt(variance + norm.eps)
    weight, bias = conv.weight * gain[:, None, None, None], norm.bias - mean * gain
    return F.conv2d(x, weight, bias, padding=conv.padding, groups=conv.groups)


def _swish(x: Image) -> Image:
    """Swish, in place of a number that nobody else needs; gradients would make a copy of it."""
    return F.silu(x, inplace=not x.requires_grad)


def double(x: Image) -> Image:
    """Repeat each pixel in a 2 x 2 square."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class DownSkip(nn.Module):
    """Swish, then four channel mixes: of the pixels at even and odd rows and columns."""

    SHIFTS = ((0, 0), (1, 1), (0, 1), (1, 0))

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        quarter = outputs // 4
        widths = (quarter, quarter, quarter, outputs - 3 * quarter)
        self.convs = nn.ModuleList(NormedConv(inputs, width, 1, stride=2) for width in widths)

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h/2, w/2)."""
        h = F.silu(x)
        shifted = zip(self.convs, self.SHIFTS, strict=True)
        return torch.cat([conv(h[:, :, row:, column:]) for conv, (row, column) in shifted], dim=1)


class UpSkip(nn.Module):
    """Bilinear doubling, corners kept, and a channel mix without bias, which commutes with it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = NormedConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, 2h, 2w)."""
        return F.interpolate(self.conv(x), scale_factor=2, mode="bilinear", align_corners=True)


class SqueezeExcite(nn.Module):
    """A weight in (0, 1) for every channel, from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 16, 4)
        self.squeeze, self.excite = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: Image) -> Image:
        """Weights (b, c, 1, 1), in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            mean = full_precision(x).mean((2, 3))
            return self.excite(F.relu(self.squeeze(mean))).sigmoid()[:, :, None, None]


class Cell(nn.Module):
    """A tenth of a branch, added to the input; see the module.

    Args:
        inputs, outputs: channels, equal where nothing is resampled.
        kind: "residual" or "inverted"; inverted cells do not go down.
        resample: "down", "up" or "none".
        expansion: of inverted branches.
        squeeze_excite: whether channels are weighed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: str,
        *,
        resample: str = "none",
        expansion: int = 6,
        squeeze_excite: bool = True,
    ) -> None:
        super().__init__()
        is_up = resample == "up"
        self.skip: nn.Module
        if resample == "none":
            self.skip = nn.Identity()
        else:
            self.skip = UpSkip(inputs, outputs) if is_up else DownSkip(inputs, outputs)
        self.branch: nn.Module
        if kind == "inverted":
            self.branch = InvertedBranch(inputs, outputs, expansion, is_up=is_up)
        else:
            stride = 2 if resample == "down" else 1
            first = NormSwishConv(inputs, outputs, stride=stride, is_up=is_up)
            self.branch = nn.Sequential(first, NormSwishConv(outputs, outputs))
        self.squeeze: Any = SqueezeExcite(outputs) if squeeze_excite else None

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h', w')."""
        skip, h = self.skip(x), self.branch(x)
        if self.squeeze is None:
            return torch.add(skip, h, alpha=SHARE)
        return torch.addcmul(skip, h, self.squeeze(h).to(h.dtype), value=SHARE)


class EncoderCombiner(nn.Module):
    """What the encoder saw at a group, plus a channel mix of the decoder's state."""

    def __init__(self, state: int, channels: int) -> None:
        super().__init__()
        self.conv = NormedConv(state, channels, 1)

    def forward(self, seen: Image, state: Image) -> Image:
        """Features from which a group's posterior is read."""
        return seen + self.conv(state)


class DecoderCombiner(nn.Module):
    """A channel mix of the decoder's state and a group's latents."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.conv = NormedConv(channels + latent, channels, 1)

    def forward(self, state: Image, z: Image) -> Image:
        """The state that knows of the group; its layout becomes that of z."""
        layouts = (torch.contiguous_format, torch.channels_last)
        layout = layouts[z.is_contiguous(memory_format=torch.channels_last)]
        return self.conv(torch.cat([state.contiguous(memory_format=layout), z], dim=1))


class AutoregressiveShift(nn.Module):
    """z - m(z), where m looks only at numbers before its own: invertible, with determinant one."""

    def __init__(self, channels: int, *, is_reversed: bool) -> None:
        super().__init__()
        inner = 6 * channels
        self.expand = MaskedConv(channels, inner, 3, sees_itself=False, is_reversed=is_reversed)
        self.filter = MaskedConv(
            inner, inner, 5, sees_itself=True, is_reversed=is_reversed, groups=inner
        )
        self.project = MaskedConv(
            inner, channels, 1, sees_itself=True, is_reversed=is_reversed, bias=True
        )
        with torch.no_grad():
            self.project.log_norm.add_(math.log(SHARE))

    def forward(self, z: Image) -> Image:
        """Map latents to latents."""
        h = F.elu(self.expand(z), inplace=True)
        return z - self.project(F.elu(self.filter(h), inplace=True))


class Flow(nn.Module):
    """Two autoregressive shifts, the second in reverse order of the pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = AutoregressiveShift(channels, is_reversed=False)
        self.second = AutoregressiveShift(channels, is_reversed=True)

    def forward(self, z: Image) -> Image:
        """Map latents to latents; the volume stays."""
        return self.second(self.first(z))
