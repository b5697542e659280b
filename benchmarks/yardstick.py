"""The networks of ``benchmarks/run.py`` in plain PyTorch: the yardstick.

The same mathematics with each operation written the obvious way: contiguous NCHW tensors, FIR
resampling channel by channel through one-channel convolutions with zero insertion, attention by
two einsums, one linear layer per channel mix. It shares our modules' weights, so both can be
compared output by output.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from trilemma.methods import DDGAN
from trilemma.networks.layers import FIR, AdaptiveGroupNorm, Attention, PointwiseConv
from trilemma.networks.ncsnpp import ResBlock
from trilemma.networks.winograd import Conv3x3


class PlainFIR(FIR):
    def filter(self, x, before, after, stride=1):
        batch, channels, height, width = x.shape
        x = F.pad(x.reshape(batch * channels, 1, height, width), (before, after, before, after))
        x = F.conv2d(x, self.kernel.flip(0, 1)[None, None])[:, :, ::stride, ::stride]
        return x.reshape(batch, channels, *x.shape[2:])

    def down(self, x):
        n = self.size - 2
        return self.filter(x, math.ceil(n / 2), n // 2, stride=2)

    def up(self, x):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height, 1, width, 1)
        x = F.pad(x, (0, 1, 0, 0, 0, 1)).reshape(batch, channels, 2 * height, 2 * width)
        n = self.size - 2
        before = math.ceil(n / 2) + 1
        return 4 * self.filter(x, before, n // 2)


class PlainAttention(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.norm, self.out, self.gain = attention.norm, attention.out, attention.gain
        weights = attention.query_key_value.weight.flatten(1).chunk(3)
        biases = attention.query_key_value.bias.chunk(3)
        self.mixes = nn.ParameterList(nn.Parameter(w.detach().clone()) for w in weights)
        self.biases = nn.ParameterList(nn.Parameter(b.detach().clone()) for b in biases)

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.norm(x)
        query, key, value = (
            torch.einsum("bchw,dc->bdhw", h, weight) + bias[:, None, None]
            for weight, bias in zip(self.mixes, self.biases, strict=True)
        )
        weights = torch.einsum("bchw,bcij->bhwij", query, key) * channels**-0.5
        weights = weights.reshape(batch, height, width, height * width).softmax(-1)
        weights = weights.reshape(batch, height, width, height, width)
        mixed = torch.einsum("bhwij,bcij->bchw", weights, value)
        weight = self.out.weight.flatten(1)
        mixed = torch.einsum("bchw,dc->bdhw", mixed, weight) + self.out.bias[:, None, None]
        return (x + mixed) * self.gain


class PlainPointwiseConv(PointwiseConv):
    def mix(self, x, bias):
        return F.conv2d(x, self.weight, bias)


class PlainConv3x3(Conv3x3):
    def forward(self, input):
        return F.conv2d(input, self.weight, self.bias, padding=1)


class PlainResBlock(ResBlock):
    def _skipped(self, x):
        x = self._resampled(x)
        return x if self.shortcut is None else self.shortcut(x)


class PlainAdaptiveGroupNorm(AdaptiveGroupNorm):
    def forward(self, x, style):
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return gamma * self.norm(x) + beta


def like(method):
    """A copy of a denoising diffusion GAN with plain layers and contiguous tensors."""
    plain = DDGAN(
        copy.deepcopy(method.generator),
        copy.deepcopy(method.discriminator),
        num_steps=method.default_steps,
        r1_weight=method.r1_weight,
        r1_every=method.r1_every,
    )
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FIR):
                child.__class__ = PlainFIR
            elif isinstance(child, Attention):
                setattr(parent, name, PlainAttention(child))
            elif isinstance(child, AdaptiveGroupNorm):
                child.__class__ = PlainAdaptiveGroupNorm
            elif isinstance(child, PointwiseConv):
                child.__class__ = PlainPointwiseConv
            elif isinstance(child, Conv3x3):
                child.__class__ = PlainConv3x3
            elif isinstance(child, ResBlock):
                child.__class__ = PlainResBlock
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    return plain


def agree(ours, plain, device):
    """Largest difference of the two generators' outputs on random input."""
    torch.manual_seed(1)
    u, code = torch.randn(2, 3, 32, 32, device=device), torch.randn(2, 100, device=device)
    step = torch.tensor([0, 3], device=device)
    with torch.no_grad():
        return float((ours.generator(u, step, code) - plain.generator(u, step, code)).abs().max())
