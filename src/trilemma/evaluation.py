"""Evaluate a model or a file of samples against real data, by the protocol that the data call for.

Images are compared in the features of a named extractor; stacked digits also by the modes that
they show; points of a mixture by the share near a mode and the modes covered. Every figure says
how many samples entered, of which split, what real data score at the same size, and within which
interval it would lie if the samples were drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data import (
    BundledDigits,
    Data,
    HubImages,
    StackedDigits,
    Table,
    Toy,
    data_from_argument,
)
from trilemma.data.sources import read_arrays
from trilemma.errors import ConfigError, DataError
from trilemma.images import to_uint8
from trilemma.likelihood import (
    Divergence,
    Probe,
    dequantise,
    latent_negative_log_likelihood,
    negative_log_likelihood,
)
from trilemma.methods import LSGM, VAE
from trilemma.methods.base import Method
from trilemma.methods.score import ScoreMatching
from trilemma.methods.vae import LatentMethod
from trilemma.metrics import (
    DigitFeatures,
    FeatureExtractor,
    GaussianStats,
    Record,
    classify,
    divergence_interval,
    evaluate,
    evaluate_table,
    extractor_for,
    extractor_named,
    grid_modes,
    mnist_reference,
    mode_statistics,
    stacked_distribution,
    stacked_numbers,
    wilson,
)
from trilemma.pipeline import Pipeline
from trilemma.rng import SampleRng

__all__ = [
    "LikelihoodResult",
    "check_density",
    "class_counts",
    "evaluate_samples",
    "likelihood",
    "read_npz",
    "reference_data",
]


def read_npz(path: Path | str) -> Tensor:
    """Read ``arr_0``, uint8 (n, h, w, c), as images (n, c, h, w); ``samples`` of a report's cell.

    Raises:
        DataError: if the file is not such an array.
    """
    arrays = read_arrays(path, ["samples", "arr_0"])
    array = arrays["samples" if "samples" in arrays else "arr_0"]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}; samples are uint8 (n, h, w, c)"
        )
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def reference_data(
    where: str, split: str, event_shape: tuple[int, ...], *, card: Mapping[str, Any] | None = None
) -> Data:
    """Open real data in the form that a model was trained on.

    Args:
        where: path, Hub name, toy or table.
        split: name of the split.
        event_shape: shape of the samples.
        card: the model's: border of its pictures, scale of a toy, split and units of a table.

    Raises:
        ConfigError: if the data cannot have that shape.
    """
    data = data_from_argument(where)
    if isinstance(data, HubImages) and len(event_shape) != 3:
        raise ConfigError(f"samples of shape {event_shape} are points; give a toy such as grid25")
    if isinstance(data, HubImages):
        channels, height, width = event_shape
        if height != width:
            raise ConfigError(f"samples of {height} x {width} are not square")
        pad = (card or {}).get("pad", 0)
        inner = height - 2 * pad
        return HubImages(where, split=split, image_size=inner, channels=channels, pad=pad)  # type: ignore[arg-type]
    card = card or {}
    if isinstance(data, Toy) and "scale" in card:
        data = Toy(data.name, num_points=data.num_points, seed=data.seed, scale=card["scale"])
    if isinstance(data, Table) and "table" in card:
        data = Table(where, **card["table"]["settings"])
    data = data.split(split)
    if tuple(data.event_shape) != tuple(event_shape):
        raise ConfigError(f"samples have shape {event_shape}, {where} has {data.event_shape}")
    return data


def evaluate_samples(
    samples: Pipeline | Tensor,
    data: Data,
    num: int,
    *,
    split: str,
    seed: int = 0,
    extractor: str | None = None,
    cached: bool = True,
    progress: Callable[[int], None] | None = None,
    **walk: Any,
) -> list[Record]:
    """Measure samples against real data.

    Data that know the statistics of more images than they hold (``reference_stats``) lend them to
    the Frechet distance; for the bundled digits those are of the 60,000 training digits.

    Args:
        samples: a model to draw from, or images uint8 (n, c, h, w).
        data: real data of the same shape.
        num: samples to use, and real data at most.
        split: name of the real split, for the record.
        seed: of the samples and of random subsets.
        extractor: name of a feature extractor; by default what suits the images.
        cached: whether the features of real images are kept on disk and reused.
        progress: called with the number of samples after each batch.
        walk: further arguments of ``Pipeline.sample``: sampler, num_steps, batch_size, ...

    Returns:
        Records with their protocol.

    Raises:
        ConfigError: if there are fewer samples than asked for.
    """
    total = len(data)  # opens the data: a wrong path must not cost a long sampling first
    if isinstance(samples, Tensor):
        if len(samples) < num:
            raise ConfigError(f"{len(samples)} samples were given, -n {num} asks for more")
        drawn = samples[:num]
    else:
        drawn = samples.sample(num, seed=seed, progress=progress, **walk)
        drawn = to_uint8(drawn) if drawn.dim() == 4 else drawn
    if isinstance(data, Toy):
        return _toy_records(drawn, data, split)
    if isinstance(data, Table):
        train, test = (
            part.fetch(range(len(part))).x0 for part in map(data.split, ("train", "test"))
        )
        about: dict[str, Any] = {
            "target": data.target,
            "names": data.column_names,
            "split": split,
            "seed": seed,
        }
        return evaluate_table(drawn, train, test, data.categories, **about)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    real = data.images_uint8(order[:num])
    left = total - num  # too few of them would show the floor of a smaller set
    rest = data.images_uint8(order[num : 2 * num]) if left >= max(24, num // 2) else None
    network = extractor_named(extractor) if extractor else None
    if isinstance(data, StackedDigits):
        records = _stacked_records(drawn, split)
        if network is None:
            return records
    else:
        records = []
    network = network or extractor_for(drawn)
    shared: dict[str, Any] = {"split": split, "seed": seed, "floor_real": rest, "cached": cached}
    shared["reference"] = _lent(data, network)
    return records + evaluate(drawn, real, network, **shared)


def _lent(data: Data, network: FeatureExtractor) -> GaussianStats | None:
    """Statistics of more images than the data hold, where they are known in these features."""
    if isinstance(data, BundledDigits):
        return mnist_reference().train if isinstance(network, DigitFeatures) else None
    known = getattr(data, "reference_stats", None)
    return None if known is None else known(network)


def class_counts(
    images: Tensor, extractor: FeatureExtractor | str, *, batch_size: int = 64
) -> Tensor | None:
    """Count how many images show each class, by the most probable one.

    The names of the classes are the extractor's ``class_names``, where they are known.

    Args:
        images: uint8 (n, c, h, w).
        extractor: features of a classifier, or their name.
        batch_size: images per forward pass.

    Returns:
        Counts (k), int64; None where the features are not those of a classifier.

    Raises:
        ConfigError: if there is no such extractor.
        DataError: if it cannot read the images.
    """
    network = extractor_named(extractor) if isinstance(extractor, str) else extractor
    probabilities = network.probabilities(images, batch_size=batch_size)
    if probabilities is None:
        return None
    return torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])


@dataclass(frozen=True)
class LikelihoodResult:
    """Negative log-likelihood of a data set, with its statistical error.

    Args:
        nats: per datum (n), float64; for densities in the units of x0.
        bits_per_dim: per datum (n), float64; None for a density of data that are not bytes.
        kind: what kind of number it is.
        nfe: network calls per batch, on average; per draw of the latents where there are any.
        is_density: whether nats are of a density, not of the data themselves.
        is_dequantised: whether noise was spread over the cells of bytes.
        terms: of a latent model: reconstruction and divergence per datum (n), by name.
        num_draws: draws of the latents per datum.
    """

    nats: Tensor
    bits_per_dim: Tensor | None
    kind: str
    nfe: float
    is_density: bool = True
    is_dequantised: bool = False
    terms: dict[str, Tensor] = field(default_factory=dict)
    num_draws: int = 1

    @staticmethod
    def _interval(values: Tensor) -> tuple[float, float]:
        """Mean and half-width of its 95 % confidence interval."""
        spread = float(values.std()) if len(values) > 1 else math.nan
        return float(values.mean()), 1.96 * spread / len(values) ** 0.5

    def lines(self, split: str) -> list[str]:
        """The result in words."""
        mean, error = self._interval(self.nats)
        lines = []
        if self.bits_per_dim is not None:
            bits, bits_error = self._interval(self.bits_per_dim)
            lines.append(f"{bits:.4f} ± {bits_error:.4f} bits per dimension")
        units = ", of a density in the units of the network's data" if self.is_density else ""
        lines.append(f"{mean:.2f} ± {error:.2f} nats per datum{units}")
        if self.terms:
            words = {"reconstruction": "reconstruction", "kl": "KL"}
            terms = {words[name]: self._interval(value) for name, value in self.terms.items()}
            shown = [f"{name} {mean:.2f} ± {error:.2f}" for name, (mean, error) in terms.items()]
            draws = f", means over {self.num_draws} draws" if self.num_draws > 1 else ""
            lines.append(f"{', '.join(shown)} nats per datum{draws}")
        data = "dequantised data" if self.is_dequantised else "data"
        calls = f", {self.nfe:.0f} network calls each" if self.nfe or not self.terms else ""
        if calls and self.num_draws > 1:
            calls += " and per draw"
        lines.append(
            f"{self.kind}; mean and 95 % confidence interval over {len(self.nats)} {data} of the "
            f"{split} split{calls}"
        )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The result as plain numbers."""
        mean, error = self._interval(self.nats)
        found: dict[str, Any] = {"kind": self.kind, "num": len(self.nats), "nfe": self.nfe}
        found |= {"nats": mean, "nats_interval": error}
        if self.bits_per_dim is not None:
            bits, bits_error = self._interval(self.bits_per_dim)
            found |= {"bits_per_dim": bits, "bits_per_dim_interval": bits_error}
        if self.terms:
            found["num_draws"] = self.num_draws
        for name, value in self.terms.items():
            found[name], found[f"{name}_interval"] = self._interval(value)
        return found


