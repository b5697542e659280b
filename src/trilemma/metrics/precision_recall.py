r"""Precision, recall, density and coverage from nearest neighbours.

Around each sample a ball reaches to its k-th nearest neighbour in the same set; the union of the
balls stands for the support of the law.

* precision: share of fakes inside the union of the real balls (fidelity);
* recall: share of reals inside the union of the fake balls (diversity);
* density: mean number of real balls around a fake, divided by k (1 for equal laws, may exceed it);
* coverage: share of real balls that hold at least one fake.

Precision and recall are those of Kynkaanniemi et al., 2019 (k = 3), density and coverage those of
Naeem et al., 2020 (k = 5). A few real outliers have huge balls and can swallow pure noise, so that
precision stays high where the pictures are worthless. Density averages over the balls, which helps
against single outliers but not against several whose balls overlap; coverage asks the reals and is
the one that noise and copies cannot fool. Hence one function returns all four and none returns
precision alone.

All pairs are compared, blockwise: memory grows with ``block`` times the number of samples, not with
its square. Squared distances come from the matrix product of centred float64 features; those below
1e-13 of the two squared norms are rounding and are set to zero, so that copies of an image lie
at distance zero from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.frechet import check_features

__all__ = ["ManifoldScores", "manifold_scores"]

ROUNDING = 1e-13


@dataclass(frozen=True)
class ManifoldScores:
    """Four shares that describe fidelity and diversity together.

    Attributes:
        precision: in [0, 1].
        recall: in [0, 1].
        density: >= 0; 1 is expected for equal laws.
        coverage: in [0, 1]; 1 - 2^-k is expected for equal laws and sizes.
        k_precision: neighbours of precision and recall.
        k_density: neighbours of density and coverage.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k_precision: int
    k_density: int


def manifold_scores(
    real: Tensor, fake: Tensor, *, k_precision: int = 3, k_density: int = 5, block: int = 1024
) -> ManifoldScores:
    """Return precision, recall, density and coverage.

    Args:
        real: features, (n, d).
        fake: features, (m, d); use m = n, the scores depend on both sizes.
        k_precision: neighbours of precision and recall, >= 1.
        k_density: neighbours of density and coverage, >= 1.
        block: rows whose distances are held at once.

    Returns:
        The four scores.

    Raises:
        ConfigError: a neighbour count or the block size is below 1.
        DataError: features are not matrices of one width, or hold no more than k samples.
        NumericalError: a feature is NaN or infinite.

    Source: Kynkaanniemi et al., 2019, Eq. 1-2; Naeem et al., 2020, Eq. 3-5.
    """
    if min(k_precision, k_density, block) < 1:
        raise ConfigError(
            f"k_precision = {k_precision}, k_density = {k_density}, block = {block}; each must be "
            ">= 1"
        )
    x = check_features(real, "real features", max(k_precision, k_density) + 1)
    y = check_features(fake, "fake features", k_precision + 1)
    if x.shape[1] != y.shape[1]:
        raise DataError(
            f"real features are {x.shape[1]} wide, fake ones {y.shape[1]}; use the same extractor"
        )
    centre = x.mean(0)
    x, y = x - centre, y - centre
    radii = _radii(x, sorted({k_precision, k_density}), block)
    inside, hits, covered = _against_real(x, y, radii[k_precision], radii[k_density], block)
    recalled = _inside_any(y, x, _radii(y, [k_precision], block)[k_precision], block)
    return ManifoldScores(
        precision=inside.double().mean().item(),
        recall=recalled.double().mean().item(),
        density=hits / (k_density * len(y)),
        coverage=covered.double().mean().item(),
        k_precision=k_precision,
        k_density=k_density,
    )


def _distances(rows: Tensor, others: Tensor) -> Float64[Tensor, "n m"]:
    """Return squared distances of centred sets; those that are only rounding become zero."""
    norms = rows.square().sum(1)[:, None] + others.square().sum(1)
    gaps = norms.addmm(rows, others.mT, alpha=-2)
    return gaps.masked_fill_(gaps <= ROUNDING * norms, 0.0)


def _blocks(x: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        yield part, x[part]


def _radii(x: Tensor, ks: list[int], block: int) -> dict[int, Float64[Tensor, " n"]]:
    """Return the squared distance of each sample to its k-th neighbour, itself left out."""
    found = {k: torch.empty(len(x), dtype=x.dtype) for k in ks}
    for part, rows in _blocks(x, block):
        gaps = _distances(rows, x)
        gaps[torch.arange(len(rows)), torch.arange(part.start, part.start + len(rows))] = -1.0
        nearest = gaps.topk(max(ks) + 1, dim=1, largest=False, sorted=True).values
        for k in ks:
            found[k][part] = nearest[:, k]
    return found


def _inside_any(centres: Tensor, points: Tensor, radii: Tensor, block: int) -> Tensor:
    """Return which points lie in at least one ball."""
    parts = [(_distances(rows, centres) <= radii).any(1) for _, rows in _blocks(points, block)]
    return torch.cat(parts)


def _against_real(
    real: Tensor, fake: Tensor, narrow: Tensor, wide: Tensor, block: int
) -> tuple[Tensor, int, Tensor]:
    """Return fakes inside a real ball, pairs inside the wider balls, and covered reals."""
    inside, hits = [], 0
    covered = torch.zeros(len(real), dtype=torch.bool)
    for _, rows in _blocks(fake, block):
        gaps = _distances(rows, real)
        inside.append((gaps <= narrow).any(1))
        held = gaps <= wide
        hits += int(held.sum())
        covered |= held.any(0)
    return torch.cat(inside), hits, covered
