"""Layers against their definitions, written out here as plainly as possible."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from trilemma.errors import ConfigError
from trilemma.networks.layers import (
    FIR,
    AdaptiveGroupNorm,
    Attention,
    FourierEmbedding,
    LabelEmbedding,
    Mean,
    PixelNorm,
    SinusoidalEmbedding,
    StridedConv,
    conv,
    init_uniform_,
    linear,
    make_resampler,
    num_groups,
)

KERNELS = [(1, 1), (1, 2), (1, 2, 1), (3, 1, 2), (1, 3, 3, 1), (4, 1, 2, 7), (1, 2, 3, 4, 5)]


def correlate(x, taps, gain, before, after):
    """Zero padding, then correlation of every channel with the flipped normalised kernel."""
    taps = torch.tensor(taps, dtype=x.dtype)
    kernel = gain * torch.outer(taps, taps) / taps.sum() ** 2
    padded = F.pad(x, (before, after, before, after))
    n = len(taps)
    height, width = padded.shape[2] - n + 1, padded.shape[3] - n + 1
    y = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    for i in range(n):
        for j in range(n):
            y += kernel[n - 1 - i, n - 1 - j] * padded[:, :, i : i + height, j : j + width]
    return y


def direct_down(x, taps):
    n = len(taps)
    return correlate(x, taps, 1.0, math.ceil((n - 2) / 2), (n - 2) // 2)[:, :, ::2, ::2]


def direct_up(x, taps):
    """A zero after every pixel, kernel times 4, pad (ceil((n-2)/2) + 1, floor((n-2)/2))."""
    n = len(taps)
    stuffed = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    stuffed[:, :, ::2, ::2] = x
    return correlate(stuffed, taps, 4.0, math.ceil((n - 2) / 2) + 1, (n - 2) // 2)


@pytest.mark.parametrize("taps", KERNELS, ids=str)
@pytest.mark.parametrize("size", [(4, 4), (6, 8)], ids=str)
def test_fir_equals_its_definition(taps, size):
    x = torch.randn(2, 3, *size)
    fir = FIR(taps)
    torch.testing.assert_close(fir.down(x), direct_down(x, taps), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fir.up(x), direct_up(x, taps), rtol=1e-5, atol=1e-6)
    assert fir.down(x).shape[2:] == (size[0] // 2, size[1] // 2)
    assert fir.up(x).shape[2:] == (2 * size[0], 2 * size[1])


@pytest.mark.parametrize("taps", [(1, 1), (1, 2, 1), (1, 3, 3, 1)], ids=str)
def test_fir_keeps_constants_away_from_the_border(taps):
    x = torch.ones(1, 1, 16, 16)
    inner = slice(4, -4)
    for y in (FIR(taps).down(torch.ones(1, 1, 32, 32)), FIR(taps).up(x)):
        torch.testing.assert_close(y[:, :, inner, inner], torch.ones_like(y[:, :, inner, inner]))


@pytest.mark.parametrize("taps", [(1, 1), (1, 2, 1), (3, 1, 2), (1, 3, 3, 1)], ids=str)
def test_fir_differentiates_twice(taps):
    fir = FIR(taps)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    for function in (fir.down, fir.up):
        assert gradcheck(function, (x,))
        assert gradgradcheck(lambda u, f=function: f(u).square(), (x,))


@pytest.mark.parametrize("taps", [(1, 1), (1, 2, 1), (1, 3, 3, 1)], ids=str)
def test_strided_convolution_behind_the_filter(taps):
    """Pad (n - 2) + 2 in all, filter at full rate, then 3 x 3 with stride 2 and no padding."""
    layer = StridedConv(2, 4, FIR(taps))
    x = torch.randn(2, 2, 8, 8)
    p = len(taps)
    filtered = correlate(x, taps, 1.0, (p + 1) // 2, p // 2)
    expected = F.conv2d(filtered, layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert layer(x).shape == (2, 4, 4, 4)


def test_strided_convolution_without_a_filter_pads_bottom_and_right():
    layer = StridedConv(2, 4, Mean())
    x = torch.randn(2, 2, 8, 8)
    padded = torch.zeros(2, 2, 9, 9)
    padded[:, :, :8, :8] = x
    expected = F.conv2d(padded, layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), expected)


def test_mean_resampling():
    x = torch.randn(2, 3, 4, 6)
    down = x.view(2, 3, 2, 2, 3, 2).mean((3, 5))
    torch.testing.assert_close(Mean().down(x), down)
    assert torch.equal(Mean().up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("taps", [(1,), (1,) * 9, (1, -1), (0, 0)], ids=str)
def test_bad_kernels_are_refused(taps):
    with pytest.raises(ConfigError, match="fir_kernel"):
        FIR(taps)


def test_unknown_resampler_names_the_nearest():
    with pytest.raises(ConfigError, match=r"resample='fire'.*did you mean 'fir'"):
        make_resampler("fire")


@pytest.mark.parametrize("shape", [(40, 20), (30, 50, 3, 3)], ids=str)
@pytest.mark.parametrize("fan", ["average", "out"])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0])
def test_uniform_initialisation(shape, fan, scale):
    weight = init_uniform_(torch.empty(shape), scale, fan)
    area = math.prod(shape[2:])
    fans = (shape[1] * area, shape[0] * area)
    n = sum(fans) / 2 if fan == "average" else fans[1]
    bound = math.sqrt(3 * (scale or 1e-10) / n)
    assert float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert float(weight.abs().max()) > 0.98 * bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_layers_start_without_bias():
    assert not linear(8, 8).bias.any()
    assert not conv(8, 8).bias.any()
    assert conv(8, 8, 1, bias=False).bias is None


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (64, 16), (128, 32), (256, 32)])
def test_group_norm_groups(channels, groups):
    assert num_groups(channels) == groups


@pytest.mark.parametrize("channels", [0, 2, 3, 30, 132])
def test_channels_that_do_not_split_are_refused(channels):
    with pytest.raises(ConfigError, match=f"{channels} channels"):
        num_groups(channels)


def test_adaptive_group_norm_is_a_group_norm_at_first():
    layer = AdaptiveGroupNorm(8, 6)
    layer.style.weight.data.zero_()
    x = torch.randn(2, 8, 4, 4) * 3 + 1
    torch.testing.assert_close(layer(x, torch.randn(2, 6)), F.group_norm(x, 2, eps=1e-6))


def test_adaptive_group_norm_takes_scale_then_shift_from_the_style():
    layer = AdaptiveGroupNorm(8, 6)
    x, style = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    affine = style @ layer.style.weight.T + layer.style.bias
    expected = F.group_norm(x, 2, eps=1e-6) * affine[:, :8, None, None]
    torch.testing.assert_close(layer(x, style), expected + affine[:, 8:, None, None])


def test_pixel_norm_has_unit_mean_square():
    y = PixelNorm()(torch.randn(5, 40) * 7)
    torch.testing.assert_close(y.square().mean(1), torch.ones(5), rtol=1e-5, atol=0)


def test_sinusoidal_embedding():
    t, dim = torch.tensor([0, 1, 3]), 7
    half = dim // 2
    expected = torch.zeros(3, dim)
    for i, time in enumerate(t.tolist()):
        for j in range(half):
            frequency = math.exp(-j * math.log(10_000) / (half - 1))
            expected[i, j] = math.sin(time * frequency)
            expected[i, half + j] = math.cos(time * frequency)
    torch.testing.assert_close(SinusoidalEmbedding(dim)(t), expected, rtol=1e-5, atol=1e-6)
    scaled = SinusoidalEmbedding(dim, 1000.0)(torch.tensor([0.001]))
    torch.testing.assert_close(scaled, expected[1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("of_log", [True, False])
def test_fourier_embedding(of_log):
    layer = FourierEmbedding(5, 2.0, of_log=of_log)
    t = torch.tensor([0.3, 0.9])
    phase = 2 * math.pi * (t.log() if of_log else t)[:, None] * layer.frequencies
    torch.testing.assert_close(layer(t), torch.cat([phase.sin(), phase.cos()], 1))
    assert "frequencies" in layer.state_dict()


def test_label_embedding_starts_small():
    assert float(LabelEmbedding(200, 64).weight.detach().std()) == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("rescale", [True, False])
def test_attention_equals_a_loop_over_positions(rescale):
    layer = Attention(8, rescale=rescale)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, 3, 2)
    tokens = layer.norm(x).flatten(2).mT
    query, key, value = (
        tokens @ weight.flatten(1).T + bias
        for weight, bias in zip(
            layer.query_key_value.weight.chunk(3), layer.query_key_value.bias.chunk(3), strict=True
        )
    )
    mixed = torch.zeros_like(value)
    for b in range(2):
        for i in range(6):
            weights = torch.softmax(torch.stack([query[b, i] @ k for k in key[b]]) / 8**0.5, 0)
            mixed[b, i] = sum(w * v for w, v in zip(weights, value[b], strict=True))
    out = (mixed @ layer.out.weight.flatten(1).T + layer.out.bias).mT.view_as(x)
    expected = (x + out) / (math.sqrt(2) if rescale else 1.0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