def likelihood(
    pipeline: Pipeline,
    data: Data,
    num: int,
    *,
    divergence: Divergence = "hutchinson",
    probe: Probe = "rademacher",
    tolerance: float = 1e-5,
    num_draws: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> LikelihoodResult:
    """Measure the log-likelihood of real data under a model; noise of datum i depends on i alone.

    Latent models give an upper bound, in the law of their decoder.

    Args:
        pipeline: a model with a score, or a variational autoencoder.
        data: real data; images are dequantised, but for latent models.
        num: data to use, at random; all of them if there are fewer.
        divergence: "hutchinson" or "exact".
        probe: law of the probe.
        tolerance: relative and absolute tolerance of the solver.
        num_draws: draws of the latents per datum; more of them tighten the bound.
        seed: of the choice of data, noise and probes.
        batch_size: data per network call.
        progress: called with the number of data after each batch.

    Raises:
        ConfigError: for a model without a score, or several draws of latents that it does not have.
    """
    method = pipeline.method
    check_density(method, num_draws)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:num]
    device = next(method.parameters()).device
    options: dict[str, Any] = {"divergence": divergence, "probe": probe, "probed": "noisy"}
    options |= {"rtol": tolerance, "atol": tolerance}
    if isinstance(method, LSGM):  # a network knows nothing of times before its first
        options["t_min"] = min(method.sampling_t_min, getattr(method.prior, "t_min", 1.0))
    elif isinstance(method, ScoreMatching):
        options["t_min"] = max(method.t_min, 1e-5)
    parts = []
    for chunk in order.split(batch_size):
        rng = SampleRng(seed, chunk.tolist(), device)
        batch = data.fetch(chunk)
        label = None
        if pipeline.num_classes:
            label = None if batch.label is None else batch.label.to(device)
        if isinstance(method, LatentMethod):
            parts.append(_latent_part(method, batch.x0.to(device), label, rng, num_draws, options))
        else:
            images = data.images_uint8(chunk) if len(pipeline.event_shape) == 3 else None
            x0 = batch.x0 if images is None else dequantise(images, rng)
            found = negative_log_likelihood(method.denoiser(label), x0.to(device), rng, **options)
            bits = None if images is None else found.bits_per_dim()
            parts.append(
                LikelihoodResult(
                    found.nats,
                    bits,
                    found.kind,
                    found.nfe,
                    is_dequantised=images is not None,
                )
            )
        if progress is not None:
            progress(len(chunk))
    return _joined(parts)


