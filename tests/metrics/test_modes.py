"""Mode counts: stacked digits and the grid of 25 Gaussians."""

import math

import pytest
import torch

from trilemma.errors import ConfigError, DataError, NumericalError
from trilemma.metrics import grid_modes, mode_statistics, stacked_distribution, stacked_numbers


def test_equal_counts_have_zero_divergence():
    stats = mode_statistics(torch.arange(50).repeat(4), 50)
    assert (stats.num_hit, stats.num_modes, stats.num_samples) == (50, 50, 200)
    assert stats.mode_kl == pytest.approx(0.0, abs=1e-12)


def test_missing_modes_cost_the_logarithm_of_their_ratio():
    stats = mode_statistics(torch.arange(25).repeat(4), 100)
    assert stats.num_hit == 25
    assert stats.mode_kl == pytest.approx(math.log(4), rel=1e-12)


def test_direction_of_the_divergence():
    # KL(p || q), p the histogram: swapped it would be infinite, with logs to base 2 it would be 1
    labels, reference = torch.tensor([0, 0, 0, 0]), torch.tensor([1.0, 1.0])
    assert mode_statistics(labels, 2, reference).mode_kl == pytest.approx(math.log(2))
    skewed = mode_statistics(torch.tensor([0, 0, 0, 1]), 2, torch.tensor([0.5, 0.5]))
    truth = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert skewed.mode_kl == pytest.approx(truth, rel=1e-12)


def test_reference_is_normalised_and_may_rule_modes_out():
    labels = torch.tensor([0] * 3 + [1] * 1)
    stats = mode_statistics(labels, 3, torch.tensor([3.0, 1.0, 0.0]))
    assert stats.mode_kl == pytest.approx(0.0, abs=1e-12)
    # the mean over all 4-sample histograms of the reference, by enumeration
    terms = [
        math.comb(4, k)
        * 0.75**k
        * 0.25 ** (4 - k)
        * sum(p * math.log(p / q) for p, q in ((k / 4, 0.75), (1 - k / 4, 0.25)) if p)
        for k in range(5)
    ]
    assert stats.floor == pytest.approx(sum(terms), rel=1e-10)
    assert mode_statistics(torch.tensor([2]), 3, torch.tensor([3.0, 1.0, 0.0])).mode_kl == math.inf


def test_floor_is_what_a_perfect_sampler_scores():
    rng = torch.Generator().manual_seed(0)
    values = [
        mode_statistics(torch.randint(1000, (26_000,), generator=rng), 1000) for _ in range(20)
    ]
    mean = sum(value.mode_kl for value in values) / len(values)
    assert values[0].floor == pytest.approx(0.01934, abs=1e-5)
    assert mean == pytest.approx(values[0].floor, rel=0.03)


def test_numbers_are_read_first_channel_first():
    digits = torch.tensor([[1, 0, 7], [0, 0, 0], [9, 9, 9]])
    assert stacked_numbers(digits).tolist() == [107, 0, 999]
    assert stacked_numbers(torch.tensor([[7], [3]], dtype=torch.uint8)).tolist() == [7, 3]


def test_law_of_stacked_training_digits():
    law = stacked_distribution()
    assert law.shape == (1000,)
    assert float(law.sum()) == pytest.approx(1.0)
    assert float(law[107]) == pytest.approx(6742 * 5923 * 6265 / 60_000**3)
    assert float((law * (law * 1000).log()).sum()) == pytest.approx(0.0043, abs=1e-4)


GRID = torch.cartesian_prod(*[torch.arange(-4.0, 5.0, 2.0)] * 2)


def sample_grid(n, seed=0, std=0.05):
    rng = torch.Generator().manual_seed(seed)
    owner = torch.randint(len(GRID), (n,), generator=rng)
    return GRID[owner] + std * torch.randn(n, 2, generator=rng), owner


