r"""Mode counts: how many modes a generator finds, and how evenly.

*Stacked digits.* An image with three digits as colour channels shows a number from 0 to 999. Label
each channel with a digit classifier (``digits.classify``) and count the numbers seen among N =
26,000 images (Srivastava et al., 2017; Lin et al., 2018). Evenness is the divergence

    KL(p || q) = sum_i p_i ln (p_i / q_i)        (nats),

p the histogram of the generated numbers and q the data's, close to uniform. Even a perfect sampler
shows a positive value because N is finite: about (num_modes - 1) / (2 N) for large N, 0.019 for
1,000 modes and 26,000 images; the exact mean is computed. Values at that floor are perfect, and
smaller N has a higher floor.

*Grid of Gaussians.* In two dimensions the modes are known points. A sample is of high quality if it
lies within three standard deviations of its nearest centre, and a mode is covered if it has at
least one such sample (Srivastava et al., 2017). A perfect sampler reaches 1 - exp(-9/2) = 98.9 %.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.frechet import check_features

__all__ = ["GridModes", "ModeStatistics", "grid_modes", "mode_statistics", "stacked_numbers"]


@dataclass(frozen=True)
class ModeStatistics:
    """Modes found in a set of labelled samples.

    Attributes:
        num_hit: modes with at least one sample.
        num_modes: how many modes there are.
        mode_kl: KL(histogram || reference), nats; infinite if a sample shows an impossible mode.
        floor: divergence of a perfect sampler at this size, on average.
        expected_hit: modes that it hits, on average.
        num_samples: N.
    """

    num_hit: int
    num_modes: int
    mode_kl: float
    floor: float
    expected_hit: float
    num_samples: int


@dataclass(frozen=True)
class GridModes:
    """Quality and coverage of samples from a mixture of isotropic Gaussians.

    Attributes:
        high_quality: share of samples within three standard deviations of the nearest centre.
        num_hit: centres with at least one such sample.
        num_modes: number of centres.
        expected_hit: centres that so many samples of the mixture hit, on average.
        expected_quality: share that the mixture itself scores (alone, without overlaps).
        num_samples: number of samples.
    """

    high_quality: float
    num_hit: int
    num_modes: int
    expected_hit: float
    expected_quality: float
    num_samples: int


def mode_statistics(
    labels: Tensor, num_modes: int, reference: Tensor | None = None
) -> ModeStatistics:
    """Count the modes hit and measure how evenly they are hit.

    Args:
        labels: mode of each sample, integers in [0, num_modes), (n).
        num_modes: number of modes, >= 1.
        reference: weight of each mode, (num_modes), >= 0, normalised here; uniform if not given.

    Returns:
        Modes hit, divergence and its sampling floor.

    Raises:
        ConfigError: ``num_modes`` or the reference is not allowed.
        DataError: there are no labels, or one is not an integer in range.

    Source: Srivastava et al., 2017, Section 4.1; Lin et al., 2018, Section 4.2.
    """
    counts = _count(labels, num_modes)
    target = _reference(reference, num_modes)
    share = counts.double() / len(labels)
    mode_kl = (torch.special.xlogy(share, share) - torch.special.xlogy(share, target)).sum().item()
    return ModeStatistics(
        num_hit=int((counts > 0).sum()),
        num_modes=num_modes,
        mode_kl=max(mode_kl, 0.0),
        floor=expected_kl(target, len(labels)),
        expected_hit=expected_modes(target, len(labels)),
        num_samples=len(labels),
    )


def expected_kl(reference: Tensor, num: int) -> float:
    """Mean divergence of the histogram of ``num`` perfect samples, nats.

    Counts are binomial, so the mean is sum_i E[(k_i / N) ln(k_i / (N q_i))], k_i ~ Bin(N, q_i).

    Args:
        reference: weight of each mode, float64, sums to one, (num_modes).
        num: number of samples N, >= 1.

    Returns:
        The mean, >= 0.
    """
    q, repeats = reference[reference > 0].unique(return_counts=True)
    most = num * float(q.max())
    k = torch.arange(1, min(num, int(most + 12 * math.sqrt(most) + 60)) + 1, dtype=torch.float64)
    n = torch.tensor(float(num), dtype=torch.float64)
    choose = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    odds = q[:, None].clamp(max=1 - 1e-16)
    log_pmf = choose + k * odds.log() + (n - k) * torch.log1p(-odds)
    terms = log_pmf.exp() * (k / n) * (k / (n * q[:, None])).log()
    return max(float((repeats * terms.sum(1)).sum()), 0.0)


def expected_modes(reference: Tensor, num: int) -> float:
    """Mean number of modes that ``num`` perfect samples hit, sum_i 1 - (1 - q_i)^N.

    Args:
        reference: weight of each mode, float64, sums to one, (num_modes).
        num: number of samples N, >= 1.

    Returns:
        The mean, at most the number of modes.
    """
    return float(-torch.expm1(num * torch.log1p(-reference)).sum())


def stacked_numbers(digits: Tensor) -> Tensor:
    """Read the digits of each image as one number, first channel first: (1, 0, 7) is 107.

    Args:
        digits: integers in 0..9, (n, c).

    Returns:
        Numbers in [0, 10^c), int64, (n).

    Raises:
        DataError: digits are not an integer matrix with values 0..9.
    """
    if digits.ndim != 2 or digits.is_floating_point() or digits.numel() == 0:
        raise DataError(
            f"digits are {digits.dtype} of shape {tuple(digits.shape)}; expected integers (n, c)"
        )
    if int(digits.min()) < 0 or int(digits.max()) > 9:
        raise DataError(f"digits reach from {int(digits.min())} to {int(digits.max())}, not 0..9")
    places = 10 ** torch.arange(digits.shape[1] - 1, -1, -1, device=digits.device)
    return (digits.long() * places).sum(1)


def grid_modes(points: Tensor, modes: Tensor, std: float) -> GridModes:
    """Count high-quality samples and covered centres.

    Args:
        points: samples, (n, d).
        modes: centres, (m, d).
        std: standard deviation of each mode, > 0.

    Returns:
        Share of high-quality samples and number of covered centres.

    Raises:
        ConfigError: ``std`` is not positive.
        DataError: points or centres are not matrices of one width.
        NumericalError: a point or centre is not finite.

    Source: Srivastava et al., 2017, Section 4.1; Lin et al., 2018, Section 4.1.
    """
    if not std > 0:
        raise ConfigError(f"std = {std}; the standard deviation of a mode must be positive")
    x, centres = check_features(points, "points", 1), check_features(modes, "modes", 1)
    if x.shape[1] != centres.shape[1]:
        raise DataError(
            f"points are {x.shape[1]}-dimensional, modes {centres.shape[1]}-dimensional"
        )
    nearest, owner = _nearest(x, centres)
    good, share = nearest <= 3 * std, _within_three(x.shape[1])
    hit = torch.bincount(owner[good], minlength=len(centres)) > 0
    return GridModes(
        high_quality=good.double().mean().item(),
        num_hit=int(hit.sum()),
        num_modes=len(centres),
        expected_hit=expected_modes(_reference(None, len(centres)) * share, len(x)),
        expected_quality=share,
        num_samples=len(x),
    )


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    # plain differences: a matrix product would lose the digits of nearby points
    gaps = [
        torch.cdist(p, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for p in points.split(4096)
    ]
    return torch.cat([gap.values for gap in gaps]), torch.cat([gap.indices for gap in gaps])


def _within_three(dim: int) -> float:
    """Return the probability that d standard normals have a norm of at most three."""
    half = torch.tensor(dim / 2, dtype=torch.float64)
    return torch.special.gammainc(half, torch.tensor(4.5, dtype=torch.float64)).item()


def _count(labels: Tensor, num_modes: int) -> Tensor:
    if num_modes < 1:
        raise ConfigError(f"num_modes = {num_modes}; there must be at least one mode")
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) == 0:
        raise DataError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected integers"
            " (n) with n > 0"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_modes:
        raise DataError(f"labels reach from {low} to {high}; allowed: 0 to {num_modes - 1}")
    return torch.bincount(labels.long(), minlength=num_modes).cpu()


def _reference(reference: Tensor | None, num_modes: int) -> Tensor:
    if reference is None:
        return torch.full((num_modes,), 1 / num_modes, dtype=torch.float64)
    weights = reference.detach().to("cpu", torch.float64)
    if weights.shape != (num_modes,):
        raise ConfigError(
            f"reference has shape {tuple(weights.shape)}; expected ({num_modes},),"
            " one weight per mode"
        )
    if not (torch.isfinite(weights).all() and (weights >= 0).all() and math.fsum(weights) > 0):
        raise ConfigError("reference must hold finite weights >= 0 that do not all vanish")
    return weights / weights.sum()
