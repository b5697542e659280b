r"""How far the nearest training image of an image stands out from the next ones.

The nearest training image of a copy is much nearer than its other neighbours. The nearest of a new
image is only a little nearer than they are. So an image x is judged by a ratio,

    r(x) = d_1(x) / mean(d_2(x), ..., d_k(x)),

d_j its distance to the j-th nearest training image. Copies lie near 0, whether exact or noisy, and
new images somewhat below 1. The distance d_1 alone would accuse the wrong ones: pale, blurred or
simple images are near everything, and detailed ones are far even from their copies.

The ratio is taken twice, and the smaller one counts. *In pixels* it sees copies where they are. *In
outline* it sees those that were moved, mirrored, made brighter or paler as well: with the discrete
Fourier transform F of each channel at frequencies f = (u, v), and f' = (-u, v),

    a(f) = |F(f)|,    outline = (a(f) + a(f'), |a(f) - a(f')|) / length,

without f = 0 and divided by its length over all channels. A shift changes phases alone, a mirror
exchanges f and f', brightness is F(0), contrast the length. A shift is a cyclic one here: exact
where the border is of one colour, near enough where little leaves the picture. An image of one
colour has no outline.

Images larger than 32 pixels are first averaged down to 32, which keeps copies together and noise
out. Distances in pixels are root mean squares over pixels and channels, in grey levels of 0 to 255,
so that a copy with noise of standard deviation 8 lies at distance 8. Candidates are found by a
float32 matrix product and then measured by differences, so exact copies are at distance 0. Of large
images that are, all bytes are compared.

Sources: the ratio to the mean of the 50 nearest is that of Carlini et al., 2023, one to the second
nearest that of Yoon et al., 2023; outlines are ours, by the shift theorem.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from trilemma.errors import ConfigError, DataError

__all__ = ["NEIGHBOURS", "SIDE", "Nearness", "nearest_neighbours", "nearness"]

SIDE = 32
NEIGHBOURS = 50
LEAST_TRAIN = 10
LEAST_LENGTH = 0.5
"""Grey levels; less is an image of one colour: one level more in one pixel makes a length of 1."""
SPARE = 4
BLOCK_NUMBERS = 16_000_000
BLOCK_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Nearness:
    """Nearest training images, and how far they stand out from the next.

    Attributes:
        ratios: distance of the nearest over the mean of the next, in pixels or in outline,
            whichever is less, (m), float64, in [0, 1].
        indices: of the nearest among the training images, so measured, (m), int64.
        distances: to it, root mean square over pixels, (m), float64, grey levels.
        is_exact: whether an image equals a training image in every byte, (m), bool.
        num_train: training images that were searched.
        num_neighbours: k of the ratios.
    """

    ratios: Float64[Tensor, " m"]
    indices: Int64[Tensor, " m"]
    distances: Float64[Tensor, " m"]
    is_exact: Bool[Tensor, " m"]
    num_train: int
    num_neighbours: int


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
    _check(queries, train)
    if not 1 <= k <= len(train):
        raise ConfigError(f"k = {k}; allowed: 1 to the number of training images, {len(train)}")
    rows = _pixels(train)
    distances, indices = _search(_pixels(queries), rows, k)
    return distances / math.sqrt(rows.shape[1]), indices


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
    _check(queries, train)
    k = min(k, len(train) // 2)
    near, candidates = nearest_neighbours(queries, train, k)
    ratios, indices = _ratios(near), candidates[:, 0]
    outlines, rows = _outlines(queries), _outlines(train)
    found, others = _search(outlines, rows, k)
    # an image of one colour has no outline to copy
    moved = torch.where(outlines.any(1), _ratios(found), 1.0)
    is_moved = moved < ratios
    ratios, indices = ratios.where(~is_moved, moved), indices.where(~is_moved, others[:, 0])
    is_exact = torch.zeros(len(queries), dtype=torch.bool)
    for i in near[:, 0].eq(0).nonzero()[:, 0].tolist():  # large images are equal on average only
        alike = train[candidates[i, near[i] == 0]]
        is_exact[i] = (alike == queries[i]).flatten(1).all(1).any()
    distances = torch.cat(
        [
            (_pixels(part) - _pixels(train[chosen])).double().square().mean(1).sqrt()
            for part, chosen in zip(
                queries.split(BLOCK_IMAGES), indices.split(BLOCK_IMAGES), strict=True
            )
        ]
    )
    return Nearness(ratios, indices, distances, is_exact, len(train), k)


def _check(queries: Tensor, train: Tensor) -> None:
    """Raise ``DataError`` unless both are uint8 images of one shape."""
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


def _ratios(distances: Float64[Tensor, "m k"]) -> Float64[Tensor, " m"]:
    """Return the first distance over the mean of the others."""
    first, others = distances[:, 0], distances[:, 1:].mean(1)
    # several equal training images: 0 / 0 is a copy
    return torch.where(first > 0, first / torch.where(first > 0, others, 1.0), 0.0)


def _search(
    y: Float32[Tensor, "m p"], x: Float32[Tensor, "n p"], k: int
) -> tuple[Float64[Tensor, "m k"], Int64[Tensor, "m k"]]:
    """Return distances and indices of the ``k`` rows of ``x`` nearest to each row of ``y``."""
    centre = x.mean(0)
    squares = (x - centre).square().sum(1)
    base = (x - centre).mT.contiguous()
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
        distances.append(exact.gather(1, order).sqrt())
        indices.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(indices)


def _pixels(images: Tensor) -> Float32[Tensor, "n p"]:
    """Return images as rows of grey levels, averaged down to at most ``SIDE`` pixels a side."""
    return _small(images).flatten(1)


def _small(images: Tensor) -> Float32[Tensor, "n c h w"]:
    """Return grey levels, averaged down to at most ``SIDE`` pixels a side."""
    height, width = images.shape[2:]
    if max(height, width) <= SIDE:
        return images.float()
    size = min(height, SIDE), min(width, SIDE)
    parts = images.split(BLOCK_IMAGES)
    return torch.cat([F.interpolate(part.float(), size, mode="area") for part in parts])


def _outlines(images: Tensor) -> Float32[Tensor, "n p"]:
    """Return rows of length 1 that shifts, mirrors, brightness and contrast leave, or zeros.

    Of real images a(-u, -v) = a(u, v), so that sums and differences of a mirrored pair are even in
    u and in v: a quarter of the frequencies holds them all.
    """
    rows = []
    for part in images.split(BLOCK_IMAGES):
        small = _small(part)
        amplitudes = torch.fft.rfft2(
            small - small.mean((2, 3), keepdim=True), norm="ortho"
        ).abs()  # (u, v >= 0) of height and width
        mirrored = amplitudes.flip(-2).roll(1, -2)
        half = slice(amplitudes.shape[-2] // 2 + 1)
        pair = torch.stack([amplitudes + mirrored, (amplitudes - mirrored).abs()])[..., half, :]
        pair[..., 0, 0] = 0.0  # what rounding leaves of the mean
        flat = pair.transpose(0, 1).flatten(1)
        length = flat.norm(dim=1, keepdim=True)
        rows.append(torch.where(length > LEAST_LENGTH, flat / length, 0.0))
    return torch.cat(rows)
