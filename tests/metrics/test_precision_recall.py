"""Precision, recall, density, coverage: definition, meaning, memory blocks, errors."""

import math

import numpy as np
import pytest
import torch

from trilemma.errors import ConfigError, DataError, NumericalError
from trilemma.metrics import manifold_scores
from trilemma.metrics.precision_recall import _distances


def draw(n, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(real, fake, k_pr=3, k_dc=5):
    """The four definitions with plain differences and full matrices."""
    x, y = real.numpy(), fake.numpy()
    gap = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731

    def radius(z, k):
        return np.sort(gap(z, z), axis=1)[:, k]  # column 0 is the point itself

    cross = gap(y, x)
    precision = (cross <= radius(x, k_pr)).any(1).mean()
    recall = (radius(y, k_pr) >= cross.T).any(1).mean()
    held = cross <= radius(x, k_dc)
    return precision, recall, held.sum() / (k_dc * len(y)), held.any(0).mean()


def four(scores):
    return scores.precision, scores.recall, scores.density, scores.coverage


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_equals_the_definition_whatever_the_block(block):
    real, fake = draw(90, 5) + 100, draw(70, 5, 1) * 1.3 + 100.4
    assert four(manifold_scores(real, fake, block=block)) == pytest.approx(naive(real, fake))


def test_other_neighbour_counts():
    real, fake = draw(80, 3), draw(80, 3, 1) + 1
    scores = manifold_scores(real, fake, k_precision=7, k_density=2)
    assert four(scores) == pytest.approx(naive(real, fake, 7, 2))
    assert (scores.k_precision, scores.k_density) == (7, 2)


def test_mutant_that_counts_the_point_itself_is_told_apart():
    real, fake = draw(90, 5), draw(70, 5, 1)
    assert four(manifold_scores(real, fake)) != pytest.approx(naive(real, fake, 2, 4))


def test_equal_laws_score_as_expected():
    # a real is uncovered if its 5 nearest of all others are reals: probability 2^-5 at equal sizes
    runs = [manifold_scores(draw(1000, 4, 2 * s), draw(1000, 4, 2 * s + 1)) for s in range(3)]
    assert np.mean([run.density for run in runs]) == pytest.approx(1.0, abs=0.03)
    assert np.mean([run.coverage for run in runs]) == pytest.approx(1 - 2**-5, abs=0.012)


def two_classes(n, seed):
    x = draw(n, 3, seed)
    x[: n // 2, 0] += 30
    return x


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision():
    real, fair, collapsed = two_classes(600, 0), two_classes(600, 1), two_classes(1200, 2)[:600]
    whole, half = manifold_scores(real, fair), manifold_scores(real, collapsed)
    assert half.recall < 0.6 * whole.recall
    assert half.coverage < 0.6 * whole.coverage
    assert half.precision >= whole.precision - 0.03
    assert half.density >= whole.density - 0.1


def test_lower_quality_lowers_precision_but_not_recall():
    real, blurred = two_classes(600, 0), two_classes(600, 1)
    blurred[:300] += 8 * draw(300, 3, 5)
    whole, half = manifold_scores(real, two_classes(600, 3)), manifold_scores(real, blurred)
    assert half.precision < whole.precision - 0.2
    assert half.recall > whole.recall - 0.1


def test_noise_in_the_ball_of_an_outlier_fools_precision_but_not_density():
    # one real in 600 is an outlier, whose ball reaches back to the others and swallows the noise
    real = torch.cat([0.05 * draw(599, 8), torch.full((1, 8), 50.0)])
    noise = torch.rand(600, 8, generator=torch.Generator().manual_seed(2)).double() * 3 + 1
    scores = manifold_scores(real, noise)
    assert scores.precision == 1.0
    assert scores.density == pytest.approx(1 / 5)  # one ball of five
    assert scores.coverage == pytest.approx(1 / 600)


def test_plain_noise_has_no_density():
    noise = torch.rand(600, 8, generator=torch.Generator().manual_seed(2)).double() * 12 - 6
    scores = manifold_scores(draw(600, 8), noise)
    assert scores.density < 0.02
    assert scores.coverage < 0.05


def test_copies_of_few_reals():
    # a memorised, repeated image lies at distance zero of its original: precise, nothing recalled
    real = draw(300, 16) + 1000
    scores = manifold_scores(real, real[:10].repeat(30, 1))
    assert scores.precision == 1.0
    assert scores.recall == pytest.approx(10 / 300)


def test_repeated_points_have_balls_of_radius_zero():
    real = draw(4, 8).repeat(10, 1) * 1e3 + 1e4
    assert four(manifold_scores(real, real.clone()))[:2] == (1.0, 1.0)
    assert manifold_scores(real, real + 1e-3).precision == 0.0


def test_copies_lie_at_distance_exactly_zero():
    x = draw(65, 301) * 1e3 + 10.0
    assert torch.equal(_distances(x, x.clone()).diagonal(), torch.zeros(65, dtype=x.dtype))
    near = x + 1e-2  # far above rounding: kept
    truth = ((x - near) ** 2).sum(1)
    torch.testing.assert_close(_distances(x, near).diagonal(), truth, rtol=1e-4, atol=0.0)


def parts_by_leaving_out(real, fake, k_pr=3, k_dc=5):
    """What each sample adds, from the definition: the scores with and without it.

    The balls are fixed, but for density.
    """
    x, y = real.numpy(), fake.numpy()
    gap = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    radius = lambda z, k: np.sort(gap(z, z), axis=1)[:, k]  # noqa: E731
    narrow = gap(y, x) <= radius(x, k_pr)  # fakes by reals
    wide = gap(y, x) <= radius(x, k_dc)
    back = gap(y, x) <= radius(y, k_pr)[:, None]
    n, m = len(x), len(y)
    rank = gap(x, x).argsort(1).argsort(1)  # of every real among the neighbours of another
    shell = [(gap(y, x) <= radius(x, k)).sum(0) for k in (k_dc - 2, k_dc + 2)]
    growth = [
        sum((shell[1][i] - shell[0][i]) / 4 for i in range(n) if 1 <= rank[i, j] <= k_dc)
        for j in range(n)
    ]  # of the balls around others without real j

    def lost(inside, axis):
        """Rows that are true no more without one column, or columns without one row."""
        whole = inside.any(axis)
        size = inside.shape[axis]
        return np.array(
            [(whole & ~np.delete(inside, j, axis).any(axis)).sum() for j in range(size)]
        )

    return {
        "precision": (narrow.any(1) / m, lost(narrow, 1) / m),
        "recall": (lost(back, 0) / n, back.any(0) / n),
        "density": (wide.sum(1) / (k_dc * m), (wide.sum(0) - growth) / (k_dc * m)),
        "coverage": (lost(wide, 0) / n, wide.any(0) / n),
    }


@pytest.mark.parametrize("block", [7, 1024])
def test_parts_are_what_a_score_loses_without_a_sample(block):
    real, fake = draw(60, 4), draw(50, 4, 1) * 1.2 + 0.5
    found = manifold_scores(real, fake, block=block).parts
    for name, (of_fakes, of_reals) in parts_by_leaving_out(real, fake).items():
        np.testing.assert_allclose(found[name][0], of_fakes, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(found[name][1], of_reals, atol=1e-12, err_msg=name)


def test_errors():
    with pytest.raises(ConfigError, match="k_precision = 0"):
        manifold_scores(draw(20), draw(20), k_precision=0)
    with pytest.raises(DataError, match="at least 6"):
        manifold_scores(draw(5), draw(20))
    with pytest.raises(DataError, match="at least 4"):
        manifold_scores(draw(20), draw(3))
    with pytest.raises(DataError, match="wide"):
        manifold_scores(draw(20, 2), draw(20, 3))
    with pytest.raises(NumericalError, match="real"):
        manifold_scores(draw(20) * math.nan, draw(20))
