"""Nearest neighbours and outlines: the definitions, blocks, what leaves an outline as it is."""

import pytest
import torch

from trilemma.errors import ConfigError, DataError
from trilemma.metrics import mnist_reference, nearest_neighbours, nearness
from trilemma.metrics.nearness import _outlines, _pixels


@pytest.fixture(scope="module")
def digits():
    """Training digits, and others."""
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    return mnist_reference().images[order].split([300, 106, 106])


def noisy(images, sigma, seed=0):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.float() + sigma * noise).round().clamp(0, 255).byte()


def photographs(num, channels=3, height=17, width=12):
    """Smooth colour pictures whose levels leave room on both sides."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randint(40, 200, (num, channels, 4, 4), generator=rng).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").byte()


def test_neighbours_are_those_of_plain_differences(digits, monkeypatch):
    train, queries, _ = digits
    gaps = queries.double()[:, None] - train.double()[None]
    truth = gaps.square().mean((2, 3, 4)).sqrt().sort(dim=1)
    distances, indices = nearest_neighbours(queries, train, 7)
    torch.testing.assert_close(distances, truth.values[:, :7], rtol=1e-12, atol=0.0)
    assert torch.equal(indices, truth.indices[:, :7])
    module = __import__("sys").modules["trilemma.metrics.nearness"]
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 1000)  # three queries at once
    again = nearest_neighbours(queries, train, 7)
    assert torch.equal(again[0], distances)
    assert torch.equal(again[1], indices)


def test_exact_copies_lie_at_zero_and_noise_at_its_deviation(digits):
    train = digits[0]
    distances, indices = nearest_neighbours(train[40:60], train, 2)
    assert torch.equal(distances[:, 0], torch.zeros(20).double())
    assert torch.equal(indices[:, 0], torch.arange(40, 60))
    grey = (train // 2) + 60  # nothing to clamp
    distances, _ = nearest_neighbours(noisy(grey[:20], 8), grey)
    assert float(distances.mean()) == pytest.approx(8.0, rel=0.02)


def test_large_images_are_averaged_down():
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (30, 3, 32, 32), generator=rng).byte()
    large = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(_pixels(large), coarse.flatten(1).float())
    odd = torch.randint(0, 256, (30, 3, 45, 50), generator=rng).byte()
    distances, indices = nearest_neighbours(odd[7:9], odd, 1)
    assert torch.equal(distances, torch.zeros(2, 1).double())
    assert indices[:, 0].tolist() == [7, 8]
    kept = nearest_neighbours(noisy(odd, 8), odd, 1)[0]
    assert float(kept.max()) < 7  # averaging takes noise out


def test_ratio_is_over_the_mean_of_the_next():
    """A point at 10 and its neighbours at 11, 12, 14 and 18: 1 over the mean of the next ones."""
    values = torch.tensor([18, 200, 11, 210, 14, 220, 12, 230, 240, 250], dtype=torch.uint8)
    train, query = values.reshape(-1, 1, 1, 1), torch.full((1, 1, 1, 1), 10, dtype=torch.uint8)
    for k, expected in ((2, 1 / 2), (3, 1 / 3), (4, 1 / ((2 + 4 + 8) / 3))):
        found = nearness(query, train, k=k)
        assert found.ratios.tolist() == pytest.approx([expected], rel=1e-12)
        assert (found.distances.tolist(), found.indices.tolist()) == ([1.0], [2])
    most = nearness(query, train)  # half of the ten
    assert most.ratios.tolist() == pytest.approx([1 / ((2 + 4 + 8 + 190) / 4)], rel=1e-12)


def test_exact_copies_of_large_images_are_equal_in_full():
    """Two pictures whose blocks have the same means are alike to the search, and not equal."""
    rng = torch.Generator().manual_seed(0)
    train = torch.randint(0, 256, (30, 3, 64, 64), generator=rng).byte()
    fake = train[:6].clone()
    fake[3:] = fake[3:].reshape(3, 3, 32, 2, 64).flip(3).reshape(3, 3, 64, 64)
    found = nearness(fake, train)
    assert torch.equal(found.distances, torch.zeros(6).double())
    assert found.is_exact.tolist() == [True] * 3 + [False] * 3
    twins = torch.cat([fake[3:4], train[3:]])  # one of two at distance 0 is another picture
    assert nearness(twins[:2], twins).is_exact.tolist() == [True, True]
    small = nearness(train[:2, :, :32, :32], train[:, :, :32, :32])
    assert small.is_exact.tolist() == [True, True]


def test_outline_is_that_of_its_formula():
    """All pairs of frequencies by the sum of the transform itself, in float64."""
    images = photographs(3, height=6, width=5)
    height, width = images.shape[2:]
    rows, columns = torch.arange(height), torch.arange(width)
    u = torch.exp(-2j * torch.pi * torch.outer(rows, rows).double() / height)
    v = torch.exp(-2j * torch.pi * torch.outer(columns, columns).double() / width)
    amplitudes = (u @ images.to(torch.complex128) @ v).abs()
    mirrored = amplitudes[:, :, -rows % height]
    pairs = torch.stack([amplitudes + mirrored, (amplitudes - mirrored).abs()], 1)
    pairs[..., 0, 0] = 0.0
    quarter = pairs[..., : height // 2 + 1, : width // 2 + 1].flatten(1)
    truth = quarter / quarter.norm(dim=1, keepdim=True)
    torch.testing.assert_close(_outlines(images).double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(17, 12), (12, 17), (28, 28), (32, 32), (1, 9)])
def test_outline_is_left_by_shifts_mirrors_brightness_and_contrast(shape):
    images = photographs(5, height=shape[0], width=shape[1])
    outline = _outlines(images)
    same = {
        "shift": images.roll((3, -2), (2, 3)),
        "mirror": images.flip(3),
        "upside down": images.flip(2),
        "brighter": images + 30,
        "negative": 255 - images,
    }
    for name, moved in same.items():
        torch.testing.assert_close(_outlines(moved), outline, rtol=0, atol=2e-6, msg=name)
    paler = _outlines((images.float() * 0.5).round().byte())
    assert float((paler - outline).norm(dim=1).max()) < 0.04  # rounding to whole levels
    assert float((outline[:-1] - outline[1:]).norm(dim=1).min()) > 0.1
    torch.testing.assert_close(outline.norm(dim=1), torch.ones(5), rtol=1e-6, atol=0.0)


def test_outline_tells_turned_pictures_apart():
    """Transposed, a picture has its frequencies exchanged, and is another one."""
    images = photographs(5, height=16, width=16)
    gaps = _outlines(images.mT) - _outlines(images)
    assert float(gaps.norm(dim=1).min()) > 0.1


@pytest.mark.parametrize("size", [1, 28, 64])
def test_pictures_of_one_colour_have_no_outline_and_copy_none(size):
    """Their ratio is that of pixels, though all their outlines are alike."""
    colours = torch.arange(3, 243, 8, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    train = colours.expand(-1, 3, size, size)
    assert not _outlines(train).any()
    found = nearness(train[:4] + 2, train)
    assert float(found.ratios.min()) > 0.01
    assert torch.equal(found.distances, torch.full((4,), 2.0).double())
    spot = train[:1].clone()
    spot[0, 0, size // 2, size // 2] += 1
    assert bool(_outlines(spot).any()) == (size == 28)  # averaged down, less than one level


def test_smaller_ratio_counts_with_its_neighbour(digits):
    """Half of the queries are copies in pixels with a spot, half were moved."""
    train = digits[0]
    spots = train[:5].clone()
    spots[:, :, 12:15, 12:15] = 255
    moved = train[5:10].roll(2, 3)
    found = nearness(torch.cat([spots, moved]), train)
    assert found.indices.tolist() == list(range(10))
    near = nearest_neighbours(spots, train)[0][:, 0]
    torch.testing.assert_close(found.distances[:5], near, rtol=1e-12, atol=0.0)
    truth = (moved.double() - train[5:10].double()).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(found.distances[5:], truth, rtol=1e-6, atol=0.0)
    assert float(found.ratios[5:].max()) < 1e-3


def test_errors(digits):
    train, _, fresh = digits
    with pytest.raises(DataError, match=r"queries have shape \(1, 14, 14\)"):
        nearest_neighbours(fresh[..., ::2, ::2], train)
    with pytest.raises(DataError, match=r"queries have shape \(1, 14, 14\)"):
        nearness(fresh[..., ::2, ::2], train)
    with pytest.raises(DataError, match=r"training images are torch\.float32"):
        nearest_neighbours(fresh, train.float())
    with pytest.raises(ConfigError, match="k = 301"):
        nearest_neighbours(fresh, train, 301)
    with pytest.raises(ConfigError, match="k = 1;"):
        nearness(fresh, train, k=1)
    with pytest.raises(DataError, match="3 training images"):
        nearness(fresh, train[:3])
