r"""Inception score: are the pictures clear, and are they of many kinds?

With p(y|x) the class probabilities of a picture and p(y) their mean over all pictures,

    IS = exp( E_x KL( p(y|x) || p(y) ) )            (Salimans et al., 2016),

between 1 (all pictures alike to the classifier) and the number of classes (each picture certain,
all classes equally often). The exponent is the mutual information of picture and class, so it is
computed as the entropy of the mean minus the mean entropy, in float64, where 0 ln 0 = 0.

The score never sees a real picture: it does not notice flaws that leave the class readable, nor a
class that shows one picture only. Read it beside its floor, the score of real pictures, which a
model may exceed by drawing the classes more evenly than the data.

Few samples lower p(y)'s entropy and so the score. Published scores are means over ten parts of
5,000 (``splits=10``), a little lower than that of all 50,000 at once.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from trilemma.errors import ConfigError, DataError
from trilemma.metrics.bootstrap import RESAMPLES, Interval, normal_interval, resample_weights
from trilemma.metrics.frechet import check_features

__all__ = ["InceptionScore", "inception_score", "inception_score_interval"]


@dataclass(frozen=True)
class InceptionScore:
    """Inception score, over one or several parts of the samples.

    Attributes:
        mean: mean over the parts, in [1, number of classes].
        std: standard deviation over the parts; NaN for one part.
        num_splits: number of parts.
    """

    mean: float
    std: float
    num_splits: int


def inception_score(probabilities: Tensor, *, splits: int = 1) -> InceptionScore:
    """Return the Inception score of class probabilities.

    Args:
        probabilities: p(y|x) of each sample, (n, k), rows sum to 1.
        splits: parts to cut the samples into, in their order, >= 1; published scores use 10.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ConfigError: no part, or more parts than samples.
        DataError: rows are not probabilities.
        NumericalError: an entry is not finite.

    Source: Salimans et al., 2016, Section 4.
    """
    p = _check(probabilities)
    if not 1 <= splits <= len(p):
        raise ConfigError(f"splits = {splits}; allowed: 1 to the number of samples, {len(p)}")
    whole = torch.ones(1, dtype=torch.float64)
    values = torch.cat(
        [_scores(part, whole.expand(1, len(part))) for part in p.tensor_split(splits)]
    )
    std = values.std().item() if splits > 1 else math.nan
    return InceptionScore(values.mean().item(), std, splits)


def inception_score_interval(
    probabilities: Tensor, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the interval of the score of all samples at once; see ``metrics.bootstrap``.

    Args:
        probabilities: p(y|x) of each sample, (n, k), rows sum to 1.
        resamples: number of repetitions, >= 2.
        seed: of the resampling.

    Returns:
        Normal interval around the score, cut at 1 and k.

    Raises:
        ConfigError: fewer than 2 resamples.
        DataError: rows are not probabilities.
        NumericalError: an entry is not finite.
    """
    p = _check(probabilities)
    rng = torch.Generator().manual_seed(seed)
    scores = _scores(p, resample_weights(len(p), resamples, rng))
    note = f"95 % interval: normal, standard deviation of {resamples} bootstrap resamples"
    value = inception_score(p).mean
    return normal_interval(value, scores.std().item(), note, least=1.0, most=float(p.shape[1]))


def _scores(p: Tensor, weights: Tensor) -> Float64[Tensor, " r"]:
    """Return the score of each weighted set, weights (r, n)."""
    total = weights.sum(1)
    mean = weights @ p / total[:, None]
    clarity = weights @ torch.special.xlogy(p, p).sum(1) / total
    information = clarity - torch.special.xlogy(mean, mean).sum(1)
    return information.clamp_min(0).exp()  # below zero it can only be rounding


def _check(probabilities: Tensor) -> Tensor:
    p = check_features(probabilities, "class probabilities", 1)
    worst = float((p.sum(1) - 1).abs().max())
    if float(p.min()) < 0 or worst > 1e-4:
        raise DataError(
            f"class probabilities reach down to {float(p.min()):.3g} and their rows miss 1 by up to"
            f" {worst:.3g}; take the softmax of the logits first"
        )
    return p
