"""Nearest neighbours and copies: the definition, blocks, copies found, blur not accused."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from trilemma.errors import ConfigError, DataError
from trilemma.metrics import (
    Nearness,
    memorisation,
    mnist_reference,
    nearest_neighbours,
    nearness,
    wilson,
)
from trilemma.metrics import memorisation as function
from trilemma.metrics.memorisation import _chance, _pixels

TRAIN, HELD, FRESH = 300, 106, 106


@pytest.fixture(scope="module")
def digits():
    """Training, held-out and fresh digits."""
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    return mnist_reference().images[order].split([TRAIN, HELD, FRESH])


def noisy(images, sigma, seed=0):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.float() + sigma * noise).round().clamp(0, 255).byte()


def blurred(images, sigma):
    x = torch.arange(-4.0, 5.0)
    line = torch.exp(-((x / sigma) ** 2) / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(images.float(), kernel[None, None], padding=4).round().byte()


def with_copies(fresh, copies):
    return torch.cat([copies, fresh])[: len(fresh)]


def test_neighbours_are_those_of_plain_differences(digits, monkeypatch):
    train, queries, _ = digits
    gaps = queries.double()[:, None] - train.double()[None]
    truth = gaps.square().mean((2, 3, 4)).sqrt().sort(dim=1)
    distances, indices = nearest_neighbours(queries, train, 7)
    torch.testing.assert_close(distances, truth.values[:, :7], rtol=1e-12, atol=0.0)
    assert torch.equal(indices, truth.indices[:, :7])
    module = __import__("sys").modules["trilemma.metrics.memorisation"]
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


def test_fresh_digits_are_not_flagged(digits):
    train, held, fresh = digits
    found = memorisation(fresh, train, held)
    assert not found.is_flagged
    assert found.share_copied < 0.06
    assert (found.low, found.high) == wilson(found.share_copied, FRESH)
    assert (found.num_fake, found.num_train, found.num_held_out) == (FRESH, TRAIN, HELD)
    assert found.expected_share == pytest.approx(0.01, abs=0.01)


@pytest.mark.parametrize("sigma", [0.7, 1.5, 2.5])
def test_blurred_digits_are_not_flagged_though_they_are_near(digits, sigma):
    train, held, fresh = digits
    smooth = blurred(fresh, sigma)
    assert not memorisation(smooth, train, held).is_flagged
    if sigma == 1.5:  # the plain distance would accuse them
        plain, sharp = (nearest_neighbours(x, train)[0].median() for x in (smooth, fresh))
        assert plain < sharp


@pytest.mark.parametrize("sigma", [0, 8])
def test_a_tenth_of_copies_is_flagged(digits, sigma):
    train, held, fresh = digits
    num = FRESH // 10 + 1
    found = memorisation(with_copies(fresh, noisy(train[:num], sigma)), train, held)
    assert found.is_flagged
    assert found.share_copied >= num / FRESH
    assert found.indices[:num].tolist() == list(range(num))
    assert (found.ratios[:num] <= found.threshold).all()
    if sigma == 0:
        assert float(found.distances[:num].max()) == 0.0


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


def lying_at(ratios):
    """Nearness of held-out images with these ratios, none of which is a copy."""
    ratios = torch.tensor(ratios, dtype=torch.float64)
    nothing = torch.zeros(len(ratios), dtype=torch.bool)
    return Nearness(ratios, ratios, torch.zeros(len(ratios)).long(), nothing, TRAIN)


@pytest.mark.parametrize(("num", "is_flagged"), [(7, False), (8, True)])
def test_alarm_is_one_in_two_hundred_at_half_the_threshold(digits, num, is_flagged):
    """The first n of 106 + 106 images are all generated in C(106, n) of C(212, n) orders.

    That is 0.0071 for seven, 0.0034 for eight.
    """
    train, _, fresh = digits
    fake = with_copies(255 - fresh, train[:num])  # the others are far from everything
    found = memorisation(fake, train, lying_at([0.3] * HELD))
    assert found.near_chance == pytest.approx(math.comb(FRESH, num) / math.comb(212, num), rel=1e-9)
    assert (found.num_near, found.expected_near, found.num_exact) == (num, 0, num)
    assert found.chance > 0.99 and found.is_flagged == is_flagged


@pytest.mark.parametrize(("num", "is_flagged"), [(9, False), (10, True)])
def test_alarm_is_one_in_two_hundred_at_the_threshold(digits, num, is_flagged):
    """Noisy copies, which stand out as far as two of 106 held-out images, not twice as far.

    n of them come before the second held-out one if of the first n + 1 at most one is held out:
    0.0093 for nine, 0.0049 for ten.
    """
    train, _, fresh = digits
    noise = noisy(train[:num], 70)
    ratios = nearness(noise, train).ratios
    low, high = float(ratios.min()), float(ratios.max())
    assert low > high / 2
    fake = with_copies(255 - fresh, noise)
    found = memorisation(fake, train, lying_at([high, high] + [2.0] * (HELD - 2)))
    ways = math.comb(FRESH, num + 1) + math.comb(FRESH, num) * HELD
    assert found.chance == pytest.approx(ways / math.comb(212, num + 1), rel=1e-9)
    assert found.num_near == found.num_exact == 0
    assert found.is_flagged == is_flagged


@pytest.mark.parametrize(("copied", "expected"), [(0, 1), (1, 1), (3, 1), (2, 2), (6, 3), (7, 5)])
def test_chance_is_that_of_random_orders(copied, expected):
    num_fake, num_held_out, trials = 8, 12, 40_000
    rng = torch.Generator().manual_seed(0)
    ranks = torch.rand(trials, num_fake + num_held_out, generator=rng)
    threshold = ranks[:, num_fake:].sort(1).values[:, expected - 1]
    found = (ranks[:, :num_fake] <= threshold[:, None]).sum(1) >= copied
    truth = float(found.double().mean())
    assert _chance(copied, num_fake, expected, num_held_out) == pytest.approx(truth, abs=0.008)


@pytest.mark.parametrize("sigma", [0, 6])
def test_less_than_one_percent_of_copies_is_flagged(sigma):
    """As few as lie below the threshold by chance, but at half of it there is no new image."""
    rng = torch.Generator().manual_seed(1)
    train, held, fresh = (
        torch.randint(0, 256, (n, 1, 5, 5), generator=rng).byte() for n in (400, 2000, 1000)
    )
    fresh[:7] = noisy(train[:7], sigma)
    found = memorisation(fresh, train, held)
    assert found.chance > 0.005  # all that the threshold of 1 % can tell
    assert found.is_flagged
    assert found.near_chance == pytest.approx(math.comb(1000, 7) / math.comb(3000, 7), rel=1e-9)
    assert (found.num_near, found.expected_near) == (7, 0)
    assert found.num_exact == (7 if sigma == 0 else 0)


def test_held_out_copies_excuse_as_many(digits):
    """Fisher's test by hand: 12 of 106 and 3 of 106 are exact copies, which are in both sets."""
    train, held, fresh = digits
    fake, real = with_copies(fresh, train[:12]), with_copies(held, train[20:23])
    found = memorisation(fake, train, real)
    total = math.comb(212, 15)
    ways = sum(math.comb(HELD, k) * math.comb(FRESH, 15 - k) for k in range(4))
    assert (found.num_exact, found.expected_exact) == (12, 3)
    assert (found.num_near, found.expected_near) == (12, 3)
    assert found.threshold == 0.0
    assert found.near_chance == pytest.approx(ways / total, rel=1e-9)
    assert not found.is_flagged


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


