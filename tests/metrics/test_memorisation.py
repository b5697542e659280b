"""Copies found, exact, noisy, moved and mirrored; new and blurred images not accused; the tests."""

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
from trilemma.metrics.memorisation import _chance

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


def pale(images):
    return (0.7 * images.float() + 40).round().byte()


MOVES = {
    "moved": lambda x: x.roll((1, -2), (2, 3)),
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "pale": pale,
    "moved, mirrored, pale and noisy": lambda x: noisy(pale(x.flip(3).roll(2, 3)), 8),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_copies_are_found_wherever_they_went(digits, move):
    """Twelve of 106, each with the picture that it was made from."""
    train, held, fresh = digits
    found = memorisation(with_copies(fresh, move(train[:12])), train, held)
    assert found.is_flagged
    assert (found.ratios[:12] <= found.threshold).all()
    assert found.indices[:12].tolist() == list(range(12))
    assert found.num_exact == 0
    assert not memorisation(move(fresh), train, held).is_flagged


def far_from_all(images):
    """White noise, which stands out from no digit."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, images.shape, generator=rng).byte()


def lying_at(ratios):
    """Nearness of held-out images with these ratios, none of which is a copy."""
    ratios = torch.tensor(ratios, dtype=torch.float64)
    nothing = torch.zeros(len(ratios), dtype=torch.bool)
    return Nearness(ratios, torch.zeros(len(ratios)).long(), ratios, nothing, TRAIN, 50)


@pytest.mark.parametrize(("num", "is_flagged"), [(8, False), (9, True)])
def test_alarm_is_one_in_four_hundred_at_a_fixed_ratio(digits, num, is_flagged):
    """The first n of 106 + 106 images are all generated in C(106, n) of C(212, n) orders.

    That is 0.0034 for eight, 0.0016 for nine, and so it is for exact copies alone.
    """
    train, _, fresh = digits
    fake = with_copies(far_from_all(fresh), train[:num])
    found = memorisation(fake, train, lying_at([0.3] * HELD))
    truth = 4 * math.comb(FRESH, num) / math.comb(212, num)
    assert found.chance == pytest.approx(truth, rel=1e-9)
    assert (found.num_near, found.expected_near, found.num_exact) == (num, 0, num)
    assert (found.num_beside, found.expected_beside) == (num, 0)
    assert found.is_flagged == is_flagged
    wide = memorisation(fake, train, lying_at([0.2] * HELD))  # all near, none beside
    assert (wide.num_near, wide.expected_near, wide.expected_beside) == (num, HELD, 0)
    assert wide.chance == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize(("num", "is_flagged"), [(11, False), (12, True)])
def test_alarm_is_one_in_four_hundred_at_the_threshold(digits, num, is_flagged):
    """Noisy copies, which stand out as far as two of 106 held-out images, but no quarter.

    n of them come before the second held-out one if of the first n + 1 at most one is held out:
    0.0025 for eleven, 0.0012 for twelve.
    """
    train, _, fresh = digits
    noise = noisy(train[:num], 70)
    ratios = nearness(noise, train).ratios
    high = float(ratios.max())
    assert float(ratios.min()) > 1 / 4
    fake = with_copies(far_from_all(fresh), noise)
    found = memorisation(fake, train, lying_at([high + 1e-9] * 2 + [2.0] * (HELD - 2)))
    ways = math.comb(FRESH, num + 1) + math.comb(FRESH, num) * HELD
    assert found.chance == pytest.approx(4 * ways / math.comb(212, num + 1), rel=1e-9)
    assert found.num_near == found.num_beside == found.num_exact == 0
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
    """As few as lie below the threshold by chance, but no new image has a quarter."""
    rng = torch.Generator().manual_seed(1)
    train, held, fresh = (
        torch.randint(0, 256, (n, 1, 5, 5), generator=rng).byte() for n in (400, 2000, 1000)
    )
    fresh[:7] = noisy(train[:7], sigma)
    found = memorisation(fresh, train, held)
    assert found.share_copied < 0.02  # all that the threshold of 1 % can tell
    assert found.is_flagged
    truth = 4 * math.comb(1000, 7) / math.comb(3000, 7)
    assert found.chance == pytest.approx(truth, rel=1e-9)
    assert (found.num_near, found.expected_near) == (7, 0)
    assert found.num_exact == (7 if sigma == 0 else 0)


def test_held_out_copies_excuse_as_many(digits):
    """Fisher's test by hand: 12 of 106 and 3 of 106 are exact copies, and one more is near."""
    train, held, fresh = digits
    fake, real = with_copies(fresh, train[:12]), with_copies(held, train[20:23])
    found = memorisation(fake, train, real)
    total = math.comb(212, 16)
    ways = sum(math.comb(HELD, k) * math.comb(FRESH, 16 - k) for k in range(4))
    assert (found.num_exact, found.expected_exact) == (12, 3)
    assert (found.num_beside, found.expected_beside) == (12, 3)
    assert (found.num_near, found.expected_near) == (13, 3)
    assert found.threshold == 0.0
    assert found.chance == pytest.approx(4 * ways / total, rel=1e-9)
    assert not found.is_flagged


def test_near_copies_of_the_data_do_not_hide_the_model_s():
    """One held-out image in fifty is repeated: the threshold is 0, noisy copies lie above it."""
    rng = torch.Generator().manual_seed(1)
    train, held, fresh = (
        torch.randint(0, 256, (n, 1, 5, 5), generator=rng).byte() for n in (400, 500, 500)
    )
    held[:10], fresh[:10] = train[:10], train[10:20]
    assert not memorisation(fresh, train, held).is_flagged
    fresh[10:40] = noisy(train[20:50], 6)
    found = memorisation(fresh, train, held)
    assert found.threshold == 0.0
    assert (found.num_near, found.expected_near) == (40, 10)
    assert found.is_flagged


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
    with pytest.raises(ConfigError, match="k = 1;"):
        memorisation(fresh, train, held, k=1)
    with pytest.raises(DataError, match="3 training images"):
        memorisation(fresh, train[:3], held)
    with pytest.raises(DataError, match="5 held-out images"):
        memorisation(fresh, train, held[:5])
    with pytest.raises(DataError, match="against 200 training images"):
        memorisation(fresh, train, nearness(held, train[:200]))
    with pytest.raises(ConfigError, match="with 20 neighbours; the generated ones need 50"):
        memorisation(fresh, train, nearness(held, train, k=20))
