"""Frechet distance: closed forms, an independent matrix square root, ranks, errors, mutants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from trilemma.errors import DataError, NumericalError
from trilemma.metrics import GaussianStats, frechet_distance, frechet_error, gaussian_stats
from trilemma.metrics.frechet import (
    frechet_of_features,
    influence,
    roots_trace,
    symmetric_root,
)


def gaussian(mean, cov):
    return GaussianStats(
        torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(cov, dtype=torch.float64), 100
    )


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scipy(a, b):
    root = np.real(sqrtm((a.cov @ b.cov).numpy()))
    spread = a.cov.trace() + b.cov.trace() - 2 * np.trace(root)
    return float((a.mean - b.mean).square().sum() + spread)


def test_statistics_are_those_of_numpy():
    x = draw(50, 4)
    stats = gaussian_stats(x.float())
    np.testing.assert_allclose(stats.mean, x.float().double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.cov, np.cov(x.float().double().numpy().T), rtol=1e-12)
    assert stats.num_samples == 50
    assert stats.cov.dtype == torch.float64


def test_one_dimension_is_squared_difference_of_means_and_deviations():
    assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([3.0], [[9.0]])) == pytest.approx(
        2.0**2 + (2.0 - 3.0) ** 2, rel=1e-12
    )


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=6), st.floats(0.1, 5.0))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_commuting_covariances(deviations, factor):
    rotation = torch.linalg.qr(draw(len(deviations), len(deviations)))[0]
    s = torch.tensor(deviations, dtype=torch.float64)
    cov = rotation @ torch.diag(s**2) @ rotation.mT
    zero = torch.zeros(len(s))
    value = frechet_distance(gaussian(zero, cov), gaussian(zero, factor**2 * cov))
    assert value == pytest.approx(float(((1 - factor) ** 2 * s**2).sum()), rel=1e-9, abs=1e-9)


def test_a_linear_map_that_is_optimal_transport():
    # A symmetric positive definite, x ~ N(0, C): W2^2(x, A x) = tr (1 - A) C (1 - A)
    noise = draw(5, 5)
    a, c = noise @ noise.mT + torch.eye(5), torch.cov(draw(40, 5, 1).mT)
    gap = torch.eye(5) - a
    value = frechet_distance(gaussian(torch.zeros(5), c), gaussian(torch.zeros(5), a @ c @ a))
    assert value == pytest.approx(float((gap @ c @ gap).trace()), rel=1e-10)


@pytest.mark.parametrize("dim", [3, 64])
def test_agrees_with_a_general_matrix_square_root(dim):
    a = gaussian_stats(draw(300, dim) @ draw(dim, dim, 1))
    b = gaussian_stats(draw(300, dim, 2) @ draw(dim, dim, 3) + 0.3)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)


def test_mutants_of_the_formula_are_told_apart():
    a = gaussian_stats(draw(300, 6) @ draw(6, 6, 1))
    b = gaussian_stats(draw(300, 6, 2) @ draw(6, 6, 3) + 0.3)
    truth, value = by_scipy(a, b), frechet_distance(a, b)
    shift = float((a.mean - b.mean).square().sum())
    traces = float(a.cov.trace() + b.cov.trace())
    roots = torch.from_numpy(np.real(sqrtm(a.cov.numpy()) @ sqrtm(b.cov.numpy())))
    mutants = {
        "root of each instead of the product": shift + traces - 2 * float(roots.trace()),
        "no factor two": shift + traces - (traces + shift - truth) / 2,
        "unsquared shift": math.sqrt(shift) + truth - shift,
        "biased covariance": shift + (truth - shift) * 299 / 300,
    }
    assert abs(value - truth) < 1e-6 * truth
    assert all(abs(mutant - truth) > 1e-4 * truth for mutant in mutants.values()), mutants


def test_symmetric_and_zero_on_itself():
    a, b = gaussian_stats(draw(40, 5)), gaussian_stats(draw(40, 5, 1) * 3)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12)


def test_fewer_samples_than_features():
    # both sets lie in one plane of a 50-dimensional space: same distance as in the plane
    plane = torch.linalg.qr(draw(50, 2))[0]
    x, y = draw(20, 2, 1), draw(20, 2, 2) * torch.tensor([1.0, 3.0]) + 1
    flat = frechet_distance(gaussian_stats(x), gaussian_stats(y))
    deep = frechet_distance(gaussian_stats(x @ plane.mT), gaussian_stats(y @ plane.mT))
    assert deep == pytest.approx(flat, rel=1e-9)
    same = gaussian_stats(draw(20, 50))
    assert frechet_distance(same, same) < 1e-11


def test_standard_error_is_that_of_repeated_draws():
    scale, n = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), 400
    values, errors = [], []
    for seed in range(120):
        x, y = draw(n, 3, 2 * seed) * scale, draw(n, 3, 2 * seed + 1) @ draw(3, 3, 999) + 0.5
        values.append(frechet_distance(gaussian_stats(x), gaussian_stats(y)))
        errors.append(frechet_error(x, y))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.2)


def jackknife(x, y):
    """Return the standard error over x by leaving out one sample at a time."""
    other, rows = gaussian_stats(y), range(len(x))
    values = [frechet_distance(gaussian_stats(x[[j for j in rows if j != i]]), other) for i in rows]
    return math.sqrt((len(x) - 1) * np.var(values))


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_standard_error_is_that_of_the_jackknife(shift):
    # turned and unequal covariances; the shift makes the mean's part of the error dominate
    x, y = draw(400, 3) @ draw(3, 3, 1), draw(400, 3, 2) @ draw(3, 3, 3) + shift
    expected = math.hypot(jackknife(x, y), jackknife(y, x))
    assert frechet_error(x, y) == pytest.approx(expected, rel=0.02)


def test_influence_is_the_derivative_by_a_samples_weight():
    x, y = draw(400, 3) @ draw(3, 3, 1), gaussian_stats(draw(60, 3, 2) + 0.4)

    def distance(weights):
        share = weights / weights.sum()
        mean = share @ x
        cov = (x - mean).mT @ ((x - mean) * share[:, None])
        return frechet_distance(GaussianStats(mean, cov * 400 / 399, 400), y)

    slopes = []
    for i in range(8):
        step = torch.zeros(400, dtype=torch.float64)
        step[i] = 1e-3
        slopes.append((distance(1 + step) - distance(1 - step)) / 2e-3 * 400)
    found = np.array(slopes)
    moves = influence(x, y)[:8].numpy()
    np.testing.assert_allclose(found - found.mean(), moves - moves.mean(), rtol=0.01)


def test_a_given_reference_adds_no_error():
    x, y = draw(300, 3), draw(300, 3, 1) * 1.5
    one, other = frechet_error(x, gaussian_stats(y)), frechet_error(y, gaussian_stats(x))
    assert frechet_error(x, y) == pytest.approx(math.hypot(one, other), rel=1e-12)


def test_many_pairs_at_once():
    a, b = (torch.stack([torch.cov(draw(20, 5, s + k).mT) for s in range(3)]) for k in (0, 7))
    roots = symmetric_root(a)
    torch.testing.assert_close(roots @ roots, a, rtol=1e-10, atol=1e-12)
    truth = [np.trace(np.real(sqrtm((p @ q).numpy()))) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(roots_trace(roots, b), truth, rtol=1e-8)


@pytest.mark.parametrize(("n", "m", "dim"), [(90, 120, 6), (30, 20, 40), (30, 200, 40), (8, 9, 8)])
def test_distance_of_features_by_singular_values(n, m, dim):
    x, y = draw(n, dim) @ draw(dim, dim, 1), draw(m, dim, 2) @ draw(dim, dim, 3) + 0.3
    p, q = x.numpy(), y.numpy()
    a, b = ((s - s.mean(0)) / math.sqrt(len(s) - 1) for s in (p, q))
    truth = np.square(p.mean(0) - q.mean(0)).sum() + np.square(a).sum() + np.square(b).sum()
    truth -= 2 * np.linalg.norm(a @ b.T, "nuc")
    assert frechet_of_features(x, y) == pytest.approx(truth, rel=1e-6)
    assert frechet_of_features(y, x) == pytest.approx(truth, rel=1e-6)
    assert frechet_of_features(x, gaussian_stats(y)) == pytest.approx(truth, rel=1e-6)
    assert frechet_distance(gaussian_stats(x), gaussian_stats(y)) == pytest.approx(truth, rel=1e-6)
    assert frechet_of_features(x, x) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite(bad):
    x = draw(10, 3)
    x[4, 1] = bad
    with pytest.raises(NumericalError, match="1 of 10 samples"):
        gaussian_stats(x)
    stats = gaussian_stats(draw(10, 3))
    broken = GaussianStats(stats.mean, stats.cov * bad, 10)
    with pytest.raises(NumericalError, match="not finite"):
        frechet_distance(stats, broken)


@pytest.mark.parametrize("shape", [(10,), (1, 3), (10, 0), (2, 3, 4)])
def test_features_of_a_wrong_shape(shape):
    with pytest.raises(DataError, match="features"):
        gaussian_stats(torch.zeros(shape))


def test_different_widths():
    with pytest.raises(DataError, match="3 and 4 features"):
        frechet_distance(gaussian_stats(draw(10, 3)), gaussian_stats(draw(10, 4)))
    with pytest.raises(DataError, match="3 and 4 wide"):
        frechet_of_features(draw(10, 3), gaussian_stats(draw(10, 4)))
