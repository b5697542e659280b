r"""Fitting features on one's own images: what ``trilemma features`` does.

One network learns three things at once, all through the same 64 numbers:

* the class, by cross-entropy, where there are labels;
* what was done to an image: each is shifted, turned, slanted, scaled, blurred, soiled with noise,
  and changed in contrast and brightness by random amounts, which are regressed;
* the leading principal components of the image as it was.

The second makes the features see flaws that a class does not depend on; the third keeps the
content, so that missing kinds of images are seen even where nobody named them.

How good such features are cannot be read off an accuracy. The *card* therefore measures what they
are for: the Frechet distance of real images to other real images, its floor, and of images with
known flaws. Features that put blurred images near the floor must not judge sharpness.

A share of the images is held out of the fit; accuracy and regressions are measured on it.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.checkpoints.store import write
from trilemma.data import Data
from trilemma.errors import ConfigError, DataError, NumericalError
from trilemma.images import to_uint8
from trilemma.metrics import FeatureExtractor, frechet_distance, gaussian_stats
from trilemma.metrics.fitted import KIND, MIN_SIDE, FeatureNet, average_down, check_name

__all__ = [
    "DISTURBANCES",
    "LEAST_IMAGES",
    "FeatureFit",
    "FitProgress",
    "LabelledImages",
    "check_budget",
    "disturb",
    "fit_features",
    "read_labelled",
    "save_features",
    "sensitivity",
]

DISTURBANCES = (
    "shift_x",
    "shift_y",
    "rotation",
    "slant",
    "scale",
    "blur",
    "noise",
    "contrast",
    "brightness",
)
"""What is done to the images of a fit, and regressed."""
LEAST_IMAGES, MOST_IMAGES = 200, 100_000
EMPHASIS = ("blur", "noise")  # the commonest flaws, and the hardest to regress
SIDE_WEIGHT = 0.5
COMPONENTS = 32
HELD_OUT = 0.1
MOST_HELD_OUT = 5000
CARD_IMAGES = 2000


class LabelledImages(NamedTuple):
    """Images of one size and their classes.

    Attributes:
        images: uint8, (n, c, s, s), s at most 64.
        labels: int64, (n), or None.
        class_names: one a class; () without labels.
    """

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]


class FitProgress(NamedTuple):
    """How far a fit has come.

    Attributes:
        images: images seen.
        total: images to see.
        seconds: since the start.
        accuracy: on the images held out; None without labels.
        explained: share of the variance of the disturbances that is regressed, mean over them.
    """

    images: int
    total: int
    seconds: float
    accuracy: float | None
    explained: float


@dataclass(frozen=True)
class FeatureFit:
    """Fitted features, and what they are worth.

    Attributes:
        network: in evaluation mode, its features balanced on all images.
        class_names: () without labels.
        num_images: images in all.
        num_held_out: how many of them the fit did not see.
        accuracy: on the images held out; None without labels.
        regressions: explained share of the variance of each disturbance, held out.
        card: Frechet distances for known flaws, by ``sensitivity``.
        card_images: images on either side of each distance.
        budget: images seen during the fit.
        seed: of the fit.
    """

    network: FeatureNet
    class_names: tuple[str, ...]
    num_images: int
    num_held_out: int
    accuracy: float | None
    regressions: dict[str, float]
    card: dict[str, float]
    card_images: int
    budget: int
    seed: int


def read_labelled(data: Data, *, limit: int = MOST_IMAGES, seed: int = 0) -> LabelledImages:
    """Read images and labels into memory, averaged down to 64 pixels where they are larger.

    Args:
        data: pictures of one square size.
        limit: a random choice of so many is read where there are more.
        seed: of that choice.

    Returns:
        The images and their labels.

    Raises:
        ConfigError: the data are no pictures, not square, or smaller than 16 pixels.
        DataError: there are fewer than 200 images, or they show one class.
    """
    shape = tuple(data.event_shape)
    if len(shape) != 3:
        raise ConfigError(
            f"{data!r} has examples of shape {shape}; features are fitted on pictures: points and "
            "tables are judged without"
        )
    if shape[1] != shape[2] or shape[1] < MIN_SIDE:
        raise ConfigError(
            f"{data!r} has pictures of {shape[1]} x {shape[2]} pixels; features need squares of at "
            f"least {MIN_SIDE}: add --data.image_size N"
        )
    _check_number(len(data))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    images, labels = [], []
    for chunk in order[:limit].sort()[0].split(256):
        batch = data.fetch(chunk)
        images.append(average_down(to_uint8(batch.x0)))
        labels.append(batch.label)
    found = None if labels[0] is None else torch.cat([x for x in labels if x is not None])
    if found is not None:
        _check_classes(found)
    names = data.class_names if found is not None else ()
    return LabelledImages(torch.cat(images), found, names)


def fit_features(
    data: LabelledImages,
    *,
    budget: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    report: Callable[[FitProgress], None] | None = None,
) -> FeatureFit:
    """Fit a feature network on the CPU; the same seed gives the same weights on one machine.

    Args:
        data: at least 200 images, with labels of at least two classes or without labels.
        budget: images to see; by default 40 times their number, but from 60,000 to 240,000, and to
            120,000 above 32 pixels.
        batch_size: images per step.
        seed: of weights, order, disturbances and of the images held out.
        report: called about twelve times, first after a twentieth of the budget.

    Returns:
        The network, and what it is worth.

    Raises:
        ConfigError: ``budget`` or ``batch_size`` is out of range.
        DataError: too few images, or one class.
        NumericalError: the weights are not finite after the fit.
    """
    images, labels = data.images, data.labels
    _check_number(len(images))
    if labels is not None:
        _check_classes(labels)
    check_budget(budget, batch_size)
    if budget is None:
        budget = min(max(40 * len(images), 60_000), 240_000 if images.shape[-1] <= 32 else 120_000)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=rng)
    num_held_out = min(int(HELD_OUT * len(images)), MOST_HELD_OUT)
    held_out, kept = order[:num_held_out], order[num_held_out:]
    num_classes = 0 if labels is None else max(int(labels.max()) + 1, len(data.class_names))
    channels, side = images.shape[1], images.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureNet(channels, side, num_classes)
        heads = nn.Linear(net.dim, len(DISTURBANCES)), nn.Linear(net.dim, COMPONENTS)
    for parameter in net.parameters():
        if parameter.dim() == 4:  # faster by a fifth
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    content = _content(images)
    weights = torch.tensor([3.0 if name in EMPHASIS else 1.0 for name in DISTURBANCES])
    weights = weights / len(weights)
    optimiser, schedule = _optimiser([net, *heads], budget // batch_size)
    marks = {budget // batch_size * k // 20 for k in (1, 2, 3, *range(4, 20, 2))}
    start = time.monotonic()
    for step, index in enumerate(_batches(kept, budget // batch_size, batch_size, rng)):
        clean = images[index].float() / 255
        batch, done = disturb(clean, rng)
        calm = batch_size // 2 if step * 6 >= 5 * (budget // batch_size) else batch_size // 4
        batch, done[:calm] = torch.cat([clean[:calm], batch[calm:]]), 0.0
        hidden = net.hidden(batch)
        wrong = (heads[0](hidden) - done).square().mean(0)
        loss = (wrong * weights).sum() + F.mse_loss(heads[1](hidden), content[index])
        if labels is not None:
            classes = F.cross_entropy(net.logits(hidden), labels[index], label_smoothing=0.03)
            loss = classes + SIDE_WEIGHT * loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if report is not None and step + 1 in marks:
            accuracy, explained = _held_out(net, heads[0], data, held_out[:1000], seed)
            mean = sum(explained.values()) / len(explained)
            seen = (step + 1) * batch_size
            report(FitProgress(seen, budget, time.monotonic() - start, accuracy, mean))
    if not all(torch.isfinite(p).all() for p in net.parameters()):
        raise NumericalError("the weights of the features are not finite after the fit")
    net.eval().requires_grad_(False)
    _balance(net, images)
    accuracy, explained = _held_out(net, heads[0], data, held_out, seed)
    card, card_images = sensitivity(_features_of(net), images, labels, seed=seed)
    return FeatureFit(
        net,
        data.class_names,
        len(images),
        num_held_out,
        accuracy,
        explained,
        card,
        card_images,
        budget,
        seed,
    )


def check_budget(budget: int | None, batch_size: int) -> None:
    """Refuse a fit of less than one step, or batches too small for batch norm.

    Args:
        budget: images to see; None for the default.
        batch_size: images per step.

    Raises:
        ConfigError: naming both numbers.
    """
    if batch_size < 8 or (budget is not None and budget < batch_size):
        raise ConfigError(
            f"budget = {budget}, batch_size = {batch_size}; allowed: batches of at least 8, and a "
            "budget of at least one batch"
        )


def save_features(
    path: Path | str, fit: FeatureFit, name: str, *, data: str = "", version: str = ""
) -> None:
    """Write fitted features to a file that ``metrics.FittedFeatures`` reads.

    Args:
        path: file to write, ``*.safetensors``.
        fit: what ``fit_features`` returned.
        name: of the features; the metric is called ``fd_<name>``.
        data: what the images are called, for the header.
        version: of this package, for the header.

    Raises:
        ConfigError: the name is not allowed.
        WriteError: the file cannot be written.
    """
    net = fit.network
    shape = {
        "channels": net.channels,
        "side": net.side,
        "num_classes": net.num_classes,
        "dim": net.dim,
    }
    header: dict[str, Any] = {
        "name": check_name(name),
        "network": shape,
        "class_names": list(fit.class_names),
        "data": data,
        "num_images": fit.num_images,
        "num_held_out": fit.num_held_out,
        "accuracy": fit.accuracy,
        "regressions": fit.regressions,
        "card": fit.card,
        "card_images": fit.card_images,
        "budget": fit.budget,
        "seed": fit.seed,
        "version": version,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    write(path, KIND, net.state_dict(), header)


def disturb(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move, turn, slant, scale, blur, soil, stretch and brighten images by random amounts.

    Args:
        images: in [0, 1], (n, c, s, s).
        rng: source of the amounts and of the noise.

    Returns:
        The images, and what was done in the order of ``DISTURBANCES``, (n, 9): amounts in [-1, 1],
        of blur and noise in [0, 2], half of which are 0; half of the images are not moved.
    """
    draw = torch.rand(len(images), len(DISTURBANCES), generator=rng) * 2 - 1
    draw[:, 5:7] = 2 * draw[:, 5:7].clamp_min(0)
    still = torch.rand(len(images), generator=rng) < 0.5
    draw[still, :5] = 0.0
    shift, angle, slant = draw[:, :2] / 7, 0.2 * draw[:, 2], 0.2 * draw[:, 3]
    cos, sin, scale = angle.cos(), angle.sin(), (0.15 * draw[:, 4]).exp()
    rows = [torch.stack([cos * scale, (slant - sin) * scale, shift[:, 0]], 1)]
    rows.append(torch.stack([sin * scale, cos * scale, shift[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    moved = torch.where(still[:, None, None, None], images, moved)
    blur, noise, contrast, brightness = draw[:, 5:, None, None, None].unbind(1)
    moved = _blurred(moved, blur)
    mean = moved.mean((2, 3), keepdim=True)
    moved = mean + (moved - mean) * (0.3 * contrast).exp() + 0.15 * brightness
    dirt = 0.05 * noise.square() * torch.randn(moved.shape, generator=rng)
    return (moved + dirt).clamp(0, 1), draw


def sensitivity(
    extractor: FeatureExtractor | Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor | None = None,
    *,
    most: int = CARD_IMAGES,
    seed: int = 0,
) -> tuple[dict[str, float], int]:
    """Measure how far a Frechet distance moves for known flaws: the card of the features.

    One random half of the images is the reference; the other half is compared with it as it is
    (the floor), blurred by a Gaussian of 1 pixel, with Gaussian noise of 0.05 of the range, with 16
    of its images repeated; and the reference is compared with images of the largest class alone.

    Args:
        extractor: features of uint8 images.
        images: real ones, uint8, (n, c, s, s).
        labels: their classes, (n); without them the line of the largest class is left out.
        most: images on either side at most.
        seed: of the choice of images and of the noise.

    Returns:
        Distances by name, and the number of images on either side.
    """
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=rng)
    num = min(len(images) // 2, most)
    real, other = images[order[:num]], images[order[num : 2 * num]]
    soft = _gaussian(other.float())
    dirty = other.float() + 255 * 0.05 * torch.randn(other.shape, generator=rng)
    sets = {
        "real": other,
        "blur": soft.round().to(torch.uint8),
        "noise": dirty.round().clamp(0, 255).to(torch.uint8),
    }
    if labels is not None:
        rest = order[num:]
        sets["one_class"] = images[rest[labels[rest] == labels.bincount().argmax()][:num]]
    sets["repeats"] = other[:16].repeat(-(-num // 16), 1, 1, 1)[:num]
    reference = gaussian_stats(extractor(real))
    return {
        name: frechet_distance(gaussian_stats(extractor(part)), reference)
        for name, part in sets.items()
    }, num


def _features_of(net: FeatureNet) -> Callable[[Tensor], Tensor]:
    """Features of a network that is in no file yet."""

    def extract(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([net.features(part.float() / 255) for part in images.split(256)])

    return extract


def _gaussian(images: Tensor) -> Tensor:
    """Blur by a Gaussian of standard deviation 1 pixel, cut at 4; edges are continued."""
    place = torch.arange(-4, 5, dtype=images.dtype)
    kernel = (-place.square() / 2).exp()
    kernel = kernel / kernel.sum()
    flat = F.pad(images, (4, 4, 4, 4), mode="replicate").flatten(0, 1)[:, None]
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, 9)), kernel.view(1, 1, 9, 1))
    return flat.view_as(images)


def _blurred(images: Tensor, amount: Tensor) -> Tensor:
    """Blur each image by an amount in [0, 2]: from none over 1 to about 1.4 pixels."""
    once = _softened(_softened(images))
    twice = _softened(_softened(once))
    weak = torch.lerp(images, once, amount.clamp_max(1))
    return torch.where(amount > 1, torch.lerp(once, twice, amount - 1), weak)


def _softened(images: Tensor) -> Tensor:
    """Apply the filter (1, 2, 1) / 4 in both directions: variance 1/2 pixel^2."""
    x = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = (x[..., 2:] + 2 * x[..., 1:-1] + x[..., :-2]) / 4
    return (x[..., 2:, :] + 2 * x[..., 1:-1, :] + x[..., :-2, :]) / 4


def _content(images: Tensor) -> Tensor:
    """Leading principal components of the images at 16 pixels, (n, 32), of variance 1 or 0."""
    small = torch.cat(
        [F.interpolate(part.float(), (16, 16), mode="area") for part in images.split(1024)]
    ).flatten(1)
    small -= small.mean(0)
    scatter = (small.mT @ small).double()
    values, vectors = torch.linalg.eigh(scatter)
    rounding = values[-1] * len(values) * torch.finfo(small.dtype).eps
    scale = torch.where(values > rounding, len(small) / values, 0.0).sqrt()
    return small @ (vectors * scale)[:, -COMPONENTS:].flip(1).float()


def _optimiser(
    parts: Sequence[nn.Module], num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    params = [p for part in parts for p in part.parameters()]
    optimiser = torch.optim.AdamW(params, lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=num_steps + 1)
    return optimiser, schedule


def _batches(
    kept: Tensor, num_steps: int, batch_size: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Yield whole batches of random permutations, one after the other."""
    waiting = kept[:0]
    for _ in range(num_steps):
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, kept[torch.randperm(len(kept), generator=rng)]])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


@torch.no_grad()
def _held_out(
    net: FeatureNet, head: nn.Module, data: LabelledImages, index: Tensor, seed: int
) -> tuple[float | None, dict[str, float]]:
    """Accuracy and explained disturbances on images held out; the network's mode is kept."""
    was_training = net.training
    net.eval()
    rng = torch.Generator().manual_seed(seed + 1)
    hits, errors, spreads = 0.0, 0.0, []
    for part in index.split(256):
        clean = data.images[part].float() / 255
        if data.labels is not None:
            found = net.logits(net.hidden(clean)).argmax(1)
            hits += float((found == data.labels[part]).sum())
        moved, done = disturb(clean, rng)
        errors = errors + (head(net.hidden(moved)) - done).square().sum(0)
        spreads.append(done)
    net.train(was_training)
    all_done = torch.cat(spreads)
    share = 1 - errors / (all_done - all_done.mean(0)).square().sum(0)
    accuracy = None if data.labels is None else hits / len(index)
    return accuracy, dict(zip(DISTURBANCES, share.tolist(), strict=True))


@torch.no_grad()
def _balance(net: FeatureNet, images: Tensor) -> None:
    """Set centre and matrix so that the images' features have mean 0 and covariance C^{1/2}."""
    hidden = torch.cat([net.hidden(part.float() / 255) for part in images.split(256)])
    found = gaussian_stats(hidden)
    spread = found.cov.diagonal().sqrt()
    if not bool((spread > 0).all()):
        raise DataError("the images are too alike: a fitted feature is constant on them")
    values, vectors = torch.linalg.eigh(found.cov / spread / spread[:, None])
    if not values[0] > len(values) * torch.finfo(hidden.dtype).eps * values[-1]:
        raise DataError(
            "the images are too alike: the fitted features lack full rank; give images that differ"
        )
    net.center.copy_(found.mean)
    net.balance.copy_((vectors * values**-0.25) @ vectors.mT / spread[:, None])


def _check_number(number: int) -> None:
    if number < LEAST_IMAGES:
        raise DataError(
            f"{number} images are too few to fit features on; give at least {LEAST_IMAGES}, or "
            "judge with --extractor efflite0"
        )


def _check_classes(labels: Tensor) -> None:
    if len(labels.unique()) < 2:
        raise DataError(
            "all images have one class; give labelled images of several classes, or fit without "
            "labels: --data.label_column none"
        )
