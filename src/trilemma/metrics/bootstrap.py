r"""Intervals of 95 %: how far a score would move if the samples were drawn again.

*Target.* A score of n samples estimates its own mean over all sets of that size, and that is what
an interval here covers. It is not the limit of endless samples: a Frechet distance of 1,000
samples lies above that limit, and so does its floor of the same size, so that value, interval and
floor can be read side by side. All forms are right for many samples; with less than some hundred
they hold the mean a little less often than in 95 of 100 cases.

*Resampling.* Both sets are drawn again from themselves, n of n with repeats, as integer weights.
Repeats bias what is not linear in the weights: with T(p) the score of a law, p the empirical law
and p* a resampled one, E T(p*) - T(p) is close to E T(p) - T(truth) > 0 for a Frechet distance.
Percentiles of T(p*) are therefore too high by the bias of the score itself, and near the floor do
not even contain it. Hence the interval is

    value +- 1.96 standard errors,

cut at the ends of the possible range; the resamples give the standard error alone.

*The standard error of what bends.* Distances to a law, here the Frechet distance and the KL
divergence, are straight in the weights far from it and quadratic at it: T(p*) - T(p) = L + Q,
with L the sum of the first-order influences of the samples (``frechet.influence``) and Q the rest.
As p is itself a draw, its influences are noisy. For a quadratic form of Gaussian deviations the
variance of L is too large by twice that of Q, on average, and the true variance of the score is

    Var L - Var Q,        never less than Var Q.

Var L is known without resampling; Var Q is that of the resamples, less their straight part. Plain
resamples would give Var L + Var Q: at the floor, an interval 1.7 times as wide as it need be.

*What the resamples are of.*

* Frechet distance, up to ``WIDEST`` features: means and covariances of the weighted sets. With more
  features the roots of the covariances are too slow, and with fewer than ``PER_FEATURE`` samples a
  feature the repeats spoil the ranks; then Var L is taken alone, at the floor 1.4 times as wide as
  need be.
* Inception score: the mean class law of the weighted set.
* Precision, recall, density and coverage: repeats would shrink the balls around nearest
  neighbours to nothing. The balls stay as they are, and each sample's contribution is resampled:
  of a fake to precision whether a ball holds it, of a real how many fakes hang on its ball alone.
  The balls' own growth, where a neighbour is left out, matters for density and is added to first
  order (``precision_recall``).
  A share then has Wilson's interval for as many samples as would give its standard error, which
  does not shrink to a point at 0 or 1. Nothing need be drawn: the spread of a sum is known.
* Kernel distance: the mean over subsets of s out of n is a jackknife already: the variance over
  subsets times s / (n - s), and that of the choice of subsets (``kernel_error``).
* KL divergence of mode counts: the multinomial histogram.

Sources: Efron and Tibshirani, 1993, Chapters 6, 10 and 13; Wilson, 1927; Shao and Wu, 1989, for the
jackknife that leaves out more than one.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.frechet import (
    GaussianStats,
    check_features,
    frechet_distance,
    frechet_error,
    gaussian_stats,
    influence,
    roots_trace,
    symmetric_root,
)

__all__ = [
    "RESAMPLES",
    "WIDEST",
    "Interval",
    "divergence_interval",
    "frechet_interval",
    "kernel_error",
    "normal_interval",
    "resample_weights",
    "share_interval",
    "sum_error",
    "wilson",
]

RESAMPLES = 200
WIDEST = 128
PER_FEATURE = 10
QUANTILE = 1.959963984540054
BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An interval of 95 % around a score.

    Attributes:
        low: lower end.
        high: upper end.
        error: one standard error of the score; NaN if it is not known.
        note: which kind of interval it is.
    """

    low: float
    high: float
    error: float
    note: str


def normal_interval(
    value: float, error: float, note: str, *, least: float = 0.0, most: float = math.inf
) -> Interval:
    """Return value +- 1.96 standard errors, cut at the ends of the range.

    Args:
        value: the score, in [least, most].
        error: its standard error, >= 0.
        note: where the error comes from.
        least: lower end of what the score can be.
        most: upper end.

    Returns:
        The interval.
    """
    reach = QUANTILE * error
    return Interval(max(value - reach, least), min(value + reach, most), error, note)


