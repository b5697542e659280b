r"""Frechet distance between two Gaussians fitted to features.

For features with means m and covariances C the squared 2-Wasserstein distance of the fitted
Gaussians is

    |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^{1/2}     (Dowson and Landau, 1982).

With the Inception features of 2015 it is the FID (Heusel et al., 2017). C_a C_b is similar to the
symmetric, positive semi-definite S = C_a^{1/2} C_b C_a^{1/2}, so the last trace is the sum of the
square roots of the eigenvalues of S. They are computed as the singular values of
C_a^{1/2} C_b^{1/2}, whose product with its transpose is S: a square root of a computed eigenvalue
would turn rounding of 1e-16 into 1e-8. Symmetric problems replace the general matrix square root:
no complex numbers, and covariances that lack full rank (fewer samples than features) need no
added constant. Eigenvalues of a covariance below d * 2.2e-16 times the largest, among them all
negative ones, are rounding and count as zero. All arithmetic is in float64.

The estimate is biased upward by the sampling noise of both means and covariances, the more the
larger d / n; two sets of real images do not give zero. ``report.evaluate`` therefore puts the
real-against-real floor of the same size beside each distance, the mean over several splits of the
real images, for which ``frechet_of_features`` is the faster form.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from trilemma.errors import DataError, NumericalError

__all__ = [
    "GaussianStats",
    "check_features",
    "frechet_distance",
    "frechet_error",
    "frechet_of_features",
    "gaussian_stats",
    "influence",
    "roots_trace",
    "symmetric_root",
]


@dataclass(frozen=True)
class GaussianStats:
    """Mean and covariance of a set of features.

    Attributes:
        mean: (d), float64.
        cov: unbiased covariance, (d, d), float64.
        num_samples: how many samples they were measured on.
        split: part of the data that they belong to, where it is known.
    """

    mean: Float64[Tensor, " d"]
    cov: Float64[Tensor, "d d"]
    num_samples: int
    split: str = ""

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.mean.shape[0]


def check_features(
    features: Tensor, what: str = "features", least: int = 2
) -> Float64[Tensor, "n d"]:
    """Return features as a float64 matrix, or say what is wrong with them.

    Args:
        features: (n, d), any floating or integer type.
        what: how to call them in the message.
        least: smallest allowed n.

    Returns:
        The features, (n, d), float64.

    Raises:
        DataError: not a matrix, no feature, or fewer than ``least`` samples.
        NumericalError: a feature is NaN or infinite.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise DataError(
            f"{what} have shape {tuple(features.shape)}; expected (n, d) with d >= 1: flatten each "
            "sample to one row"
        )
    if len(features) < least:
        raise DataError(f"{what} hold {len(features)} samples; at least {least} are needed")
    bad = int((~torch.isfinite(features)).any(1).sum())
    if bad:
        raise NumericalError(
            f"{what}: {bad} of {len(features)} samples contain NaN or infinity; check the images "
            "(diverged sampler?) or the feature extractor"
        )
    return features.detach().to("cpu", torch.float64)


def gaussian_stats(features: Tensor) -> GaussianStats:
    """Measure mean and unbiased covariance (divisor n - 1), in float64.

    Args:
        features: (n, d) with n >= 2.

    Returns:
        The statistics.

    Raises:
        DataError: features are not a matrix of at least two rows.
        NumericalError: a feature is NaN or infinite.
    """
    x = check_features(features)
    mean = x.mean(0)
    centred = x - mean
    return GaussianStats(mean, centred.mT @ centred / (len(x) - 1), len(x))


