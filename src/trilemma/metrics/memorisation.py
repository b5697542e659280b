r"""Did the model learn the data or store them? Distances to the nearest training images.

The nearest training image of a copy is much nearer than its other neighbours. The nearest of a new
image is only a little nearer than they are. So each image x is judged by a ratio,

    r(x) = d_1(x) / mean(d_2(x), ..., d_k(x)),

d_j its distance to the j-th nearest training image, in pixels. Copies lie near 0, whether exact or
noisy, and new images somewhat below 1. The distance d_1 alone would accuse the wrong ones: pale,
blurred or simple images are near everything, and detailed ones are far even from their copies.

What is small is said by *held-out* real images, which no model has seen: the threshold is the ratio
of the j-th smallest among l of them, about 1 %. If m generated images are as new as these, all
orders of the m + l ratios are equally likely, and a or more generated ones fall below the threshold
with the probability that a + j - 1 draws from all of them, without replacement, hold fewer than j
held-out ones. Its share of copies has Wilson's interval of 95 %.

Up to 1 % of copies hide in that test, as many as the held-out images that lie below its threshold.
So a second one counts at half the threshold, where copies with a little noise lie as well: if a
generated and b held-out images do, then a + b draws without replacement hold b held-out ones or
fewer with a probability of the same form (Fisher's exact test). The model is flagged where either
probability is below half a percent, and so by chance in one of a hundred cases at most. Where no
held-out image is near, eight copies among 2,000 images are enough, held against as many. Copies
that equal a training image in every byte are counted besides.

A share says that a model copies some images; the pairs of image and neighbour, to be looked at, say
which. The check sees copies as they are, and not copies that were shifted, mirrored or recoloured.

Distances are root mean squares over pixels and channels, in grey levels of 0 to 255, so that a copy
with noise of standard deviation 8 lies at distance 8. Images larger than 32 pixels are first
averaged down to 32, which keeps copies together and noise out. Candidates are found by a
float32 matrix product and then measured by differences, so exact copies are at distance 0. Of large
images that are, all bytes are compared.

Sources: the ratio to the mean of the 50 nearest is that of Carlini et al., 2023, one to the second
nearest that of Yoon et al., 2023; the thresholds from held-out data are ours.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.bootstrap import wilson

__all__ = ["Memorisation", "Nearness", "memorisation", "nearest_neighbours", "nearness"]

SIDE = 32
NEIGHBOURS = 50
QUANTILE = 0.01
ALARM = 0.01
LEAST_TRAIN = 10
LEAST_HELD_OUT = 20
SPARE = 4
BLOCK_NUMBERS = 16_000_000


@dataclass(frozen=True, eq=False)
class Nearness:
    """Nearest training images, and how far they stand out from the next.

    Attributes:
        ratios: distance of the nearest over the mean of the next, (m), float64, in [0, 1].
        distances: of the nearest, (m), float64, grey levels.
        indices: of the nearest among the training images, (m), int64.
        is_exact: whether an image equals a training image in every byte, (m), bool.
        num_train: training images that were searched.
    """

    ratios: Float64[Tensor, " m"]
    distances: Float64[Tensor, " m"]
    indices: Int64[Tensor, " m"]
    is_exact: Bool[Tensor, " m"]
    num_train: int


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What the check against training images found.

    Attributes:
        share_copied: generated images with a ratio of at most ``threshold``, in [0, 1].
        expected_share: the same of held-out real images.
        threshold: of the ratio, in [0, 1].
        low: lower end of the 95 % interval of ``share_copied`` (Wilson).
        high: its upper end.
        chance: probability of as many copies, or more, if the generated images were new, in [0, 1].
        num_near: generated images with a ratio of at most half of ``threshold``.
        expected_near: held-out real images with such a ratio.
        near_chance: as ``chance``, of ``num_near``.
        num_exact: generated images that equal a training image in every byte.
        expected_exact: held-out real images that do.
        is_flagged: whether ``chance`` or ``near_chance`` is below 0.5 %.
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
    chance: float
    num_near: int
    expected_near: int
    near_chance: float
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


def nearest_neighbours(
    queries: Tensor, train: Tensor, k: int = 1
) -> tuple[Float64[Tensor, "m k"], Int64[Tensor, "m k"]]:
    """Find the nearest training images in pixels, in blocks of bounded memory.

    Args:
        queries: uint8, (m, c, h, w).
        train: uint8, (n, c, h, w).
        k: neighbours, 1 to n.

    Returns:
        Distances in rising order, (m, k), root mean square over pixels and channels in grey levels,
        0 for exact copies; and the indices of the neighbours in ``train``, (m, k).

    Raises:
        ConfigError: ``k`` is not between 1 and n.
        DataError: images are not uint8 (n, c, h, w), or of different shape.
    """
    for images, what in ((queries, "queries"), (train, "training images")):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
            raise DataError(
                f"{what} are {images.dtype} of shape {tuple(images.shape)}; expected uint8 "
                "(n, c, h, w) with n > 0"
            )
    if queries.shape[1:] != train.shape[1:]:
        raise DataError(
            f"queries have shape {tuple(queries.shape[1:])}, training images "
            f"{tuple(train.shape[1:])}; resize one of them"
        )
    if not 1 <= k <= len(train):
        raise ConfigError(f"k = {k}; allowed: 1 to the number of training images, {len(train)}")
    x, y = _pixels(train), _pixels(queries)
    centre = x.mean(0)
    squares = (x - centre).square().sum(1)
    base, scale = (x - centre).mT.contiguous(), math.sqrt(x.shape[1])
    count = min(k + SPARE, len(x))
    distances, indices = [], []
    for rows in y.split(max(BLOCK_NUMBERS // len(x), 1)):
        # |y|^2 is the same for all candidates of a row and is left out
        gaps = torch.addmm(squares, rows - centre, base, alpha=-2)
        found = gaps.topk(count, dim=1, largest=False, sorted=False).indices
        exact = torch.stack(
            [
                (x[near] - row).square_().sum(1, dtype=torch.float64)
                for near, row in zip(found, rows, strict=True)
            ]
        )
        order = exact.argsort(dim=1, stable=True)[:, :k]
        distances.append(exact.gather(1, order).sqrt() / scale)
        indices.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(indices)


def nearness(queries: Tensor, train: Tensor, *, k: int = NEIGHBOURS) -> Nearness:
    """Return how far the nearest training image of each image stands out from the next ones.

    Args:
        queries: uint8, (m, c, h, w).
        train: uint8, (n, c, h, w), n >= 10.
        k: neighbours of each ratio, >= 2; n / 2 if that is less.

    Returns:
        Ratios, distances and indices of the nearest, and which images are exact copies.

    Raises:
        ConfigError: ``k`` is below 2.
        DataError: too few training images, or images of a wrong type or shape.
    """
    if k < 2:
        raise ConfigError(f"k = {k}; the ratio needs at least 2 neighbours")
    if len(train) < LEAST_TRAIN:
        raise DataError(f"{len(train)} training images; neighbours need at least {LEAST_TRAIN}")
    distances, indices = nearest_neighbours(queries, train, min(k, len(train) // 2))
    first, others = distances[:, 0], distances[:, 1:].mean(1)
    # several equal training images: 0 / 0 is a copy
    ratios = torch.where(first > 0, first / torch.where(first > 0, others, 1.0), 0.0)
    is_exact = torch.zeros(len(queries), dtype=torch.bool)
    for i in first.eq(0).nonzero()[:, 0].tolist():  # large images are equal on average only
        alike = train[indices[i, distances[i] == 0]]
        is_exact[i] = (alike == queries[i]).flatten(1).all(1).any()
    return Nearness(ratios, first, indices[:, 0], is_exact, len(train))


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
        ConfigError: ``k`` is below 2.
        DataError: too few images, or images of a wrong type or shape.
    """
    kept = held_out if isinstance(held_out, Nearness) else nearness(held_out, train, k=k)
    if len(kept.ratios) < LEAST_HELD_OUT or kept.num_train != len(train):
        raise DataError(
            f"{len(kept.ratios)} held-out images against {kept.num_train} training images; give at "
            f"least {LEAST_HELD_OUT} held-out images, measured against the same {len(train)}"
        )
    found = nearness(fake, train, k=k)
    threshold = kept.ratios.quantile(QUANTILE, interpolation="lower").item()
    copied, expected = (int((x.ratios <= threshold).sum()) for x in (found, kept))
    share = copied / len(found.ratios)
    low, high = wilson(share, len(found.ratios))
    near, expected_near = (int((x.ratios <= threshold / 2).sum()) for x in (found, kept))
    sizes = len(found.ratios), len(kept.ratios)
    chance = _chance(copied, sizes[0], expected, sizes[1])
    near_chance = _chance(near, sizes[0], expected_near + 1, sizes[1])
    neighbours = min(k, len(train) // 2)
    small = ", averaged down to 32 pixels" if max(fake.shape[2:]) > SIDE else ""
    return Memorisation(
        share_copied=share,
        expected_share=expected / len(kept.ratios),
        threshold=threshold,
        low=low,
        high=high,
        chance=chance,
        num_near=near,
        expected_near=expected_near,
        near_chance=near_chance,
        num_exact=int(found.is_exact.sum()),
        expected_exact=int(kept.is_exact.sum()),
        is_flagged=min(chance, near_chance) < ALARM / 2,
        num_fake=len(fake),
        num_train=len(train),
        num_held_out=len(kept.ratios),
        indices=found.indices,
        distances=found.distances,
        ratios=found.ratios,
        note=f"distance to the nearest training image over the mean of the next {neighbours - 1}, "
        f"in pixels{small}; threshold: {QUANTILE:.0%} of held-out real images; 95 % interval: "
        "Wilson",
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


def _pixels(images: Tensor) -> Float32[Tensor, "n p"]:
    """Return images as rows of grey levels, averaged down to at most ``SIDE`` pixels a side."""
    height, width = images.shape[2:]
    if max(height, width) <= SIDE:
        return images.flatten(1).float()
    size = min(height, SIDE), min(width, SIDE)
    parts = [
        F.interpolate(part.float(), size, mode="area").flatten(1) for part in images.split(256)
    ]
    return torch.cat(parts)