def check_density(method: Method, num_draws: int = 1) -> None:
    """Refuse a model without a likelihood, or draws of latents that it does not have.

    Args:
        method: of the model.
        num_draws: of the latents, per datum.

    Raises:
        ConfigError: for either.
    """
    innermost = method.prior if isinstance(method, LSGM) else method
    if not isinstance(innermost, ScoreMatching | VAE):
        raise ConfigError(
            f"a likelihood needs a score; {type(innermost).__name__} draws samples and has no "
            "density"
        )
    if num_draws != 1 and not isinstance(method, LatentMethod):
        raise ConfigError(
            f"{num_draws} draws: {type(method).__name__} has no autoencoder, hence no latents to "
            "draw several times; leave it at 1"
        )


def _latent_part(
    method: LatentMethod,
    x0: Tensor,
    label: Tensor | None,
    rng: SampleRng,
    num_draws: int,
    options: dict[str, Any],
) -> LikelihoodResult:
    """Bound of one batch under a latent model."""
    prior = None if isinstance(method, VAE) else method.denoiser(label)
    found = latent_negative_log_likelihood(
        method.autoencoder, prior, x0, rng, num_draws=num_draws, **options
    )
    return LikelihoodResult(
        found.nats,
        found.bits_per_dim,
        found.kind,
        found.nfe,
        is_density=not found.is_discrete,
        terms={"reconstruction": found.reconstruction, "kl": found.kl},
        num_draws=num_draws,
    )


