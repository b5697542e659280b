r"""Kernel distances: squared maximum mean discrepancy with a cubic polynomial kernel.

With k(x, y) = (x . y / d + 1)^3 the squared maximum mean discrepancy of two laws P and Q is

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),       x, x' ~ P,  y, y' ~ Q independent.

The U-statistic below leaves out the diagonal of the first two terms and so is unbiased at every
sample size: around zero it takes both signs. The KID (Binkowski et al., 2018) is its mean over
random subsets; prefer it to a Frechet distance below some 5,000 images, where the bias of the
latter exceeds most differences of interest.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.frechet import check_features

__all__ = ["KernelDistance", "kid", "mmd"]


@dataclass(frozen=True)
class KernelDistance:
    """Mean and spread of a kernel distance over random subsets.

    Attributes:
        mean: mean over the subsets, unbiased, may be negative.
        std: standard deviation over the subsets, not of the mean; NaN for one subset, or where
            each subset is the whole of both sets and nothing varies.
        num_subsets: number of subsets.
        subset_size: samples of each side in a subset.
    """

    mean: float
    std: float
    num_subsets: int
    subset_size: int


def kid(
    real: Tensor, fake: Tensor, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Return the kernel distance over random subsets, drawn without replacement.

    Args:
        real: features, (n, d).
        fake: features, (m, d).
        num_subsets: number of subsets, >= 1.
        subset_size: samples per subset and side, >= 2; lowered to min(n, m) where that is less.
            Half of min(n, m) or fewer gives the standard deviation a meaning.
        seed: of the generator that draws the subsets.

    Returns:
        Mean, standard deviation and the sizes that were used.

    Raises:
        ConfigError: a size is out of range.
        DataError: features are not matrices of one width with two rows or more.
        NumericalError: a feature is NaN or infinite.

    Source: Binkowski et al., 2018, Section 4.
    """
    if num_subsets < 1 or subset_size < 2:
        raise ConfigError(
            f"num_subsets = {num_subsets} and subset_size = {subset_size}; allowed: num_subsets >= "
            "1 and subset_size >= 2"
        )
    x, y = _pair(real, fake)
    size = min(subset_size, len(x), len(y))
    rng = torch.Generator().manual_seed(seed)
    values = [_mmd(_subset(x, size, rng), _subset(y, size, rng)) for _ in range(num_subsets)]
    mean = math.fsum(values) / num_subsets
    varies = num_subsets > 1 and size < max(len(x), len(y))
    std = torch.tensor(values, dtype=torch.float64).std().item() if varies else math.nan
    return KernelDistance(mean, std, num_subsets, size)


def mmd(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased squared MMD of all samples, in blocks of bounded memory.

    Args:
        real: features, (n, d), n >= 2.
        fake: features, (m, d), m >= 2.

    Returns:
        The U-statistic; around zero for equal laws, of either sign.

    Raises:
        DataError: features are not matrices of one width with two rows or more.
        NumericalError: a feature is NaN or infinite.

    Source: Gretton et al., 2012, Lemma 6.
    """
    return _mmd(*_pair(real, fake))


def _pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    x, y = check_features(real, "real features"), check_features(fake, "fake features")
    if x.shape[1] != y.shape[1]:
        raise DataError(
            f"real features are {x.shape[1]} wide, fake ones {y.shape[1]}; use the same extractor"
        )
    return x, y


def _subset(x: Tensor, size: int, rng: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=rng)[:size]]


def _mmd(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _cubic(x.square().sum(1), x.shape[1]).sum()) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _cubic(y.square().sum(1), y.shape[1]).sum()) / (m * (m - 1))
    return float(within_x + within_y - 2 * _kernel_sum(x, y) / (n * m))


def _kernel_sum(x: Tensor, y: Tensor, block: int = 2048) -> Float64[Tensor, ""]:
    """Return the sum of k over all pairs, ``block`` rows at a time."""
    parts = [_cubic(rows @ y.mT, x.shape[1]).sum() for rows in x.split(block)]
    return torch.stack(parts).sum()


def _cubic(products: Tensor, dim: int) -> Tensor:
    return (products / dim + 1) ** 3
