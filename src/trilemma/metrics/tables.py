r"""Synthetic rows of a table against real ones: columns, correlations, use, and novelty.

*Marginal distance.* For a numeric column the Kolmogorov-Smirnov distance, the largest gap between
the two empirical distribution functions; for a categorical one the total variation,
sum_i |p_i - q_i| / 2. Both lie in [0, 1]; the score is the mean over columns.

*Correlation error.* Numbers as they are and categories as indicators have one matrix of
correlations; the score is the mean absolute difference of its entries between different columns.

*Classifier accuracy*, "train on synthetic, test on real": a random forest learns the label's column
from synthetic rows and predicts that of real test rows. Its floor, here a mark to reach, is the
accuracy of the same forest after real training rows. Rows that look right one column at a time but
forget what belongs together fail here.

*Novelty.* The median distance of synthetic rows to the nearest training row, as a share of that of
real test rows: about 1 for new rows of the same law, near 0 for copies of the training rows, above
1 for rows that lie off the data. Read every other score together with it, since copies of the
training rows would score well everywhere else.

Few rows make every distance positive, even between two sets of one law. The floors measure it: the
other real split takes the place of the synthetic rows, and these enter in groups of its size, so
that value and floor can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.base import Record
from trilemma.metrics.frechet import check_features

__all__ = [
    "correlation_errors",
    "evaluate_table",
    "marginal_distances",
    "nearest_distances",
    "synthetic_to_real",
]

NUM_TREES = 100
MAX_GROUPS = 20
CHUNK = 2048


def marginal_distances(a: Tensor, b: Tensor, categories: Sequence[int]) -> Tensor:
    """Distance of the two empirical laws of each column, in [0, 1].

    Args:
        a: rows, (m, d).
        b: rows, (n, d).
        categories: number of categories of each column, 0 for a numeric one.

    Returns:
        Kolmogorov-Smirnov distances and total variations (d), float64.

    Raises:
        DataError: the rows do not fit the categories.
        NumericalError: an entry is not finite.
    """
    a, b = _check(a, categories), _check(b, categories)
    return torch.stack(
        [
            _total_variation(x, y, count) if count else _kolmogorov_smirnov(x, y)
            for x, y, count in zip(a.unbind(1), b.unbind(1), categories, strict=True)
        ]
    )


def correlation_errors(a: Tensor, b: Tensor, categories: Sequence[int]) -> Tensor:
    """Absolute differences of the correlations of different columns.

    A column that is constant in one of the sets is uncorrelated there.

    Args:
        a: rows, (m, d), m >= 2.
        b: rows, (n, d), n >= 2.
        categories: number of categories of each column, 0 for a numeric one.

    Returns:
        One number for each pair of entries, numbers or indicators, of different columns, float64;
        empty for a single column.

    Raises:
        DataError: the rows do not fit the categories, or there are fewer than two.
        NumericalError: an entry is not finite.
    """
    a, b = _check(a, categories, least=2), _check(b, categories, least=2)
    gap = (_correlations(_encode(a, categories)) - _correlations(_encode(b, categories))).abs()
    owner = torch.repeat_interleave(torch.tensor([max(count, 1) for count in categories]))
    return gap[owner[:, None] < owner[None, :]]


def nearest_distances(x: Tensor, reference: Tensor, categories: Sequence[int]) -> Tensor:
    """Distance of each row to the nearest of other rows.

    Squares of differences of numbers count as they are, so numbers should be standardised; two
    different categories are at distance 1.

    Args:
        x: rows, (m, d).
        reference: rows, (n, d).
        categories: number of categories of each column, 0 for a numeric one.

    Returns:
        Euclidean distances (m), float64.

    Raises:
        DataError: the rows do not fit the categories.
        NumericalError: an entry is not finite.
    """
    scale = torch.tensor([s for c in categories for s in ([math.sqrt(0.5)] * c or [1.0])])
    rows, others = (
        _encode(_check(part, categories), categories) * scale for part in (x, reference)
    )
    exact = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(p, others, compute_mode=exact).amin(1) for p in rows.split(CHUNK)]
    return torch.cat(parts)


def synthetic_to_real(
    train: Tensor, test: Tensor, categories: Sequence[int], target: int, *, seeds: Sequence[int]
) -> list[float]:
    """Accuracy on real rows of a classifier that learnt from others.

    Args:
        train: rows to learn from, synthetic or real, (m, d).
        test: real rows that had no part in it, (n, d).
        categories: number of categories of each column, 0 for a numeric one.
        target: the column to predict, a categorical one.
        seeds: of the random forests, one each.

    Returns:
        One accuracy a seed, in [0, 1].

    Raises:
        ConfigError: the target is not a categorical column, or scikit-learn is not installed.
        DataError: the rows do not fit the categories.
        NumericalError: an entry is not finite.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise ConfigError(
            "judging tables by a classifier needs scikit-learn: pip install 'trilemma[tables]'"
        ) from error
    if not 0 <= target < len(categories) or not categories[target] or len(categories) < 2:
        raise ConfigError(f"target={target} is not one of several columns, and categorical")
    others = [count for j, count in enumerate(categories) if j != target]

    def sides(rows: Tensor) -> tuple[Any, Any]:
        rows = _check(rows, categories)
        kept = torch.cat([rows[:, :target], rows[:, target + 1 :]], dim=1)
        return _encode(kept, others).numpy(), rows[:, target].round().long().numpy()

    features, labels = sides(train)
    test_features, test_labels = sides(test)
    found = []
    for seed in seeds:
        forest = RandomForestClassifier(NUM_TREES, random_state=seed).fit(features, labels)
        found.append(float((forest.predict(test_features) == test_labels).mean()))
    return found