def test_plain_result(digits):
    train, held, fresh = digits
    found = memorisation(fresh, train, held)
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["share_copied"] == found.share_copied
    assert plain["is_flagged"] is False
    assert not {"indices", "distances", "ratios"} & set(plain)
    again = function(fresh, train, nearness(held, train))
    assert again.as_dict() == found.as_dict()


def test_repeated_training_images_are_copied_too(digits):
    train, held, _ = digits
    repeated = train[:6].repeat(10, 1, 1, 1)
    assert torch.equal(nearness(train[:3], repeated).ratios, torch.zeros(3).double())
    assert memorisation(train[:50].clone(), train, held).share_copied == 1.0


def test_errors(digits):
    train, held, fresh = digits
    with pytest.raises(DataError, match=r"queries have shape \(1, 14, 14\)"):
        nearest_neighbours(fresh[..., ::2, ::2], train)
    with pytest.raises(DataError, match=r"training images are torch\.float32"):
        nearest_neighbours(fresh, train.float())
    with pytest.raises(ConfigError, match="k = 301"):
        nearest_neighbours(fresh, train, 301)
    with pytest.raises(ConfigError, match="k = 1;"):
        memorisation(fresh, train, held, k=1)
    with pytest.raises(DataError, match="3 training images"):
        memorisation(fresh, train[:3], held)
    with pytest.raises(DataError, match="5 held-out images"):
        memorisation(fresh, train, held[:5])
    with pytest.raises(DataError, match="against 200 training images"):
        memorisation(fresh, train, nearness(held, train[:200]))
