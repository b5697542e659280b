"""Did the model learn the data or store them? Distances to the nearest training images.

Each image is judged by how far its nearest training image stands out from the next ones, a ratio of
distances near 0 for copies, exact, noisy, moved or mirrored, and below 1 for new images
(``trilemma.metrics.nearness``).

What is small is said by *held-out* real images, which no model has seen: the threshold is the ratio
of the j-th smallest among l of them, about 1 %. If m generated images are as new as these, all
orders of the m + l ratios are equally likely, and a or more generated ones fall below the threshold
with the probability that a + j - 1 draws from all of them, without replacement, hold fewer than j
held-out ones. Its share of copies has Wilson's interval of 95 %.

Up to 1 % of copies hide in that test, as many as the held-out images that lie below its threshold;
and more than those where the data hold near-copies of their own, which put the threshold near 0. So
three fixed bounds count as well: ratios of a quarter and of a sixteenth, and copies that equal a
training image in every byte. If a generated and b held-out images keep one of them, then a + b
draws without replacement hold b held-out ones or fewer with a probability of the same form
(Fisher's exact test). ``chance`` is four times the least of the four probabilities (Bonferroni),
and the model is flagged where it is below 1 %, so by chance in one of a hundred cases at most if
samples are independent; a collapsed model repeats what chance brings near. Where no held-out image
is near, nine copies among 2,000 images are enough, held against as many.

A share says that a model copies some images; the pairs of image and neighbour, to be looked at, say
which. The check does not see copies that were tilted, stretched, cut out or recoloured.

Source: the bounds, the threshold from held-out data, and the tests are ours.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.bootstrap import wilson
from trilemma.metrics.nearness import NEIGHBOURS, SIDE, Nearness, nearness

__all__ = ["Memorisation", "memorisation"]

QUANTILE = 0.01
NEAR, BESIDE = 1 / 4, 1 / 16
ALARM = 0.01
LEAST_HELD_OUT = 20


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What the check against training images found.

    Attributes:
        share_copied: generated images with a ratio of at most ``threshold``, in [0, 1].
        expected_share: the same of held-out real images.
        threshold: of the ratio, in [0, 1].
        low: lower end of the 95 % interval of ``share_copied`` (Wilson).
        high: its upper end.
        num_near: generated images with a ratio of at most 1/4.
        expected_near: held-out real images with such a ratio.
        num_beside: generated images with a ratio of at most 1/16.
        expected_beside: held-out real images with such a ratio.
        chance: probability that as many images, or more, keep any of the four bounds if the
            generated images are new, at most, in [0, 1].
        num_exact: generated images that equal a training image in every byte.
        expected_exact: held-out real images that do.
        is_flagged: whether ``chance`` is below 1 %.
        num_fake: generated images.
        num_train: training images.
        num_held_out: held-out real images.
        indices: nearest training image of each generated one, (m), int64.
        distances: to it, root mean square over pixels, grey levels, (m), float64.
        ratios: of each generated image, (m), float64.
        note: how it was measured.
    """

    share_copied: float
    expected_share: float
    threshold: float
    low: float
    high: float
    num_near: int
    expected_near: int
    num_beside: int
    expected_beside: int
    chance: float
    num_exact: int
    expected_exact: int
    is_flagged: bool
    num_fake: int
    num_train: int
    num_held_out: int
    indices: Int64[Tensor, " m"]
    distances: Float64[Tensor, " m"]
    ratios: Float64[Tensor, " m"]
    note: str

    def as_dict(self) -> dict[str, str | int | float | bool]:
        """Return what JSON can hold: all but what there is one of per image.

        Returns:
            Field name to plain value.
        """
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in found.items() if not isinstance(value, Tensor)}