def evaluate_table(
    fake: Tensor,
    train: Tensor,
    test: Tensor,
    categories: Sequence[int],
    *,
    target: int | None = None,
    split: str = "test",
    seed: int = 0,
    num_seeds: int = 5,
    names: Sequence[str] = (),
) -> list[Record]:
    """Judge synthetic rows.

    Args:
        fake: synthetic rows, (m, d), m >= 2.
        train: real rows that the model learnt from, (n, d), n >= 2, numbers standardised.
        test: real rows that it did not see, (l, d), l >= 2.
        categories: number of categories of each column, 0 for a numeric one.
        target: the column to predict; without one, or if it is numeric, nothing is classified.
        split: with which split columns and correlations are compared, ``"train"`` or ``"test"``.
        seed: first seed of the forests.
        num_seeds: forests, at least 1.
        names: of the columns, for the notes; numbers by default.

    Returns:
        Records ``marginal_distance``, ``correlation_error``, ``novelty`` and, with a categorical
        target, ``classifier_accuracy``.

    Raises:
        ConfigError: an unknown split, no seeds, or scikit-learn is not installed.
        DataError: the rows do not fit the categories, or there are fewer than two.
        NumericalError: an entry is not finite.
    """
    if split not in ("train", "test") or num_seeds < 1:
        raise ConfigError(f"split={split!r} must be 'train' or 'test', num_seeds={num_seeds} >= 1")
    fake, train, test = (_check(x, categories, least=2) for x in (fake, train, test))
    real, other = (test, train) if split == "test" else (train, test)
    size = min(len(other), len(fake))
    groups = [g for g in fake.split(size) if len(g) == size][:MAX_GROUPS]
    shared: dict[str, Any] = {
        "num_fake": len(fake),
        "extractor": "columns",
        "weights_sha256": "",
        "preprocessing": "numbers standardised, categories as indicators",
        "seed": seed,
    }
    grouped = f"mean over {len(groups)} groups of {size} synthetic rows, error: their deviation"
    against: dict[str, Any] = {"num_real": len(real), "split": split, "lower_is_better": True}
    against |= {"floor_num_fake": len(other), "floor_num_real": len(real)}

    distances = torch.stack([marginal_distances(group, real, categories) for group in groups])
    worst = int(distances.mean(0).argmax())
    name = names[worst] if names else f"column {worst}"
    marginal = Record(
        name="marginal_distance",
        value=float(distances.mean()),
        error=_deviation(distances.mean(1)),
        floor=float(marginal_distances(other, real, categories).mean()),
        note=f"{grouped}; largest for {name}: {float(distances.mean(0)[worst]):.3g}",
        **against,
        **shared,
    )
    records = [marginal]
    if len(categories) > 1:
        gaps = torch.stack([correlation_errors(group, real, categories) for group in groups])
        correlation = Record(
            name="correlation_error",
            value=float(gaps.mean()),
            error=_deviation(gaps.mean(1)),
            floor=float(correlation_errors(other, real, categories).mean()),
            note=f"{grouped}; largest of a group, on average: {float(gaps.amax(1).mean()):.3g}",
            **against,
            **shared,
        )
        records.append(correlation)
    if target is not None and categories[target]:
        records.append(_accuracy(fake, train, test, categories, target, num_seeds, shared))
    records.append(_novelty(fake, train, test, categories, shared))
    return records