def frechet_distance(a: GaussianStats, b: GaussianStats) -> float:
    """Return the Frechet distance of two Gaussians, |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^.5).

    A total below zero can only be rounding, and is set to zero.

    Args:
        a: one set of statistics.
        b: another of the same dimension.

    Returns:
        The distance, in squared feature units, >= 0.

    Raises:
        DataError: the dimensions differ.
        NumericalError: a mean or covariance is not finite, or the eigensolver failed.

    Source: Dowson and Landau, 1982; Heusel et al., 2017.
    """
    if a.dim != b.dim:
        raise DataError(
            f"cannot compare statistics of {a.dim} and {b.dim} features; use the same extractor"
        )
    shift = (a.mean - b.mean).square().sum()
    spread = a.cov.trace() + b.cov.trace() - 2 * _trace_sqrt_product(a.cov, b.cov)
    return _total(shift, spread)


def frechet_error(a: Tensor, b: Tensor | GaussianStats) -> float:
    r"""Return the standard error of the Frechet distance that comes from finite samples.

    It is the root of the summed variances of both sets' influences (``influence``). It leaves out
    the bias. At the floor, where the first order vanishes, it is 1.4 times too large for many
    features and left to chance for a handful (``metrics.bootstrap``).

    Args:
        a: features, (n, d).
        b: features, (m, d); or statistics, which are taken as given.

    Returns:
        One standard deviation of the distance, >= 0.

    Raises:
        DataError: features are not matrices of one width.
        NumericalError: a feature is not finite.

    Source: gradient of the Bures distance, Bhatia, Jain and Lim, 2019; delta method.
    """
    x = check_features(a)
    y = b if isinstance(b, GaussianStats) else check_features(b)
    p, q = gaussian_stats(x), y if isinstance(y, GaussianStats) else gaussian_stats(y)
    if p.dim != q.dim:
        raise DataError(f"features are {p.dim} and {q.dim} wide; use the same extractor")
    errors = [influence(x, q).std().item() / math.sqrt(len(x))]
    if not isinstance(y, GaussianStats):
        errors.append(influence(y, p).std().item() / math.sqrt(len(y)))
    return math.hypot(*errors)


def frechet_of_features(a: Tensor, b: Tensor | GaussianStats) -> float:
    r"""Return the Frechet distance of features: fast, to about 1e-8 of the traces.

    With X the centred features of the smaller set, divided by the root of n - 1, C_a = X^T X, and
    (C_a C_b)^{1/2} has the eigenvalues' roots of X C_b X^T: n numbers where there are fewer samples
    than features. With more samples, those of C_b^{1/2} C_a C_b^{1/2} are taken.

    Args:
        a: features, (n, d).
        b: features, (m, d); or statistics.

    Returns:
        The distance, in squared feature units, >= 0; see ``frechet_distance``.

    Raises:
        DataError: features are not matrices of one width with two rows or more.
        NumericalError: a feature or covariance is not finite, or the eigensolver failed.

    Source: Dowson and Landau, 1982.
    """
    x = check_features(a)
    if isinstance(b, GaussianStats):
        other = b
    else:
        y = check_features(b)
        x, y = (x, y) if len(x) <= len(y) else (y, x)
        other = gaussian_stats(y)
    if x.shape[1] != other.dim:
        raise DataError(
            f"features are {x.shape[1]} and {other.dim} wide; use the same extractor for both"
        )
    mean = x.mean(0)
    centred = (x - mean) / math.sqrt(len(x) - 1)
    if len(x) > other.dim:
        roots = roots_trace(symmetric_root(other.cov), centred.mT @ centred)
    else:
        values, _ = _eigh(centred @ other.cov @ centred.mT, vectors=False)
        roots = values[values > _rounding(values)].sqrt().sum()
    shift = (mean - other.mean).square().sum()
    return _total(shift, centred.square().sum() + other.cov.trace() - 2 * roots)


