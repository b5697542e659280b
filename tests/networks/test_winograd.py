"""Fast 3 x 3 convolutions: the identity of Toom and Cook, and PyTorch's convolution as oracle."""

import copy
import itertools
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trilemma.networks import winograd
from trilemma.networks.winograd import MAX_TILES, POINTS, Conv3x3, _parts, toom_cook

PACK = winograd._pack
SHAPES = [
    (1, 16, 16),  # one part, no margin
    (5, 16, 16),  # images that do not fill a part
    (9, 32, 32),  # several images a part
    (10, 32, 32),  # the last part is smaller
    (2, 13, 19),  # sides that tiles overhang
    (1, 72, 76),  # one image in several parts
]


def make(inputs=128, outputs=160, bias=True, seed=0):
    torch.manual_seed(seed)
    return Conv3x3(inputs, outputs, bias)


def images(batch, height, width, channels=128, layout=torch.channels_last):
    torch.manual_seed(1)
    return torch.randn(batch, channels, height, width).contiguous(memory_format=layout)


def exact(layer, x):
    bias = None if layer.bias is None else layer.bias.double()
    return F.conv2d(x.double(), layer.weight.double(), bias, padding=1)


def by_tiles(layer, x):
    """The layer's answer, and that it came by tiles."""
    layer._packed = None
    with torch.no_grad():
        y = layer(x)
    assert layer._packed is not None
    return y


@given(
    st.lists(st.integers(-4, 4), min_size=2, max_size=5, unique=True),
    st.integers(1, 6),
    st.integers(0, 2**31),
)
def test_products_at_points_give_the_correlation(points, taps, seed):
    size = len(points) + 1
    taps = min(taps, size)
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(taps, dtype=torch.float64, generator=generator)
    d = torch.randn(size, dtype=torch.float64, generator=generator)
    a, weights, inputs = toom_cook([p / 2 for p in points], taps)
    expected = torch.stack([(g * d[i : i + taps]).sum() for i in range(size - taps + 1)])
    scale = a.abs() @ ((weights.abs() @ g.abs()) * (inputs.abs() @ d.abs()))
    assert ((a @ ((weights @ g) * (inputs @ d)) - expected).abs() <= 1e-14 * scale + 1e-14).all()


def test_the_points_make_four_outputs_of_six_products():
    a, weights, inputs = toom_cook(POINTS, 3)
    assert a.shape == (4, 6)
    assert weights.shape == (6, 3)
    assert inputs.shape == (6, 6)


@pytest.mark.parametrize(("batch", "height", "width"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_equals_the_convolution(batch, height, width, bias, layout):
    layer, x = make(bias=bias), images(batch, height, width, layout=layout)
    y, expected = by_tiles(layer, x), exact(layer, x)
    assert y.shape == expected.shape
    assert (y - expected).square().mean() < (5e-6) ** 2 * expected.square().mean()
    assert (y - expected).abs().max() < 2e-5 * expected.abs().max()


def test_large_maps_are_cut_and_small_ones_batched():
    for batch, rows, columns in itertools.product((1, 3, 7), (4, 5, 18, 64), (4, 19, 64)):
        seen = torch.zeros(batch, rows, dtype=torch.int)
        for part in _parts(batch, rows, columns):
            seen[part] += 1
            assert seen[part].numel() * columns <= MAX_TILES + rows * columns
        assert (seen == 1).all()


def test_an_image_does_not_depend_on_its_batch():
    layer, x = make(), images(9, 32, 32)
    assert torch.allclose(by_tiles(layer, x)[3], by_tiles(layer, x[3:4])[0], rtol=0, atol=1e-5)


EDITS = {
    "in place": lambda layer: layer.weight.mul_(2),
    "one entry": lambda layer: layer.weight[7, 5, 0, 2].add_(1),
    "data": lambda layer: layer.weight.data.mul_(2),
    "new data": lambda layer: setattr(layer.weight, "data", layer.weight.data * 2),
    "loaded": lambda layer: layer.load_state_dict(make(seed=3).state_dict()),
    "bias": lambda layer: layer.bias.add_(1),
    "layout": lambda layer: layer.to(memory_format=torch.channels_last),
    "replaced": lambda layer: setattr(
        layer, "weight", torch.nn.Parameter(torch.randn_like(layer.weight))
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_changed_weights_are_seen(edit, mode):
    layer, x = make(), images(1, 16, 16)
    by_tiles(layer, x)
    with torch.no_grad():
        edit(layer)
    with mode():
        y = layer(x)
    assert (y - exact(layer, x)).abs().max() < 2e-5 * y.abs().max()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_stand_alone(copied):
    layer, x = make(), images(1, 16, 16)
    before = by_tiles(layer, x)
    other = copied(layer)
    with torch.no_grad():
        layer.weight.zero_()
        assert torch.equal(other(x), before)


def test_weights_are_laid_out_once(monkeypatch):
    layer, x, calls = make(), images(10, 32, 32), []
    monkeypatch.setattr(winograd, "_pack", lambda *args: calls.append(args[1]) or PACK(*args))
    with torch.no_grad():
        layer(x)
        layer(x)
    assert calls == [256]


def test_weights_that_keep_no_version():
    """Those of a network that was made in inference mode."""
    x = images(1, 16, 16)
    with torch.inference_mode():
        layer = make()
        for _ in range(2):
            assert (layer(x) - exact(layer, x)).abs().max() < 1e-4
            layer.weight.mul_(2)
    assert layer._packed is not None


def test_no_images():
    with torch.no_grad():
        assert make()(images(0, 16, 16)).shape == (0, 160, 16, 16)


def test_gradients_are_those_of_the_convolution():
    layer, x = make(), images(1, 16, 16).requires_grad_(True)
    by_tiles(layer, x.detach())
    y = layer(x)
    ours = torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])
    twin = F.conv2d(x, layer.weight, layer.bias, padding=1)
    theirs = torch.autograd.grad(twin.square().sum(), [x, layer.weight, layer.bias])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def direct_only(layer, x):
    layer._packed = None
    with torch.no_grad():
        y = layer(x)
    assert layer._packed is None
    return y


def test_where_tiles_do_not_pay_the_convolution_is_pytorchs():
    x = images(2, 16, 16)
    assert torch.equal(
        direct_only(make(128, 64), x), F.conv2d(x, *make(128, 64).parameters(), padding=1)
    )
    direct_only(make(), x[..., :8, :8])  # a small map, in whatever batch
    assert direct_only(make().double(), x.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert direct_only(make(), x).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        direct_only(make(), x)


COMPILED = """
import torch
from trilemma.networks.winograd import Conv3x3
torch.manual_seed(0)
layer, x = Conv3x3(128, 160), torch.randn(1, 128, 16, 16)
with torch.no_grad():
    y = torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert torch.equal(y, torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
"""


def test_compiles_without_a_break():
    """In a process of its own: here annotations are checked at run time, in Python."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_are_named_as_ever():
    assert set(make().state_dict()) == {"weight", "bias"}