def _accuracy(
    fake: Tensor,
    train: Tensor,
    test: Tensor,
    categories: Sequence[int],
    target: int,
    num_seeds: int,
    shared: dict[str, Any],
) -> Record:
    seeds = range(shared["seed"], shared["seed"] + num_seeds)
    found, real = (
        torch.tensor(synthetic_to_real(rows, test, categories, target, seeds=seeds))
        for rows in (fake, train)
    )
    p = float(real.mean())
    chance = math.sqrt(p * (1 - p) / len(test))
    return Record(
        name="classifier_accuracy",
        value=float(found.mean()),
        lower_is_better=False,
        num_real=len(test),
        split="test",
        error=_deviation(found),
        floor=p,
        floor_num_fake=len(train),
        floor_num_real=len(test),
        note=f"random forests of {NUM_TREES} trees, {num_seeds} seeds, error: their deviation; "
        f"the choice of the test rows alone makes either figure uncertain by {chance:.2g}",
        **shared,
    )


def _novelty(
    fake: Tensor, train: Tensor, test: Tensor, categories: Sequence[int], shared: dict[str, Any]
) -> Record:
    median = float(nearest_distances(test, train, categories).median())
    found = float(nearest_distances(fake, train, categories).median())
    return Record(
        name="novelty",
        value=found / median if median > 0 else math.nan,
        lower_is_better=False,
        num_real=len(train),
        split="train",
        floor=1.0,
        floor_num_fake=len(test),
        floor_num_real=len(train),
        note="median distance to the nearest training row, as a share of that of test rows: near 0 "
        "for copies of training rows, well above 1 for rows off the data",
        **shared,
    )


def _check(x: Tensor, categories: Sequence[int], least: int = 1) -> Tensor:
    """Rows as finite float64 on the CPU, with codes among the categories."""
    rows = check_features(x, "rows", least).cpu()
    if rows.shape[1] != len(categories):
        raise DataError(f"rows have {rows.shape[1]} columns, categories {len(categories)}")
    for j, count in enumerate(categories):
        if count and not bool(((rows[:, j] > -0.5) & (rows[:, j] < count - 0.5)).all()):
            raise DataError(f"column {j} has codes outside 0 to {count - 1}")
    return rows


def _encode(rows: Tensor, categories: Sequence[int]) -> Tensor:
    """Numbers as they are, and categories as indicators, float64."""
    parts = [
        F.one_hot(entry.round().long(), count).double() if count else entry[:, None]
        for count, entry in zip(categories, rows.unbind(1), strict=True)
    ]
    return torch.cat(parts, dim=1)


def _kolmogorov_smirnov(x: Tensor, y: Tensor) -> Tensor:
    """Largest gap between two empirical distribution functions."""
    x, y = x.sort().values, y.sort().values
    places = torch.cat([x, y])
    below, above = (
        torch.searchsorted(side, places, right=True).double() / len(side) for side in (x, y)
    )
    return (below - above).abs().max()


def _total_variation(x: Tensor, y: Tensor, count: int) -> Tensor:
    """Half the sum of the differences of two histograms."""
    p, q = (
        torch.bincount(side.round().long(), minlength=count).double() / len(side) for side in (x, y)
    )
    return (p - q).abs().sum() / 2


def _correlations(x: Tensor) -> Tensor:
    """Matrix of correlations; 0 where a column is constant."""
    centred = x - x.mean(0)
    norm = centred.norm(dim=0)
    flat = norm <= 1e-12 * x.norm(dim=0).clamp(min=1e-300)
    unit = torch.where(flat, 0.0, centred / torch.where(flat, 1.0, norm))
    return unit.T @ unit


def _deviation(values: Tensor) -> float | None:
    """Standard deviation, if there are several values."""
    return float(values.std()) if len(values) > 1 else None