def influence(a: Tensor, b: GaussianStats) -> Float64[Tensor, " n"]:
    r"""Return how far each sample moves the Frechet distance, to first order.

    A sample x of a moves the distance by 1 / n of

        2 (m_a - m_b) . (x - m_a) + (x - m_a)^T (1 - T) (x - m_a),

    T = C_b^{1/2} (C_b^{1/2} C_a C_b^{1/2})^{-1/2} C_b^{1/2} the optimal map from a's Gaussian to
    b's; the inverse root is that of the range where the covariances lack rank.

    Args:
        a: features, (n, d).
        b: statistics of the other set.

    Returns:
        Influences up to a common constant, (n), squared feature units.

    Raises:
        DataError: features are not a matrix of at least two rows.
        NumericalError: a feature is not finite.

    Source: gradient of the Bures distance, Bhatia, Jain and Lim, 2019.
    """
    x = check_features(a)
    p = gaussian_stats(x)
    root = symmetric_root(b.cov)
    values, vectors = _eigh(root @ p.cov @ root)
    kept = values > _rounding(values)
    inverse = torch.where(kept, values.clamp_min(0), torch.inf).rsqrt()
    transport = root @ (vectors * inverse) @ vectors.mT @ root
    centred = x - p.mean
    moves = 2 * centred @ (p.mean - b.mean)
    return moves + ((centred - centred @ transport) * centred).sum(1)


def roots_trace(
    root: Float64[Tensor, "*r d d"], cov: Float64[Tensor, "*s d d"]
) -> Float64[Tensor, "*t"]:
    """Return tr (A B)^{1/2} of many pairs, from A^{1/2} and B: fast, to about 1e-8 of the trace.

    Args:
        root: A^{1/2}, symmetric, one or as many as ``cov``.
        cov: B, symmetric and positive semi-definite.

    Returns:
        The traces.

    Raises:
        NumericalError: a matrix is not finite, or the eigensolver failed.
    """
    return _eigh(root @ cov @ root, vectors=False)[0].clamp_min(0).sqrt().sum(-1)


def symmetric_root(matrix: Float64[Tensor, "*r d d"]) -> Float64[Tensor, "*r d d"]:
    """Return the positive semi-definite root; eigenvalues that are only rounding count as zero.

    Args:
        matrix: symmetric and positive semi-definite, one or many.

    Returns:
        Its symmetric root.

    Raises:
        NumericalError: a matrix is not finite, or the eigensolver failed.
    """
    values, vectors = _eigh(matrix)
    kept = values > _rounding(values)
    return (vectors * torch.where(kept, values, 0.0).sqrt()[..., None, :]) @ vectors.mT


def _total(shift: Tensor, spread: Tensor) -> float:
    """Return the distance; a total below zero can only be rounding."""
    total = float(shift + spread)
    if not math.isfinite(total):
        raise NumericalError("Frechet distance is not finite: a mean or covariance is not finite")
    return max(total, 0.0)


def _trace_sqrt_product(a: Tensor, b: Tensor) -> Tensor:
    """Return tr (A B)^{1/2} of two positive semi-definite matrices."""
    product = symmetric_root(a) @ symmetric_root(b)
    try:
        return torch.linalg.svdvals(product).sum()
    except RuntimeError as error:
        raise NumericalError(f"singular values of the roots did not converge: {error}") from error


def _rounding(values: Tensor) -> Tensor:
    """Return the size below which an eigenvalue, of values in rising order, is only rounding."""
    return values[..., -1:].clamp_min(0) * values.shape[-1] * torch.finfo(values.dtype).eps


def _eigh(matrix: Tensor, *, vectors: bool = True) -> tuple[Tensor, Tensor]:
    """Return eigenvalues in rising order and eigenvectors, which are empty if not asked for."""
    if not torch.isfinite(matrix).all():
        raise NumericalError("covariance of the Frechet distance is not finite; check the features")
    symmetric = (matrix + matrix.mT) / 2
    try:
        if not vectors:
            return torch.linalg.eigvalsh(symmetric), symmetric[..., :0]
        values, basis = torch.linalg.eigh(symmetric)
    except RuntimeError as error:
        raise NumericalError(f"eigenvalues of the covariance did not converge: {error}") from error
    return values, basis
