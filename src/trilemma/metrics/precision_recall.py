r"""Precision, recall, density and coverage from nearest neighbours.

Around each sample a ball reaches to its k-th nearest neighbour in the same set; the union of the
balls stands for the support of the law.

* precision: share of fakes inside the union of the real balls (fidelity);
* recall: share of reals inside the union of the fake balls (diversity);
* density: mean number of real balls around a fake, divided by k (1 for equal laws, may exceed it);
* coverage: share of real balls that hold at least one fake.

Each score is a mean over one of the sets, and with the balls as they are it also depends on each
sample of the other: leave out a real and precision loses the fakes that no other ball holds. Both
kinds of contribution are kept (``ManifoldScores.parts``); their spread says how far the score would
move if the samples were drawn again. For density the balls may not be taken as they are: in many
dimensions some reals are neighbours of very many others, whose balls would all grow without them.
Leaving out a neighbour moves the rank k of a ball by one, so each real also has the fakes that the
balls around it would gain, to first order: those between ranks k - h and k + h over 2 h, h = k / 2.

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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
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
        parts: for each score what every fake, (m), and every real, (n), adds to it, the balls taken
            as given; float64. The part of the set that the score is a mean over sums to it: its
            indicators over their number. The other part says what is lost without a sample; for
            density, less what other balls gain.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k_precision: int
    k_density: int
    parts: Mapping[str, tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )


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
    n, m, step = len(x), len(y), max(k_density // 2, 1)
    lower, upper = k_density - step, min(k_density + step, n - 1)
    radii, nearest = _neighbours(x, max(k_precision, upper), block)
    ranks = (k_precision, k_density, lower, upper)
    narrow, wide, inner, outer = _held(x, y, [radii[:, k] for k in ranks], block)
    (back,) = _held(y, x, [_neighbours(y, k_precision, block)[0][:, k_precision]], block)
    gains = (outer.of_balls - inner.of_balls) / (upper - lower)
    others = torch.zeros_like(gains).index_add_(
        0, nearest[:, 1 : k_density + 1].flatten(), gains.repeat_interleave(k_density)
    )
    parts = {
        "precision": ((narrow.of_points > 0).double() / m, narrow.alone_of_balls / m),
        "recall": (back.alone_of_balls / n, (back.of_points > 0).double() / n),
        "density": (wide.of_points / (k_density * m), (wide.of_balls - others) / (k_density * m)),
        "coverage": (wide.alone_of_points / n, (wide.of_balls > 0).double() / n),
    }
    return ManifoldScores(
        precision=(narrow.of_points > 0).double().mean().item(),
        recall=(back.of_points > 0).double().mean().item(),
        density=float(wide.of_points.sum()) / (k_density * m),
        coverage=(wide.of_balls > 0).double().mean().item(),
        k_precision=k_precision,
        k_density=k_density,
        parts=parts,
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


def _neighbours(
    x: Tensor, k: int, block: int
) -> tuple[Float64[Tensor, "n ranks"], Int64[Tensor, "n ranks"]]:
    """Return squared distances and numbers of the k nearest of each sample, itself at rank 0.

    The distance at rank 0 is -1, less than any, so that a ball of no neighbours holds nothing.
    """
    distances, numbers = [], []
    for part, rows in _blocks(x, block):
        gaps = _distances(rows, x)
        gaps[torch.arange(len(rows)), torch.arange(part.start, part.start + len(rows))] = -1.0
        nearest = gaps.topk(k + 1, dim=1, largest=False, sorted=True)
        distances.append(nearest.values)
        numbers.append(nearest.indices)
    return torch.cat(distances), torch.cat(numbers)


class _Held:
    """Counts of which points lie in which balls, of one squared radius per ball.

    Attributes:
        of_points: balls around each point.
        of_balls: points in each ball.
        alone_of_points: balls that hold this point and no other.
        alone_of_balls: points that lie in this ball and in no other.
    """

    def __init__(self, radii: Tensor, num_points: int) -> None:
        self.radii = radii
        self.of_points = torch.zeros(num_points, dtype=torch.float64)
        self.of_balls = torch.zeros(len(radii), dtype=torch.float64)
        self.alone_of_balls = torch.zeros(len(radii), dtype=torch.float64)
        self._numbers = torch.zeros(len(radii), dtype=torch.float64)

    def add(self, part: slice, gaps: Tensor) -> None:
        """Count a block of points, given their squared distances to all centres, (p, n)."""
        inside = (gaps <= self.radii).to(gaps.dtype)
        self.of_points[part] = inside.sum(1)
        self.of_balls += inside.sum(0)
        self.alone_of_balls += (self.of_points[part] == 1).to(gaps.dtype) @ inside
        numbers = torch.arange(part.start, part.start + len(gaps), dtype=gaps.dtype)
        self._numbers += numbers @ inside  # of a ball that holds one point: the number of it

    @property
    def alone_of_points(self) -> Tensor:
        single = self._numbers[self.of_balls == 1].long()
        return torch.bincount(single, minlength=len(self.of_points)).double()


def _held(centres: Tensor, points: Tensor, radii: list[Tensor], block: int) -> list[_Held]:
    """Count the points in balls, for several choices of their squared radii."""
    found = [_Held(radius, len(points)) for radius in radii]
    for part, rows in _blocks(points, block):
        gaps = _distances(rows, centres)
        for held in found:
            held.add(part, gaps)
    return found
