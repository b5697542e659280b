r"""All image metrics at once, with floors.

``evaluate`` extracts features once and returns six records: Frechet distance and kernel distance
(how far the two laws are apart), precision and density (fidelity), recall and coverage
(diversity). Each carries its floor, the same metric with real images in the place of the fakes:

* with ``floor_real``, a second set of real images: as many of them as there are fakes (or all, if
  fewer) against the same reference;
* without it, the reference is split: a random part, as large as the fake set but at most half,
  against the rest. The rest is smaller than the reference itself, which raises the floor of the
  Frechet distance a little; the record states both sizes.

A distance is worth reading only where it clears its floor by more than its error. Precision and
density are worth reading only where coverage is not far below its floor: with the features of
EfficientNet-Lite0, uniform noise against 1,000 icons has precision 1.0, density 2.2 and coverage
0.02, because a few outlying icons have balls that hold all noise. Their notes then say so.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.base import Record
from trilemma.metrics.features import FeatureExtractor, metric_key
from trilemma.metrics.frechet import (
    check_features,
    frechet_distance,
    frechet_error,
    gaussian_stats,
)
from trilemma.metrics.kernel import kid
from trilemma.metrics.precision_recall import ManifoldScores, manifold_scores

__all__ = ["evaluate", "evaluate_features"]

MANIFOLD_LIMIT = 10_000
SUBSET_SIZE = 1000
SMALLEST = 12
FIDELITY = ("precision", "density")
SUSPECT = (
    "; coverage is below half its floor: few wide balls around outliers, or copies of few images, "
    "can make this high, so do not read it as quality"
)


@dataclass(frozen=True)
class _Score:
    """One value of one comparison, before it becomes a record."""

    name: str
    value: float
    lower_is_better: bool
    num_fake: int
    num_real: int
    error: float | None
    note: str


def evaluate(
    fake: Tensor,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    split: str,
    seed: int = 0,
    floor_real: Tensor | None = None,
    batch_size: int = 64,
) -> list[Record]:
    """Compare generated with real images.

    Args:
        fake: generated images, uint8 (m, c, h, w), m >= 12.
        real: reference images, uint8 (n, c, h, w), n >= 12 (24 without ``floor_real``).
        extractor: the features.
        split: name of the reference split; stands in each record.
        seed: of random subsets.
        floor_real: further real images, disjoint from ``real``, for the floor.
        batch_size: images per forward pass.

    Returns:
        Records of Frechet distance, kernel distance, precision, recall, density and coverage.

    Raises:
        ConfigError: ``split`` is empty.
        DataError: too few images, or images that the extractor cannot read.
        NumericalError: a feature is not finite.
    """
    return evaluate_features(
        extractor(fake, batch_size=batch_size),
        extractor(real, batch_size=batch_size),
        extractor,
        split=split,
        seed=seed,
        floor_real=None if floor_real is None else extractor(floor_real, batch_size=batch_size),
    )


def evaluate_features(
    fake: Tensor,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    split: str,
    seed: int = 0,
    floor_real: Tensor | None = None,
) -> list[Record]:
    """Compare features that the extractor has made already; see ``evaluate``.

    Args:
        fake: (m, d).
        real: (n, d).
        extractor: what made them; only its identity is used.
        split: name of the reference split.
        seed: of random subsets.
        floor_real: features of further real images, (l, d).

    Returns:
        Six records.

    Raises:
        ConfigError: ``split`` is empty.
        DataError: too few samples, or features of different widths.
        NumericalError: a feature is not finite.
    """
    if not split:
        raise ConfigError("split is empty; name the reference split, such as 'test'")
    x = check_features(real, "real images' features", SMALLEST)
    y = check_features(fake, "fake images' features", SMALLEST)
    scores = _compare(y, x, extractor, seed)
    floors = _compare(*_floor_sets(y, x, floor_real, seed), extractor, seed)
    suspect = scores[-1].value < 0.5 * floors[-1].value
    identity = {
        "split": split,
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "preprocessing": extractor.preprocessing,
    }
    return [
        Record(
            name=score.name,
            value=score.value,
            lower_is_better=score.lower_is_better,
            num_fake=score.num_fake,
            num_real=score.num_real,
            error=score.error,
            floor=floor.value,
            floor_num_fake=floor.num_fake,
            floor_num_real=floor.num_real,
            seed=seed,
            note=score.note + (SUSPECT if suspect and score.name in FIDELITY else ""),
            **identity,
        )
        for score, floor in zip(scores, floors, strict=True)
    ]


def _floor_sets(
    fake: Tensor, real: Tensor, floor_real: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Return two sets of real features: one in the place of the fakes, and the reference."""
    if floor_real is not None:
        extra = check_features(floor_real, "floor images' features", SMALLEST)
        return _draw(extra, len(fake), seed), real
    if len(real) < 2 * SMALLEST:
        raise DataError(
            f"{len(real)} real images are too few to split for a floor; give {2 * SMALLEST} or more"
            ", or a second set as floor_real"
        )
    shuffled = _draw(real, len(real), seed)
    size = min(len(fake), len(real) // 2)
    return shuffled[:size], shuffled[size:]


def _draw(x: Tensor, size: int, seed: int) -> Tensor:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[:size]]


def _compare(fake: Tensor, real: Tensor, extractor: FeatureExtractor, seed: int) -> list[_Score]:
    if fake.shape[1] != real.shape[1]:
        raise DataError(
            f"fake features are {fake.shape[1]} wide, real ones {real.shape[1]}; use one extractor"
        )
    return [
        _frechet(fake, real, metric_key(extractor)),
        _kernel(fake, real, metric_key(extractor, "kernel"), seed),
        *_manifold(fake, real, seed),
    ]


def _frechet(fake: Tensor, real: Tensor, name: str) -> _Score:
    smallest, dim = min(len(fake), len(real)), fake.shape[1]
    value = frechet_distance(gaussian_stats(fake), gaussian_stats(real))
    if smallest > dim:
        note = "error: standard error to first order, without the bias"
        return _Score(name, value, True, len(fake), len(real), frechet_error(fake, real), note)
    note = (
        f"rank-deficient covariance: {smallest} samples for {dim} features; strongly biased, read "
        "it only beside its floor and prefer the kernel distance"
    )
    return _Score(name, value, True, len(fake), len(real), None, note)


def _kernel(fake: Tensor, real: Tensor, name: str, seed: int) -> _Score:
    half = min(len(fake), len(real)) // 2
    score = kid(real, fake, subset_size=min(SUBSET_SIZE, half), seed=seed)
    note = (
        f"error: standard deviation over {score.num_subsets} subsets of {score.subset_size}; "
        "unbiased, may be negative"
    )
    return _Score(name, score.mean, True, len(fake), len(real), score.std, note)


def _manifold(fake: Tensor, real: Tensor, seed: int) -> list[_Score]:
    size = min(len(fake), len(real), MANIFOLD_LIMIT)
    scores = manifold_scores(_draw(real, size, seed), _draw(fake, size, seed))
    names = ("precision", "recall", "density", "coverage")
    return [_share(scores, name, size) for name in names]


def _share(scores: ManifoldScores, name: str, size: int) -> _Score:
    value: float = getattr(scores, name)
    k = scores.k_precision if name in ("precision", "recall") else scores.k_density
    note = f"k = {k}, equal set sizes"
    if name == "density":
        return _Score(name, value, False, size, size, None, note)
    error = math.sqrt(value * (1 - value) / size)
    note += "; error: binomial standard error, radii taken as given"
    return _Score(name, value, False, size, size, error, note)
