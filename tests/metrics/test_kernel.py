"""Kernel distance: unbiased around zero, equal to the definition, sensitive, seeded."""

import math

import numpy as np
import pytest
import torch

from trilemma.errors import ConfigError, DataError, NumericalError
from trilemma.metrics import kid, mmd


def draw(n, d=4, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def naive(x, y, diagonal=False):
    """The definition, by three loops; with the diagonal it is the biased V-statistic."""
    x, y, d = x.double().numpy(), y.double().numpy(), x.shape[1]
    k = lambda a, b: (a @ b / d + 1) ** 3  # noqa: E731

    def within(z):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if diagonal or i != j]
        return np.mean([k(z[i], z[j]) for i, j in pairs])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_equals_the_definition_with_unequal_sizes():
    x, y = draw(23), draw(17, seed=1) + 0.5
    assert mmd(x, y) == pytest.approx(naive(x, y), rel=1e-10)


def statistic_of_equal_laws(estimate):
    values = [estimate(draw(20, seed=2 * s), draw(20, seed=2 * s + 1)) for s in range(300)]
    return np.mean(values) / (np.std(values) / math.sqrt(len(values)))


def test_unbiased_around_zero_and_the_biased_one_is_caught():
    assert abs(statistic_of_equal_laws(mmd)) < 4
    biased = lambda x, y: float(  # noqa: E731
        ((x @ x.mT / 4 + 1) ** 3).mean()
        + ((y @ y.mT / 4 + 1) ** 3).mean()
        - 2 * ((x @ y.mT / 4 + 1) ** 3).mean()
    )
    assert statistic_of_equal_laws(biased) > 10


def test_known_value_for_a_shift_in_one_dimension():
    # x ~ N(0, 1), y ~ N(a, 1): E k(x, y) = sum_j binom(3, j) E x^j E y^j
    a, n = 0.7, 1500
    moments = lambda m: (1.0, m, 1 + m**2, 3 * m + m**3)  # noqa: E731
    kernel = lambda p, q: sum(math.comb(3, j) * p[j] * q[j] for j in range(4))  # noqa: E731
    p, q = moments(0.0), moments(a)
    truth = kernel(p, p) + kernel(q, q) - 2 * kernel(p, q)
    values = [mmd(draw(n, 1, 2 * s), draw(n, 1, 2 * s + 1) + a) for s in range(10)]
    assert np.mean(values) == pytest.approx(truth, rel=0.1)


def test_blocks_do_not_change_the_value():
    x, y = draw(2500, 3), draw(2100, 3, 1)  # more rows than one block
    kernel = lambda a, b: ((a.double() @ b.double().mT) / 3 + 1) ** 3  # noqa: E731
    off = lambda z: (kernel(z, z).sum() - kernel(z, z).diagonal().sum()) / (len(z) * (len(z) - 1))  # noqa: E731
    truth = float(off(x) + off(y) - 2 * kernel(x, y).mean())
    assert mmd(x, y) == pytest.approx(truth, rel=1e-9, abs=1e-12)


def test_subsets_are_capped_counted_and_seeded():
    x, y = draw(60), draw(40, seed=1) + 1
    score = kid(x, y, num_subsets=7)
    assert (score.subset_size, score.num_subsets) == (40, 7)
    assert score == kid(x, y, num_subsets=7)
    assert score != kid(x, y, num_subsets=7, seed=1)
    assert kid(x, y, num_subsets=300, subset_size=30).mean == pytest.approx(mmd(x, y), rel=0.05)


def test_whole_sample_subset_is_the_full_statistic():
    x, y = draw(30), draw(30, seed=1)
    score = kid(x, y, num_subsets=1, subset_size=30)
    assert score.mean == pytest.approx(mmd(x, y), rel=1e-9)
    assert math.isnan(score.std)
    assert math.isnan(kid(x, y, num_subsets=5).std)  # five times the same subset: no spread known
    assert kid(x, y, num_subsets=5, subset_size=15).std > 1e-3


def test_a_collapsed_set_is_far():
    x = draw(200)
    assert kid(x, x[:4].repeat(50, 1), num_subsets=5).mean > 20 * abs(mmd(x, draw(200, seed=1)))


def test_errors():
    with pytest.raises(ConfigError, match="num_subsets"):
        kid(draw(9), draw(9), num_subsets=0)
    with pytest.raises(ConfigError, match="subset_size"):
        kid(draw(9), draw(9), subset_size=1)
    with pytest.raises(DataError, match="wide"):
        mmd(draw(9, 3), draw(9, 4))
    with pytest.raises(NumericalError, match="fake"):
        mmd(draw(9), draw(9) * math.nan)