def _joined(parts: list[LikelihoodResult]) -> LikelihoodResult:
    """One result from those of all batches, on the CPU."""
    bits = [part.bits_per_dim.cpu() for part in parts if part.bits_per_dim is not None]
    return replace(
        parts[0],
        nats=torch.cat([part.nats.cpu() for part in parts]),
        bits_per_dim=torch.cat(bits) if bits else None,
        nfe=sum(part.nfe for part in parts) / len(parts),
        terms={k: torch.cat([part.terms[k].cpu() for part in parts]) for k in parts[0].terms},
    )


def _stacked_records(images: Tensor, split: str) -> list[Record]:
    """Modes of 1000 and KL of stacked digits, uint8 (n, 3, h, w)."""
    numbers, law = stacked_numbers(classify(images)), stacked_distribution()
    found = mode_statistics(numbers, 1000, law)
    counts = torch.bincount(numbers, minlength=1000)
    interval = divergence_interval(counts, law, found.mode_kl)
    shared: dict[str, Any] = {
        "num_fake": found.num_samples,
        "num_real": 60_000,
        "split": split,
        "extractor": "digits",
        "weights_sha256": DigitFeatures().weights_sha256,
        "preprocessing": "central 28 x 28 of each channel, classified",
    }
    modes = Record(
        name="num_modes",
        value=found.num_hit,
        lower_is_better=False,
        floor=found.expected_hit,
        most=found.num_modes,
        **shared,
    )
    divergence = Record(
        name="mode_kl",
        value=found.mode_kl,
        lower_is_better=True,
        error=interval.error,
        low=interval.low,
        high=interval.high,
        floor=found.floor,
        note=f"error: bootstrap; {interval.note}",
        **shared,
    )
    return [modes, divergence]


def _toy_records(points: Tensor, data: Toy, split: str) -> list[Record]:
    """Share near a mode, modes covered and their divergence from the mixture's equal shares."""
    points = data.to_data_units(points)
    found = grid_modes(points, data.modes, data.std)
    gaps = torch.cdist(
        points.cpu().double(),
        data.modes.double(),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    nearest = gaps.argmin(1)
    evenness = mode_statistics(nearest, found.num_modes)
    equal = torch.full((found.num_modes,), 1 / found.num_modes, dtype=torch.float64)
    counts = torch.bincount(nearest, minlength=found.num_modes)
    interval = divergence_interval(counts, equal, evenness.mode_kl)
    shared: dict[str, Any] = {
        "num_fake": found.num_samples,
        "num_real": 0,
        "split": split,
        "extractor": "identity",
        "weights_sha256": "",
    }
    near: dict[str, Any] = {
        "preprocessing": "within 3 standard deviations of the nearest mode",
        "lower_is_better": False,
    }
    low, high = wilson(found.high_quality, found.num_samples)
    return [
        Record(
            name="high_quality",
            value=found.high_quality,
            low=low,
            high=high,
            floor=found.expected_quality,
            note="95 % interval: Wilson",
            **near,
            **shared,
        ),
        Record(
            name="num_modes",
            value=found.num_hit,
            floor=found.expected_hit,
            most=found.num_modes,
            **near,
            **shared,
        ),
        Record(
            name="mode_kl",
            value=evenness.mode_kl,
            lower_is_better=True,
            preprocessing="assigned to the nearest mode",
            error=interval.error,
            low=interval.low,
            high=interval.high,
            floor=evenness.floor,
            note=f"error: bootstrap; {interval.note}",
            **shared,
        ),
    ]
