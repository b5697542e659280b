r"""Layers of convolutional score networks, generators and discriminators, written once.

Everything is plain PyTorch: FIR resampling is a depthwise convolution, which differentiates
twice, so gradient penalties need no compiled operator. Feature maps are channels-last wherever
they come in that way, and no layer forces another layout on them.

Initialisation is the uniform variance scaling of NCSN++: weights from U(-b, b) with
b = sqrt(3 scale / n), where n averages fan-in and fan-out ("average") or is fan-out alone
("out"); a scale of 0 stands for 1e-10, an almost vanishing layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.errors import ConfigError, nearest
from trilemma.networks.winograd import Conv3x3
from trilemma.typing import Image

__all__ = [
    "FIR",
    "AdaptiveGroupNorm",
    "Attention",
    "FourierEmbedding",
    "LabelEmbedding",
    "Mean",
    "PixelNorm",
    "PointwiseConv",
    "Resampler",
    "SinusoidalEmbedding",
    "StridedConv",
    "conv",
    "group_norm",
    "init_uniform_",
    "linear",
    "make_resampler",
    "one_each",
]

Fan = Literal["average", "out"]
ZERO_SCALE = 1e-10


def init_uniform_(weight: Tensor, scale: float, fan: Fan = "average") -> Tensor:
    """Fill a weight (out, in, *kernel) in place with uniform variance scaling.

    Args:
        weight: parameter to fill.
        scale: variance multiplier; 0 means 1e-10.
        fan: "average" of fan-in and fan-out, or "out".

    Source: Song et al., 2021 (NCSN++, "average"); Xiao et al., 2022 (style layers, "out").
    """
    area = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * area, weight.shape[0] * area
    n = (fan_in + fan_out) / 2 if fan == "average" else max(1, fan_out)
    bound = math.sqrt(3 * (scale or ZERO_SCALE) / n)
    return nn.init.uniform_(weight, -bound, bound)


def linear(inputs: int, outputs: int, *, scale: float = 1.0, fan: Fan = "average") -> nn.Linear:
    """Linear layer with uniform variance scaling and zero bias."""
    layer = nn.Linear(inputs, outputs)
    init_uniform_(layer.weight.data, scale, fan)
    nn.init.zeros_(layer.bias)
    return layer


class PointwiseConv(nn.Conv2d):
    """1 x 1 convolution.

    On one CPU thread PyTorch sends these through a matrix product that is less than half as fast
    as oneDNN's convolution, which is called here instead; the result is the same.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Mix the channels of (b, inputs, h, w)."""
        return self.mix(input, self.bias)

    def mix(self, x: Image, bias: Tensor | None) -> Image:
        """Mix channels, with this bias or none."""
        is_plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        # A compiler asked for the library would break its graph here: it is asked last.
        if is_plain and not torch.compiler.is_compiling() and torch.backends.mkldnn.is_available():
            once, none = (1, 1), (0, 0)
            return torch.mkldnn_convolution(x, self.weight, bias, none, once, once, 1)
        return F.conv2d(x, self.weight, bias)


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    scale: float = 1.0,
    fan: Fan = "average",
    bias: bool = True,
) -> nn.Conv2d:
    """Shape-preserving square convolution with uniform variance scaling and zero bias."""
    if kernel == 1:
        layer: nn.Conv2d = PointwiseConv(inputs, outputs, bias)
    elif kernel == 3:
        layer = Conv3x3(inputs, outputs, bias)
    else:
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    init_uniform_(layer.weight.data, scale, fan)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def num_groups(channels: int) -> int:
    """Groups of every group norm: min(channels // 4, 32).

    Raises:
        ConfigError: if the channels do not divide into that many groups.
    """
    groups = min(channels // 4, 32)
    if groups < 1 or channels % groups:
        raise ConfigError(
            f"{channels} channels do not split into {groups} groups for group normalisation; "
            "take widths that are multiples of 4, and of 32 above 128 (sums of skips included)"
        )
    return groups


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation with min(channels // 4, 32) groups and eps 1e-6."""
    return nn.GroupNorm(num_groups(channels), channels, eps=1e-6, affine=affine)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are linear in a style vector.

    y = gamma(style) * normalised x + beta(style), gamma starting at 1 and beta at 0
    (Xiao et al., 2022).
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.style = linear(style_dim, 2 * channels, fan="out")
        with torch.no_grad():
            self.style.bias[:channels] = 1.0

    def forward(self, x: Image, style: Tensor) -> Image:
        """Normalise x (b, c, h, w) and restyle it by style (b, style_dim)."""
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(beta, gamma, self.norm(x))


class PixelNorm(nn.Module):
    """Scale each row of (b, n) to unit mean square, with 1e-8 under the root."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x^2) + 1e-8)."""
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def one_each(t: Tensor | float, x: Tensor) -> Tensor:
    """Times or steps (b) of a batch x of b: a number, or a single one, counts for all."""
    t = torch.as_tensor(t, device=x.device)
    return t.expand(len(x)) if t.dim() == 0 else t


class SinusoidalEmbedding(nn.Module):
    """Sines, then cosines, of t at geometric frequencies from 1 to 1e-4.

    Args:
        dim: size of the embedding; an odd one gets a zero column.
        scale: multiplies t first (1 for step indices, 1000 for times in [0, 1] in LSGM).
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.scale = dim, scale
        half = dim // 2
        exponents = torch.arange(half, dtype=torch.float64) / max(half - 1, 1)
        frequencies = torch.exp(-math.log(10_000) * exponents)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        self.frequencies: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """Map times (b) to (b, dim)."""
        phase = (t * self.scale).to(self.frequencies)[:, None] * self.frequencies
        embedding = torch.cat([phase.sin(), phase.cos()], dim=1)
        return F.pad(embedding, (0, self.dim % 2))


class FourierEmbedding(nn.Module):
    """Sines, then cosines, of 2 pi W log(t) at fixed Gaussian frequencies W.

    Args:
        num_frequencies: entries of W; the embedding is twice as wide.
        std: standard deviation of W.
        of_log: embed log t (NCSN++, CLD; t must be positive), or t itself (LSGM).
    """

    def __init__(self, num_frequencies: int, std: float = 16.0, of_log: bool = True) -> None:
        super().__init__()
        self.of_log = of_log
        self.register_buffer("frequencies", torch.randn(num_frequencies) * std)
        self.frequencies: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """Map times (b) to (b, 2 num_frequencies)."""
        t = t.to(self.frequencies)
        phase = (t.log() if self.of_log else t)[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class LabelEmbedding(nn.Embedding):
    """Learned vector per class, starting small; the label -1 stands for no class, a zero."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__(num_classes, dim)
        nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, label: Tensor) -> Tensor:
        """Map labels (b) to vectors (b, dim)."""
        return super().forward(label.clamp(min=0)) * (label >= 0)[:, None]


class Resampler(nn.Module):
    """Halve (``down``) or double (``up``) the sides of feature maps."""

    def down(self, x: Image) -> Image:
        """Map (b, c, h, w) to (b, c, h/2, w/2)."""
        raise AssertionError("subclass must override")

    def up(self, x: Image) -> Image:
        """Map (b, c, h, w) to (b, c, 2h, 2w)."""
        raise AssertionError("subclass must override")


class Mean(Resampler):
    """2 x 2 means down, repeated pixels up."""

    def down(self, x: Image) -> Image:
        """Average each 2 x 2 square."""
        return F.avg_pool2d(x, 2)

    def up(self, x: Image) -> Image:
        """Repeat each pixel in a 2 x 2 square."""
        return F.interpolate(x, scale_factor=2, mode="nearest")


class FIR(Resampler):
    """Anti-aliased resampling by a separable filter, [1, 3, 3, 1] by default.

    Down: zero padding, correlation with the normalised kernel, every second pixel. Up: a zero
    after every pixel, kernel times 4 (Zhang, 2019; Karras et al., 2020).
    """

    def __init__(self, kernel: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__()
        if not 2 <= len(kernel) <= 8 or sum(kernel) <= 0:
            raise ConfigError(f"fir_kernel={list(kernel)}: give 2 to 8 taps with a positive sum")
        taps = torch.tensor(kernel, dtype=torch.float64)
        square = torch.outer(taps, taps) / taps.sum() ** 2
        self.size = len(kernel)
        self.register_buffer("kernel", square.float(), persistent=False)
        self.kernel: Tensor

    def filter(self, x: Image, before: int, after: int, stride: int = 1) -> Image:
        """Pad (top and left, bottom and right), correlate with the flipped kernel, subsample."""
        weight = self.kernel.flip(0, 1).to(x).expand(x.shape[1], 1, -1, -1)
        if before == after:
            return F.conv2d(x, weight, stride=stride, padding=before, groups=x.shape[1])
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1])

    def down(self, x: Image) -> Image:
        """Filter and keep every second pixel."""
        n = self.size - 2
        return self.filter(x, math.ceil(n / 2), n // 2, stride=2)

    def up(self, x: Image) -> Image:
        """Insert zeros and filter; the transposed convolution never touches the zeros."""
        height, width = x.shape[2:]
        weight = (4 * self.kernel).to(x).expand(x.shape[1], 1, -1, -1)
        crop = self.size - 1 - (math.ceil((self.size - 2) / 2) + 1)
        y = F.conv_transpose2d(x, weight, stride=2, padding=crop, groups=x.shape[1])
        return y[:, :, : 2 * height, : 2 * width]


def make_resampler(kind: str, fir_kernel: Sequence[float] = (1, 3, 3, 1)) -> Resampler:
    """Return the resampler named "fir" or "mean".

    Raises:
        ConfigError: for another name.
    """
    if kind == "fir":
        return FIR(fir_kernel)
    if kind == "mean":
        return Mean()
    raise ConfigError(f"resample={kind!r} is unknown; {nearest(kind, ['fir', 'mean'])}")


class StridedConv(nn.Module):
    """3 x 3 convolution with stride 2, behind the FIR filter where the resampler has one.

    Without a filter one row and column of zeros is padded at the bottom and right.
    """

    def __init__(self, inputs: int, outputs: int, resampler: Resampler) -> None:
        super().__init__()
        self.resampler = resampler
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2)
        init_uniform_(self.conv.weight.data, 1.0)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h/2, w/2)."""
        if isinstance(self.resampler, FIR):
            margin = self.resampler.size
            return self.conv(self.resampler.filter(x, (margin + 1) // 2, margin // 2))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Attention(nn.Module):
    """Single-head self-attention over all positions, added to its input.

    weights = softmax(q.k / sqrt(c)); the sum is divided by sqrt(2) when ``rescale`` is set.
    """

    def __init__(self, channels: int, *, rescale: bool = True) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query_key_value = conv(channels, 3 * channels, 1)
        for weight in self.query_key_value.weight.data.chunk(3):
            init_uniform_(weight, 0.1)
        self.out = conv(channels, channels, 1, scale=0.0)
        self.gain = math.sqrt(0.5) if rescale else 1.0

    def forward(self, x: Image) -> Image:
        """Map (b, c, h, w) to the same shape."""
        tokens = self.query_key_value(self.norm(x)).flatten(2).mT
        query, key, value = tokens[:, None].chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return (x + self.out(mixed.mT.unflatten(2, x.shape[2:]))).mul_(self.gain)
