r"""All image metrics at once, with floors and intervals.

``evaluate`` extracts features once and returns six records: Frechet distance and kernel distance
(how far the two laws are apart), precision and density (fidelity), recall and coverage
(diversity); and a seventh, the Inception score, where the network is a classifier. Each carries an
interval of 95 % (``metrics.bootstrap``) and its floor, the same metric with real images in the
place of the fakes:

* with ``floor_real``, a second set of real images: as many of them as there are fakes (or all, if
  fewer) against as many as the reference holds;
* without it, the reference is split: a random part, as large as the fake set but at most half,
  against the rest. The rest is smaller than the reference itself, which raises the floor of the
  Frechet distance a little; the record states both sizes.

One such comparison is a noisy draw: of the 512 bundled digits, twelve divisions into halves have
Frechet distances from 1.4 to 3.2. The floors of both distances are therefore the mean over
``FLOOR_SPLITS`` splits: the real images of both sets are pooled and dealt anew, at random by the
seed, into two disjoint sets of these sizes. Twelve such means lie between 1.7 and 2.3. The standard
deviation between the splits is ``floor_error``: about how far one draw of a perfect sampler strays,
and twice the error of the mean or so. The kernel distance spreads as many subsets as it draws for
the value over the splits, so that its ``floor_error`` is somewhat too wide for many thousand
images. Precision, recall, density and coverage, whose nearest neighbours would have to be found
anew for each split, and the Inception score have the floor of one split and no ``floor_error``:
images of ``floor_real`` against the reference itself, or the first division of the reference.

Where the features of many real images cannot be had but their mean and covariance can, these are
given as ``reference``. Then the Frechet distance and its floor, and they alone, are measured
against them; the floor is the mean over ``FLOOR_SPLITS`` draws from the real images of both sets,
of as many as there are fakes. Such draws share images, the more the fewer are left out, and then
stray less than independent ones. If there are no more real images than fakes, all of them enter
once, and ``floor_error`` is None.

A distance is worth reading only where it clears its floor by more than its interval. Precision and
density are worth reading only where coverage is not far below its floor: with the features of
EfficientNet-Lite0, uniform noise against 1,000 icons has precision 1.0, density 2.2 and coverage
0.02, because a few outlying icons have balls that hold all noise. Their notes then say so.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.base import Record
from trilemma.metrics.bootstrap import (
    Interval,
    frechet_interval,
    kernel_error,
    normal_interval,
    share_interval,
    sum_error,
)
from trilemma.metrics.cache import cached_features
from trilemma.metrics.features import FeatureExtractor, metric_key
from trilemma.metrics.frechet import (
    GaussianStats,
    check_features,
    frechet_distance,
    frechet_error,
    frechet_of_features,
    gaussian_stats,
)
from trilemma.metrics.inception_score import inception_score, inception_score_interval
from trilemma.metrics.kernel import kid
from trilemma.metrics.precision_recall import ManifoldScores, manifold_scores

__all__ = ["evaluate", "evaluate_features"]

MANIFOLD_LIMIT = 10_000
SUBSET_SIZE = 1000
FLOOR_SPLITS = 5
FLOOR_SUBSETS = 20
"""Of each split: together as many as ``kid`` draws for the value."""
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
    interval: Interval | None = None
    split: str = ""


@dataclass(frozen=True)
class _Sets:
    """What is compared: features of fakes, or of reals in their place, and of reals.

    Intervals are measured for the fakes only, not for the floor.
    """

    fake: Tensor
    real: Tensor
    with_intervals: bool = True


@dataclass(frozen=True)
class _Floor:
    """What real samples score, and how that was found."""

    value: float
    num_fake: int
    num_real: int
    error: float | None = None
    note: str = ""


def evaluate(
    fake: Tensor,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    split: str,
    seed: int = 0,
    floor_real: Tensor | None = None,
    reference: GaussianStats | None = None,
    batch_size: int = 64,
    cached: bool = True,
) -> list[Record]:
    """Compare generated with real images.

    Args:
        fake: generated images, uint8 (m, c, h, w), m >= 12.
        real: reference images, uint8 (n, c, h, w), n >= 12 (24 without ``floor_real``).
        extractor: the features.
        split: name of the reference split; stands in each record.
        seed: of random subsets and of resampling.
        floor_real: further real images, disjoint from ``real``, for the floor.
        reference: statistics of the features of many real images, for the Frechet distance alone.
        batch_size: images per forward pass.
        cached: whether the features of real images are kept on disk and reused
            (``metrics.cache``).

    Returns:
        Records of Frechet distance, kernel distance, precision, recall, density and coverage, and
        of the Inception score where the extractor knows classes.

    Raises:
        ConfigError: ``split`` is empty.
        DataError: too few images, or images that the extractor cannot read, or a reference of
            other features.
        NumericalError: a feature is not finite.
    """

    def of_real(images: Tensor) -> Tensor:
        if cached:
            return cached_features(images, extractor, batch_size=batch_size)
        return extractor(images, batch_size=batch_size)

    return evaluate_features(
        extractor(fake, batch_size=batch_size),
        of_real(real),
        extractor,
        split=split,
        seed=seed,
        floor_real=None if floor_real is None else of_real(floor_real),
        reference=reference,
    )


def evaluate_features(
    fake: Tensor,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    split: str,
    seed: int = 0,
    floor_real: Tensor | None = None,
    reference: GaussianStats | None = None,
) -> list[Record]:
    """Compare features that the extractor has made already; see ``evaluate``.

    Args:
        fake: (m, d).
        real: (n, d).
        extractor: what made them; gives their identity, and classes from features.
        split: name of the reference split.
        seed: of random subsets and of resampling.
        floor_real: features of further real images, (l, d).
        reference: statistics of the features of many real images, for the Frechet distance alone.

    Returns:
        Six records, or seven.

    Raises:
        ConfigError: ``split`` is empty.
        DataError: too few samples, or features of different widths.
        NumericalError: a feature is not finite.
    """
    if not split:
        raise ConfigError("split is empty; name the reference split, such as 'test'")
    x = check_features(real, "real images' features", SMALLEST)
    y = check_features(fake, "fake images' features", SMALLEST)
    if x.shape[1] != y.shape[1]:
        raise DataError(
            f"fake features are {y.shape[1]} wide, real ones {x.shape[1]}; use one extractor"
        )
    extra = None
    if floor_real is not None:
        extra = check_features(floor_real, "floor images' features", SMALLEST)
    split_once = _Sets(*_floor_sets(y, x, extra, seed), with_intervals=False)
    pool = x if extra is None else torch.cat([x, extra])
    sets = _Sets(y, x)
    scores = [
        _frechet(sets, reference, metric_key(extractor), seed),
        _kernel(sets, metric_key(extractor, "kernel"), seed),
        *_compare(sets, extractor, seed),
    ]
    floors = [
        *_distance_floors(split_once, pool, len(y), reference, seed),
        *(
            _Floor(score.value, score.num_fake, score.num_real)
            for score in _compare(split_once, extractor, seed)
        ),
    ]
    suspect = any(
        score.name == "coverage" and score.value < 0.5 * floor.value
        for score, floor in zip(scores, floors, strict=True)
    )
    identity: dict[str, Any] = {
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
            low=score.interval.low if score.interval else None,
            high=score.interval.high if score.interval else None,
            floor=floor.value,
            floor_num_fake=floor.num_fake,
            floor_num_real=floor.num_real,
            seed=seed,
            split=score.split or split,
            floor_error=floor.error,
            note=_note(score, floor, suspect),
            **identity,
        )
        for score, floor in zip(scores, floors, strict=True)
    ]


def _note(score: _Score, floor: _Floor, suspect: bool) -> str:
    parts = [score.note, score.interval.note if score.interval else "", floor.note]
    note = "; ".join(part for part in parts if part)
    return note + (SUSPECT if suspect and score.name in FIDELITY else "")


def _floor_sets(
    fake: Tensor, real: Tensor, extra: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Return two sets of real features: one in the place of the fakes, and the reference."""
    if extra is not None:
        return _draw(extra, len(fake), seed), real
    if len(real) < 2 * SMALLEST:
        raise DataError(
            f"{len(real)} real images are too few to split for a floor; give {2 * SMALLEST} or more"
            ", or a second set as floor_real"
        )
    shuffled = _draw(real, len(real), seed)
    size = min(len(fake), len(real) // 2)
    return shuffled[:size], shuffled[size:]


def _distance_floors(
    sizes: _Sets, pool: Tensor, num: int, reference: GaussianStats | None, seed: int
) -> tuple[_Floor, _Floor]:
    """Return the floors of the Frechet and kernel distances, means over splits of all reals.

    Args:
        sizes: two sets of real features, as large as those of each split shall be.
        pool: all real features.
        num: how many of the pool are held against ``reference``, or all.
        reference: statistics, for the Frechet distance alone.
        seed: of the splits.

    Returns:
        Both floors.
    """
    first, second = len(sizes.fake), len(sizes.real)
    subset_size = min(SUBSET_SIZE, min(first, second) // 2)
    rng = torch.Generator().manual_seed(seed)
    frechet: list[float] = []
    kernel: list[float] = []
    for _ in range(FLOOR_SPLITS):
        dealt = pool[torch.randperm(len(pool), generator=rng)]
        stand_in, rest = dealt[:first], dealt[first : first + second]
        options = {"num_subsets": FLOOR_SUBSETS, "subset_size": subset_size, "seed": seed}
        kernel.append(kid(rest, stand_in, **options).mean)
        if reference is None:
            frechet.append(frechet_of_features(stand_in, rest))
        elif num < len(pool) or not frechet:  # all of the pool make but one draw
            frechet.append(frechet_of_features(dealt[:num], reference))
    split = f"{FLOOR_SPLITS} splits of {len(pool)} real samples"
    near = _mean_floor(kernel, first, second, split)
    if reference is None:
        return _mean_floor(frechet, first, second, split), near
    size = min(num, len(pool))
    drawn = f"{len(frechet)} draws of {size} out of {len(pool)} real samples"
    return _mean_floor(frechet, size, reference.num_samples, drawn), near


def _mean_floor(values: list[float], num_fake: int, num_real: int, splits: str) -> _Floor:
    """Return the mean of the floors of several splits, with their standard deviation."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return _Floor(mean, num_fake, num_real, None, f"floor: of all {num_fake} real samples")
    note = f"floor: mean over {splits}, floor_error their standard deviation"
    return _Floor(mean, num_fake, num_real, statistics.stdev(values), note)


def _draw(x: Tensor, size: int, seed: int) -> Tensor:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[:size]]


def _compare(sets: _Sets, extractor: FeatureExtractor, seed: int) -> list[_Score]:
    """Return the scores whose floor is that of one split: all but the distances."""
    return [*_manifold(sets, seed), *_classes(sets, extractor, seed)]


def _frechet(sets: _Sets, given: GaussianStats | None, name: str, seed: int) -> _Score:
    fake = sets.fake
    other = gaussian_stats(sets.real) if given is None else given
    smallest, dim = min(len(fake), other.num_samples), fake.shape[1]
    value = frechet_distance(gaussian_stats(fake), other)
    opposite = sets.real if given is None else given
    interval = frechet_interval(fake, opposite, seed=seed, value=value)
    error = None
    if smallest > dim:
        error = frechet_error(fake, opposite)
        note = "error: standard error to first order, without the bias"
    else:
        note = (
            f"rank-deficient covariance: {smallest} samples for {dim} features; strongly biased, "
            "read it only beside its floor and prefer the kernel distance"
        )
    if given is not None:
        note += f"; against the given statistics of {given.num_samples} real images"
    split = "" if given is None else given.split
    return _Score(name, value, True, len(fake), other.num_samples, error, note, interval, split)


def _kernel(sets: _Sets, name: str, seed: int) -> _Score:
    size = min(len(sets.fake), len(sets.real))
    score = kid(sets.real, sets.fake, subset_size=min(SUBSET_SIZE, size // 2), seed=seed)
    note = (
        f"error: standard deviation over {score.num_subsets} subsets of {score.subset_size}; "
        "unbiased, may be negative"
    )
    error = kernel_error(score.std, score.num_subsets, score.subset_size, size)
    kind = "95 % interval: normal, jackknife over the same subsets"
    interval = normal_interval(score.mean, error, kind, least=-math.inf)
    sizes = len(sets.fake), len(sets.real)
    return _Score(name, score.mean, True, *sizes, score.std, note, interval)


def _manifold(sets: _Sets, seed: int) -> list[_Score]:
    size = min(len(sets.fake), len(sets.real), MANIFOLD_LIMIT)
    scores = manifold_scores(_draw(sets.real, size, seed), _draw(sets.fake, size, seed))
    names = ("precision", "recall", "density", "coverage")
    return [_share(scores, name, size, sets.with_intervals) for name in names]


def _share(scores: ManifoldScores, name: str, size: int, with_interval: bool) -> _Score:
    value: float = getattr(scores, name)
    k = scores.k_precision if name in ("precision", "recall") else scores.k_density
    note, error = f"k = {k}, equal set sizes", None
    if name != "density":
        error = math.sqrt(value * (1 - value) / size)
        note += "; error: binomial standard error, radii taken as given"
    interval = None
    if with_interval:
        spread = sum_error(*scores.parts[name])
        kind = "bootstrap of each sample's contribution, both sets"
        if name == "density":
            interval = normal_interval(value, spread, f"95 % interval: normal, {kind}")
        else:
            kind = f"95 % interval: Wilson, {kind}, radii taken as given"
            interval = share_interval(value, spread, size, kind)
    return _Score(name, value, False, size, size, error, note, interval)


def _classes(sets: _Sets, extractor: FeatureExtractor, seed: int) -> list[_Score]:
    """Return the Inception score, if the network is a classifier."""
    probabilities = extractor.probabilities_of(sets.fake)
    if probabilities is None:
        return []
    name = metric_key(extractor, "inception_score")
    value, num = inception_score(probabilities).mean, len(sets.fake)
    note = "all samples at once, not ten parts; real images enter the floor only; error: bootstrap"
    interval = inception_score_interval(probabilities, seed=seed) if sets.with_intervals else None
    error = interval.error if interval else None
    return [_Score(name, value, False, num, 0, error, note, interval)]