def memorisation(
    fake: Tensor, train: Tensor, held_out: Tensor | Nearness, *, k: int = NEIGHBOURS
) -> Memorisation:
    """Compare how often generated and held-out images are copies of training images.

    Args:
        fake: generated images, uint8 (m, c, h, w).
        train: images that the model was trained on, uint8 (n, c, h, w), n >= 10.
        held_out: real images that it was not trained on, of the same law, uint8 (l, c, h, w),
            l >= 20; or their ``nearness`` to ``train``, to measure it once for many models.
        k: neighbours of each ratio, >= 2; n / 2 if that is less.

    Returns:
        Shares with an interval, thresholds, counts of exact copies, and nearest neighbours.

    Raises:
        ConfigError: ``k`` is below 2, or not that of ``held_out``.
        DataError: too few images, or images of a wrong type or shape.
    """
    kept = held_out if isinstance(held_out, Nearness) else nearness(held_out, train, k=k)
    if len(kept.ratios) < LEAST_HELD_OUT or kept.num_train != len(train):
        raise DataError(
            f"{len(kept.ratios)} held-out images against {kept.num_train} training images; give at "
            f"least {LEAST_HELD_OUT} held-out images, measured against the same {len(train)}"
        )
    neighbours = min(k, len(train) // 2)
    if kept.num_neighbours != neighbours:
        raise ConfigError(
            f"the held-out images were measured with {kept.num_neighbours} neighbours; "
            f"the generated ones need {neighbours}, as k = {k} says"
        )
    found = nearness(fake, train, k=k)
    num_fake, num_held_out = len(found.ratios), len(kept.ratios)
    threshold = kept.ratios.quantile(QUANTILE, interpolation="lower").item()
    (copied, expected), (near, expected_near), (beside, expected_beside) = (
        (int((found.ratios <= most).sum()), int((kept.ratios <= most).sum()))
        for most in (threshold, NEAR, BESIDE)
    )
    exact, expected_exact = int(found.is_exact.sum()), int(kept.is_exact.sum())
    before = int((found.ratios < threshold).sum())  # of the held-out one that is the threshold
    chances = [
        _chance(one, num_fake, other, num_held_out)
        for one, other in (
            (before, expected),
            (near, expected_near + 1),
            (beside, expected_beside + 1),
            (exact, expected_exact + 1),
        )
    ]
    chance = min(len(chances) * min(chances), 1.0)
    share = copied / num_fake
    low, high = wilson(share, num_fake)
    small = ", averaged down to 32 pixels" if max(fake.shape[2:]) > SIDE else ""
    return Memorisation(
        share_copied=share,
        expected_share=expected / num_held_out,
        threshold=threshold,
        low=low,
        high=high,
        num_near=near,
        expected_near=expected_near,
        num_beside=beside,
        expected_beside=expected_beside,
        chance=chance,
        num_exact=exact,
        expected_exact=expected_exact,
        is_flagged=chance < ALARM,
        num_fake=num_fake,
        num_train=len(train),
        num_held_out=num_held_out,
        indices=found.indices,
        distances=found.distances,
        ratios=found.ratios,
        note=f"distance to the nearest training image over the mean of the next {neighbours - 1}, "
        f"in pixels or in outline{small}; threshold: {QUANTILE:.0%} of held-out real images; "
        "95 % interval: Wilson",
    )


def _chance(copied: int, num_fake: int, expected: int, num_held_out: int) -> float:
    """Return P(at least ``copied`` fakes come before the ``expected``-th held-out), equal laws."""
    drawn = copied + expected - 1
    least = max(drawn - num_fake, 0)
    counts = torch.arange(least, expected, dtype=torch.float64)  # of held-out among the drawn
    total = num_fake + num_held_out

    def log_choose(n: int, k: Tensor) -> Tensor:
        return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    ways = log_choose(num_held_out, counts) + log_choose(num_fake, drawn - counts)
    every = log_choose(total, torch.tensor(float(drawn), dtype=torch.float64))
    return min(float((ways - every).exp().sum()), 1.0)
