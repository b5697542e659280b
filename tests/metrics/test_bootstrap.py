"""Intervals: coverage by repeated draws, weighted moments, Wilson, jackknife, corrections."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from trilemma.errors import ConfigError, DataError
from trilemma.metrics import (
    IdentityFeatures,
    divergence_interval,
    evaluate_features,
    frechet_distance,
    frechet_interval,
    gaussian_stats,
    kid,
    manifold_scores,
    mode_statistics,
    wilson,
)
from trilemma.metrics import bootstrap as module
from trilemma.metrics.bootstrap import (
    kernel_error,
    normal_interval,
    resample_weights,
    share_interval,
    sum_error,
)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=rng(seed), dtype=torch.float64)


def covers(intervals, values):
    """Share of the intervals that hold the mean of the values, and ratio of error to spread."""
    middle = float(np.mean(values))
    held = [interval.low <= middle <= interval.high for interval in intervals]
    return np.mean(held), np.mean([i.error for i in intervals]) / np.std(values, ddof=1)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.2, 0.0), (1.5, 0.4)])
def test_frechet_interval_covers_the_mean_at_its_size(scale, shift):
    # scale 1, shift 0 is the floor, where the true distance 0 lies below all of the intervals
    values, intervals = [], []
    for seed in range(120):
        x, y = draw(200, 6, 2 * seed), draw(200, 6, 2 * seed + 1) * scale + shift
        values.append(frechet_distance(gaussian_stats(y), gaussian_stats(x)))
        intervals.append(frechet_interval(y, x, resamples=60, seed=seed))
    share, ratio = covers(intervals, values)
    assert share >= 0.91  # 95 %, less two standard deviations of the share
    assert 0.85 < ratio < 1.3
    truth = 6 * ((1 - scale) ** 2 + shift**2)
    assert np.mean(values) - truth == pytest.approx(bias(scale), rel=0.25)


def bias(scale, n=200, d=6):
    """Bias of the distance of N(0, 1) and N(0, scale^2) to first order in 1 / n, both of size n.

    Means give d (1 + s^2) / n. A relative error E of either covariance lowers tr (A B)^{1/2} by
    s |E|^2 / 8, and E |E|^2 = d (d + 1) / n.
    """
    return (d * (1 + scale**2) + d * (d + 1) * scale / 2) / n


def test_plain_percentiles_would_miss_the_floor():
    # the reason for the form of the interval: resampling repeats the bias
    x, y = draw(200, 6), draw(200, 6, 1)
    value = frechet_distance(gaussian_stats(y), gaussian_stats(x))
    resampled = []
    for seed in range(60):
        a, b = (
            z[torch.randint(200, (200,), generator=rng(2 * seed + k))] for k, z in enumerate((x, y))
        )
        resampled.append(frechet_distance(gaussian_stats(b), gaussian_stats(a)))
    assert np.quantile(resampled, 0.025) > value
    interval = frechet_interval(y, x)
    assert interval.low < value < interval.high
    assert np.std(resampled) > 1.25 * interval.error


def test_weighted_moments_are_those_of_copied_samples(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 300)  # several blocks
    x = draw(90, 5) * 3 + 100
    weights = resample_weights(90, 4, rng(0))
    mean, cov = module._moments(x, weights)
    for r in range(4):
        copies = x.repeat_interleave(weights[r].long(), dim=0)
        assert len(copies) == 90
        np.testing.assert_allclose(mean[r], copies.mean(0), rtol=1e-12)
        np.testing.assert_allclose(cov[r], np.cov(copies.numpy().T), rtol=1e-9)


def test_weights_are_multinomial():
    weights = resample_weights(50, 4000, rng(0))
    assert torch.equal(weights.sum(1), torch.full((4000,), 50.0).double())
    assert float(weights.var()) == pytest.approx(1 - 1 / 50, rel=0.02)
    with pytest.raises(ConfigError, match="resamples = 1"):
        resample_weights(5, 1, rng(0))


def test_a_given_reference_is_not_resampled():
    x, y = draw(300, 4), draw(300, 4, 1) + 0.5
    given = frechet_interval(y, gaussian_stats(x))
    both = frechet_interval(y, x)
    assert "taken as given" in given.note
    assert given.error == pytest.approx(both.error / math.sqrt(2), rel=0.2)


def test_wide_features_take_influences():
    x, y = draw(300, 40), draw(300, 40, 1) * 1.2 + 0.2
    interval = frechet_interval(y, x)
    assert "influence" in interval.note
    assert interval.error == pytest.approx(module.frechet_error(y, x), rel=1e-12)
    values = [
        frechet_distance(
            gaussian_stats(draw(300, 40, s) * 1.2 + 0.2), gaussian_stats(draw(300, 40, 999 - s))
        )
        for s in range(60)
    ]
    assert 0.8 < interval.error / np.std(values, ddof=1) < 1.8


def test_intervals_are_seeded_and_hold_the_value():
    x, y = draw(120, 3), draw(120, 3, 1)
    assert frechet_interval(y, x) == frechet_interval(y, x)
    assert frechet_interval(y, x) != frechet_interval(y, x, seed=1)
    assert frechet_interval(y, x).low >= 0.0
    assert normal_interval(9.9, 1.0, "", most=10.0).high == 10.0
    assert normal_interval(2.0, 0.5, "").high == pytest.approx(2.0 + 1.959964 * 0.5)


@pytest.mark.parametrize(("hits", "size"), [(0, 20), (3, 20), (20, 20), (400, 1000)])
def test_wilson_is_that_of_scipy(hits, size):
    truth = binomtest(hits, size).proportion_ci(method="wilson")
    assert wilson(hits / size, size) == pytest.approx((truth.low, truth.high), abs=1e-12)


def test_wilson_holds_the_share_at_both_ends():
    for size in range(1, 200):
        assert wilson(1.0, size)[1] == 1.0
        assert wilson(0.0, size)[0] == 0.0


def test_share_interval_widens_with_the_error_and_never_is_a_point():
    plain = math.sqrt(0.3 * 0.7 / 200)
    interval = share_interval(0.3, plain, 200, "")
    assert (interval.low, interval.high) == pytest.approx(wilson(0.3, 200))
    wide = share_interval(0.3, 3 * plain, 200, "")
    assert wide.high - wide.low > 2.5 * (interval.high - interval.low)
    assert share_interval(1.0, 0.0, 200, "").low == pytest.approx(wilson(1.0, 200)[0])
    assert share_interval(0.3, plain / 9, 200, "") == interval.__class__(
        interval.low, interval.high, plain / 9, ""
    )
    with pytest.raises(ConfigError, match=r"share = 1\.2"):
        wilson(1.2, 10)


def test_sum_error_is_the_spread_of_resampled_sums():
    a, b = draw(80, 1)[:, 0].exp(), draw(50, 1, 1)[:, 0]
    sums = resample_weights(80, 20_000, rng(0)) @ a + resample_weights(50, 20_000, rng(1)) @ b
    assert sum_error(a, b) == pytest.approx(float(sums.std()), rel=0.03)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_of_neighbours_cover_the_mean(shift):
    scores = {name: ([], []) for name in ("precision", "recall", "density", "coverage")}
    for seed in range(80):
        x, y = draw(150, 4, 2 * seed), draw(150, 4, 2 * seed + 1) + shift
        found = manifold_scores(x, y)
        for name, (values, intervals) in scores.items():
            value, error = getattr(found, name), sum_error(*found.parts[name])
            values.append(value)
            if name == "density":
                intervals.append(normal_interval(value, error, ""))
            else:
                intervals.append(share_interval(value, error, 150, ""))
    for name, (values, intervals) in scores.items():
        share, ratio = covers(intervals, values)
        assert share >= 0.89, name
        assert ratio > 0.8, name
    if shift:  # the other set's part is needed: the binomial error alone is far too small
        values = scores["recall"][0]
        middle = np.mean(values)
        assert math.sqrt(middle * (1 - middle) / 150) < 0.5 * np.std(values)


@pytest.mark.parametrize(("dim", "scale"), [(64, 1.0), (64, 0.8), (16, 1.2)])
def test_intervals_of_density_cover_the_mean_in_many_dimensions(dim, scale):
    """There a few samples are neighbours of many, whose balls must not be taken as given."""
    values, intervals, given = [], [], []
    for seed in range(100):
        x, y = draw(256, dim, 2 * seed), scale * draw(256, dim, 2 * seed + 1)
        found = manifold_scores(x, y)
        values.append(found.density)
        intervals.append(normal_interval(found.density, sum_error(*found.parts["density"]), ""))
        balls = ((x[:, None] - y).norm(dim=-1) <= torch.cdist(x, x).sort(1).values[:, 5:6]).sum(1)
        given.append(sum_error(found.parts["density"][0], balls / (5 * 256)))
    share, ratio = covers(intervals, values)
    assert share >= 0.89
    assert 0.9 < ratio < 1.2
    if scale <= 1:
        assert np.mean(given) < 0.85 * np.std(values)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kernel_interval_covers_the_truth(shift):
    values, intervals = [], []
    for seed in range(60):
        x, y = draw(200, 3, 2 * seed), draw(200, 3, 2 * seed + 1) + shift
        score = kid(x, y, num_subsets=40, subset_size=100, seed=seed)
        error = kernel_error(score.std, 40, 100, 200)
        values.append(score.mean)
        intervals.append(normal_interval(score.mean, error, "", least=-math.inf))
    share, ratio = covers(intervals, values)
    assert share >= 0.9
    assert 0.85 < ratio < (2.5 if shift == 0 else 1.2)


@pytest.mark.parametrize("peak", [0.0, 0.5])
def test_divergence_interval_covers_the_mean(peak):
    law = torch.full((40,), 1 / 40, dtype=torch.float64)
    tilted = law * (1 + peak * torch.linspace(-1, 1, 40))
    values, intervals = [], []
    for seed in range(150):
        labels = torch.multinomial(tilted, 800, replacement=True, generator=rng(seed))
        found = mode_statistics(labels, 40, law)
        counts = torch.bincount(labels, minlength=40)
        values.append(found.mode_kl)
        intervals.append(divergence_interval(counts, law, found.mode_kl, resamples=60, seed=seed))
    share, ratio = covers(intervals, values)
    assert share >= 0.91
    assert 0.85 < ratio < 1.2


def test_every_record_has_an_interval_around_its_value():
    records = evaluate_features(draw(60, 4) + 0.3, draw(90, 4, 1), IdentityFeatures(), split="test")
    for record in records:
        assert record.low < record.value < record.high, record.name
        assert "95 % interval: " in record.note


def test_errors():
    with pytest.raises(DataError, match="4 and 3 wide"):
        frechet_interval(draw(30, 4), draw(30, 3))
    with pytest.raises(ConfigError, match="resamples = 0"):
        frechet_interval(draw(90, 3), draw(90, 3), resamples=0)
    with pytest.raises(ConfigError, match="resamples = 1"):
        divergence_interval(torch.ones(3), torch.ones(3) / 3, 0.0, resamples=1)