def test_the_grid_itself():
    points, _ = sample_grid(40_000)
    stats = grid_modes(points, GRID, 0.05)
    assert stats.expected_quality == pytest.approx(1 - math.exp(-4.5), rel=1e-12)
    assert stats.high_quality == pytest.approx(stats.expected_quality, abs=5 * 0.00052)
    assert (stats.num_hit, stats.num_modes, stats.num_samples) == (25, 25, 40_000)


def test_quality_and_coverage_are_independent():
    points, owner = sample_grid(2_500)
    few = grid_modes(points[owner < 10], GRID, 0.05)
    assert (few.num_hit, few.high_quality > 0.97) == (10, True)
    wide, _ = sample_grid(2_500, std=0.2)  # too wide by a factor of four
    blurred = grid_modes(wide, GRID, 0.05)
    expected = 1 - math.exp(-0.5 * 0.75**2)
    assert blurred.high_quality == pytest.approx(expected, abs=0.05)
    assert blurred.num_hit == 25


def test_a_mode_without_a_good_sample_is_not_covered():
    # nearest to mode 0, but four standard deviations away
    stats = grid_modes(GRID[:1] + torch.tensor([0.2, 0.0]), GRID, 0.05)
    assert (stats.num_hit, stats.high_quality) == (0, 0.0)


def test_three_standard_deviations_are_the_limit():
    offsets = torch.tensor([[0.1499, 0.0], [0.0, 0.1501], [0.1059, 0.1063]])
    assert grid_modes(GRID[7] + offsets[:1], GRID, 0.05).high_quality == 1
    assert grid_modes(GRID[7] + offsets[1:], GRID, 0.05).high_quality == 0


def test_modes_that_perfect_samples_hit():
    """By simulation, of unequal modes and of the grid."""
    law = torch.tensor([8.0, 4, 2, 1, 1], dtype=torch.float64) / 16
    rng = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(law, 6 * 20_000, replacement=True, generator=rng).view(-1, 6)
    hits = torch.nn.functional.one_hot(drawn, 5).amax(1).sum(1).double()
    found = mode_statistics(torch.zeros(6, dtype=torch.int64), 5, law).expected_hit
    assert found == pytest.approx(float(hits.mean()), abs=5 * float(hits.std()) / 20_000**0.5)
    counts = [grid_modes(sample_grid(30, seed)[0], GRID, 0.05) for seed in range(400)]
    mean = sum(c.num_hit for c in counts) / 400
    assert counts[0].expected_hit == pytest.approx(mean, abs=0.25)


@pytest.mark.parametrize(
    ("labels", "num_modes", "message"),
    [
        (torch.tensor([0, 10]), 10, "0 to 9"),
        (torch.tensor([-1]), 10, "0 to 9"),
        (torch.tensor([0.0]), 10, "integers"),
        (torch.tensor([], dtype=torch.int64), 10, "n > 0"),
        (torch.tensor([[1]]), 10, r"\(n\)"),
    ],
)
def test_bad_labels(labels, num_modes, message):
    with pytest.raises(DataError, match=message):
        mode_statistics(labels, num_modes)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="at least one mode"):
        mode_statistics(torch.tensor([0]), 0)
    with pytest.raises(ConfigError, match="one weight per mode"):
        mode_statistics(torch.tensor([0]), 3, torch.ones(2))
    with pytest.raises(ConfigError, match="vanish"):
        mode_statistics(torch.tensor([0]), 2, torch.zeros(2))
    with pytest.raises(ConfigError, match="positive"):
        grid_modes(GRID, GRID, 0.0)
    with pytest.raises(DataError, match="2-dimensional, modes 3-dimensional"):
        grid_modes(GRID, torch.zeros(4, 3), 0.1)
    with pytest.raises(NumericalError, match="points"):
        grid_modes(GRID * math.nan, GRID, 0.1)
    with pytest.raises(DataError, match=r"not 0\.\.9"):
        stacked_numbers(torch.tensor([[10, 0, 0]]))
    with pytest.raises(DataError, match="integers"):
        stacked_numbers(torch.zeros(3, 3))