def wilson(share: float, size: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Args:
        share: successes over trials, in [0, 1].
        size: number of trials, > 0; an effective number need not be whole.

    Returns:
        Lower and upper end, within [0, 1].

    Raises:
        ConfigError: ``share`` or ``size`` is out of range.

    Source: Wilson, 1927.
    """
    if not (0 <= share <= 1 and size > 0):
        raise ConfigError(f"share = {share}, size = {size}; allowed: 0 <= share <= 1, size > 0")
    square = QUANTILE**2 / size
    middle = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(min(middle - reach, share), 0.0), min(max(middle + reach, share), 1.0)  # rounding


def share_interval(share: float, error: float, size: int, note: str) -> Interval:
    """Return Wilson's interval for as many samples as give a share its standard error.

    Args:
        share: in [0, 1].
        error: its standard error, >= 0; 0 where no sample differs from another.
        size: samples that the share was counted on, and the most that the interval takes.
        note: where the error comes from.

    Returns:
        The interval.
    """
    spread = share * (1 - share)
    trials = min(spread / error**2, size) if spread > 0 and error > 0 else size
    return Interval(*wilson(share, trials), error, note)


def resample_weights(size: int, resamples: int, rng: torch.Generator) -> Float64[Tensor, "r n"]:
    """Count how often each of n samples is drawn in n draws with repeats.

    Args:
        size: n, >= 1.
        resamples: number of repetitions, >= 2.
        rng: draws the indices.

    Returns:
        Counts, each row sums to n.

    Raises:
        ConfigError: fewer than 2 resamples.
    """
    if resamples < 2:
        raise ConfigError(f"resamples = {resamples}; a spread needs at least 2")
    drawn = torch.randint(size, (resamples, size), generator=rng)
    ones = torch.ones(1, dtype=torch.float64).expand(resamples, size)
    return torch.zeros(resamples, size, dtype=torch.float64).scatter_add_(1, drawn, ones)


def sum_error(*parts: Tensor) -> float:
    """Return the standard error of a score that is a sum of contributions of several sets.

    It is the standard deviation over all resamples, each set resampled on its own, for which
    nothing need be drawn.

    Args:
        parts: for each set what a sample adds to the score, to first order, (n).

    Returns:
        The root of the summed squared deviations of the contributions from their mean.
    """
    return math.hypot(*((part - part.mean()).double().norm().item() for part in parts))


def frechet_interval(
    fake: Tensor,
    real: Tensor | GaussianStats,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    value: float | None = None,
) -> Interval:
    """Return the interval of a Frechet distance.

    Args:
        fake: features, (m, d), m >= 2.
        real: features, (n, d), n >= 2; or statistics, which are taken as given.
        resamples: number of repetitions, >= 2.
        seed: of the resampling.
        value: the distance, if it is known already.

    Returns:
        Normal interval around the distance, cut at 0.

    Raises:
        ConfigError: fewer than 2 resamples.
        DataError: features are not matrices of one width with two rows or more.
        NumericalError: a feature is not finite.
    """
    y = check_features(fake, "fake features")
    x = real if isinstance(real, GaussianStats) else check_features(real, "real features")
    fixed = x if isinstance(x, GaussianStats) else gaussian_stats(x)
    if fixed.dim != y.shape[1]:
        raise DataError(f"features are {y.shape[1]} and {fixed.dim} wide; use the same extractor")
    if value is None:
        value = frechet_distance(gaussian_stats(y), fixed)
    given = "the reference taken as given" if isinstance(x, GaussianStats) else "both sets"
    smallest = min(len(y), fixed.num_samples)
    if y.shape[1] > WIDEST or smallest < PER_FEATURE * y.shape[1]:
        note = f"95 % interval: normal, influence of each sample to first order, {given}"
        return normal_interval(value, frechet_error(y, x), note)
    rng = torch.Generator().manual_seed(seed)
    weights = resample_weights(len(y), resamples, rng)
    mean, cov = _moments(y, weights)
    moves = influence(y, fixed)
    straight, first = weights @ (moves - moves.mean()) / len(y), moves.var() / len(y)
    other, spread = fixed.mean, fixed.cov
    if not isinstance(x, GaussianStats):
        weights = resample_weights(len(x), resamples, rng)
        other, spread = _moments(x, weights)
        moves = influence(x, gaussian_stats(y))
        straight += weights @ (moves - moves.mean()) / len(x)
        first = first + moves.var() / len(x)
    traces = roots_trace(symmetric_root(spread), cov)
    scores = (mean - other).square().sum(-1) + _trace(cov) + _trace(spread) - 2 * traces
    bent = (scores - straight).var()
    error = _corrected(float(first), float(bent))
    note = f"95 % interval: normal, {resamples} bootstrap resamples, {given}"
    return normal_interval(value, error, note)


def kernel_error(std: float, num_subsets: int, subset_size: int, size: int) -> float:
    """Return the standard error of a mean over subsets, from the spread over the subsets.

    Args:
        std: standard deviation over the subsets.
        num_subsets: number of subsets.
        subset_size: s, samples per subset, < size.
        size: n, samples in the smaller set.

    Returns:
        std (s / (n - s) + 1 / num_subsets)^{1/2}: the jackknife that leaves out n - s, and the
        choice of subsets.

    Source: Shao and Wu, 1989.
    """
    return std * math.sqrt(subset_size / (size - subset_size) + 1 / num_subsets)


def divergence_interval(
    counts: Tensor, reference: Tensor, value: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the interval of KL(histogram || reference).

    Args:
        counts: samples per mode, (m).
        reference: weight of each mode, sums to one, > 0 where a sample was seen, (m).
        value: the divergence of the counts, nats.
        resamples: number of repetitions, >= 2.
        seed: of the resampling.

    Returns:
        Normal interval around the value, cut at 0.

    Raises:
        ConfigError: fewer than 2 resamples.
    """
    rng = torch.Generator().manual_seed(seed)
    total = int(counts.sum())
    if resamples < 2:
        raise ConfigError(f"resamples = {resamples}; a spread needs at least 2")
    law = counts.double().expand(resamples, -1)
    drawn = torch.multinomial(law, total, replacement=True, generator=rng)
    ones = torch.ones(1, dtype=torch.float64).expand(resamples, total)
    share = torch.zeros_like(law).scatter_add_(1, drawn, ones) / total
    ratio = torch.where(counts > 0, law[0] / total / reference.double(), 1.0).log()
    scores = (torch.special.xlogy(share, share) - torch.special.xlogy(share, reference)).sum(1)
    first = (law[0] / total) @ (ratio - value).square() / total
    bent = (scores - share @ ratio).var()
    error = _corrected(float(first), float(bent))
    note = f"95 % interval: normal, {resamples} resampled histograms"
    return normal_interval(value, error, note)


def _corrected(straight: float, bent: float) -> float:
    """Return the standard error from the variances of L and Q."""
    return math.sqrt(max(straight - bent, bent))


def _moments(x: Tensor, weights: Tensor) -> tuple[Float64[Tensor, "r d"], Float64[Tensor, "r d d"]]:
    """Return mean and unbiased covariance of each weighted set, without copying the samples."""
    n, d = x.shape
    centre = x.mean(0)
    z = x - centre
    rows, columns = torch.triu_indices(d, d)
    upper = torch.zeros(len(weights), len(rows), dtype=x.dtype)
    block = max(BLOCK_NUMBERS // len(rows), 16)
    for start in range(0, n, block):
        part = z[start : start + block]
        products = part[:, rows] * part[:, columns]
        upper.addmm_(weights[:, start : start + block], products)
    mean = weights @ z / n
    cov = torch.empty(len(weights), d, d, dtype=x.dtype)
    cov[:, rows, columns] = upper
    cov[:, columns, rows] = upper
    cov = (cov - n * mean[:, :, None] * mean[:, None, :]) / (n - 1)
    return mean + centre, cov


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
