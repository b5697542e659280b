r"""What a decoder says about the data: a law p(x | z) for every number of a datum.

A decoder's raw output, its *parameters*, becomes a ``Likelihood``, which gives the log-probability
of data (nats, summed over a datum), its mean and samples. Images lie in [-1, 1] as everywhere.

==================  ======================================  ==============================
name                law of one number                       parameters per channel
==================  ======================================  ==============================
bernoulli           +1 with probability sigmoid(l), else -1  l
logistic            logistic, integrated over a byte's cell  mean, log scale
logistic_mixture    10 of these, colours in sequence         10 + 20, or 100 for 3 colours
normal              N(m, e^{2 s}), a density                 m, s, each 5 tanh(. / 5)
laplace             Laplace, a density                       m, log scale
categorical         levels of a grey value, softmax          one logit per level
==================  ======================================  ==============================

The mass of a logistic law in the cell [a, b] needs no special case where it vanishes,

.. math:: \log\big(\sigma(b) - \sigma(a)\big)
          = \log\sigma(b) + \log\sigma(-a) + \log\big(1 - e^{a - b}\big),

and the outermost cells reach to infinity (Salimans et al.: PixelCNN++, 2017, section 2.1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.errors import ConfigError, nearest
from trilemma.rng import Rng
from trilemma.typing import Event

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "Laplace",
    "Likelihood",
    "Logistic",
    "LogisticMixture",
    "NormalLikelihood",
    "likelihood_named",
]

MIN_LOG_SCALE = -7.0
NUM_COMPONENTS = 10


class Likelihood(ABC):
    """The law p(x | z) of a batch of data."""

    is_discrete: ClassVar[bool]
    """Whether log-probabilities are of the data themselves, not densities."""

    @abstractmethod
    def log_prob(self, x: Event) -> Tensor:
        """Log-probability (b) of data (b, *event), nats."""

    @property
    @abstractmethod
    def mean(self) -> Event:
        """Mean of the data (b, *event)."""

    @abstractmethod
    def sample(self, rng: Rng) -> Event:
        """Draw data (b, *event)."""

    def num_dims(self, x: Event) -> int:
        """Numbers of a datum that ``log_prob`` speaks of; all by default."""
        return x[0].numel()


class ImageLikelihood(Likelihood):
    """A law of images, built from the parameters (b, p, h, w) of a decoder.

    Args:
        parameters: raw output of the decoder.
        bits: depth of the images, for laws of integrated cells.
    """

    def __init__(self, parameters: Tensor, bits: int = 8) -> None:
        self.parameters, self.levels = full_precision(parameters), 2**bits

    @classmethod
    def num_parameters(cls, channels: int, bits: int = 8) -> int:
        """Output channels that a decoder of so many image channels and bits needs."""
        return 2 * channels

    def log_prob(self, x: Event) -> Tensor:
        """Sum of the log-probabilities of all numbers."""
        return self.log_probs(x).flatten(1).sum(1)

    @abstractmethod
    def log_probs(self, x: Event) -> Tensor:
        """Log-probability of every number (b, c, h, w), or of every pixel (b, h, w)."""


class Bernoulli(ImageLikelihood):
    """Black and white: x = +1 with probability sigmoid(l), else -1."""

    is_discrete = True

    @classmethod
    def num_parameters(cls, channels: int, bits: int = 8) -> int:
        """One logit."""
        return channels

    def log_probs(self, x: Event) -> Tensor:
        """Log sigmoid(x l)."""
        return F.logsigmoid(x * self.parameters)

    @property
    def mean(self) -> Event:
        """2 sigmoid(l) - 1."""
        return torch.tanh(self.parameters / 2)

    def sample(self, rng: Rng) -> Event:
        """Draw +1 or -1."""
        draw = torch.special.ndtr(rng.normal(*self.parameters.shape[1:])).to(self.parameters)
        return torch.where(draw < self.parameters.sigmoid(), 1.0, -1.0)


class _LocationScale(ImageLikelihood):
    """A mean and a log scale for every number."""

    @property
    def location(self) -> Tensor:
        """First half of the parameters."""
        return self.parameters.chunk(2, dim=1)[0]

    @property
    def log_scale(self) -> Tensor:
        """Second half of the parameters, bounded below."""
        return self.parameters.chunk(2, dim=1)[1].clamp(min=MIN_LOG_SCALE)

    @property
    def mean(self) -> Event:
        """The location, within [-1, 1]."""
        return self.location.clamp(-1, 1)


def log_cell(x: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log of a logistic law's mass in the cells around x, of width 2 / (levels - 1)."""
    rate, half = torch.exp(-log_scale), 1 / (levels - 1)
    above, below = rate * (x - location + half), rate * (x - location - half)
    lower = torch.where(x > 1 - half, 0.0, F.logsigmoid(above))
    upper = torch.where(x < half - 1, 0.0, F.logsigmoid(-below))
    both = torch.log(-torch.expm1(-2 * half * rate))
    return lower + upper + torch.where(x.abs() > 1 - half, 0.0, both)


class Logistic(_LocationScale):
    """A discretised logistic law for every number."""

    is_discrete = True

    def log_probs(self, x: Event) -> Tensor:
        """Log of the mass in the cell of x."""
        return log_cell(x, self.location, self.log_scale, self.levels)

    def sample(self, rng: Rng) -> Event:
        """Draw, round to a level and clip."""
        share = torch.special.ndtr(rng.normal(*self.location.shape[1:]).double())
        drawn = self.location + self.log_scale.exp() * torch.logit(share).to(self.location)
        return _to_level(drawn, self.levels)


class NormalLikelihood(_LocationScale):
    """A normal density for every number; location and log scale are bounded by 5 tanh(. / 5)."""

    is_discrete = False

    @property
    def location(self) -> Tensor:
        """5 tanh(m / 5)."""
        return soft_clamp(self.parameters.chunk(2, dim=1)[0])

    @property
    def log_scale(self) -> Tensor:
        """5 tanh(s / 5)."""
        return soft_clamp(self.parameters.chunk(2, dim=1)[1])

    def log_probs(self, x: Event) -> Tensor:
        """Log-density."""
        standard = (x - self.location) * torch.exp(-self.log_scale)
        return -standard.square() / 2 - self.log_scale - math.log(2 * math.pi) / 2

    def sample(self, rng: Rng) -> Event:
        """Draw and clip to [-1, 1]."""
        noise = rng.normal(*self.location.shape[1:]).to(self.location)
        return (self.location + self.log_scale.exp() * noise).clamp(-1, 1)


class Laplace(_LocationScale):
    """A Laplace density for every number: an L1 distance with a learnt scale."""

    is_discrete = False

    def log_probs(self, x: Event) -> Tensor:
        """Log-density."""
        distance = (x - self.location).abs() * torch.exp(-self.log_scale)
        return -distance - self.log_scale - math.log(2)

    def sample(self, rng: Rng) -> Event:
        """Draw and clip to [-1, 1]."""
        share = torch.special.ndtr(rng.normal(*self.location.shape[1:]).double()) - 0.5
        offset = -share.sign() * torch.log1p(-2 * share.abs())
        return (self.location + self.log_scale.exp() * offset.to(self.location)).clamp(-1, 1)


class LogisticMixture(ImageLikelihood):
    """A mixture of discretised logistic laws; later colours depend on earlier ones.

    For three colours the parameters are 10 logits, then for each colour 10 means, 10 log scales
    and 10 coefficients c; the means of green are m_g + c_1 r, those of blue m_b + c_2 r + c_3 g.
    """

    is_discrete = True

    def __init__(self, parameters: Tensor, bits: int = 8) -> None:
        super().__init__(parameters, bits)
        logits, rest = self.parameters.split(
            [NUM_COMPONENTS, parameters.shape[1] - NUM_COMPONENTS], dim=1
        )
        kinds = 3 if parameters.shape[1] == self.num_parameters(3) else 2
        per_channel = rest.unflatten(1, (-1, kinds, NUM_COMPONENTS))
        self.log_weights = logits.log_softmax(1)
        self.locations = per_channel[:, :, 0]
        self.log_scales = per_channel[:, :, 1].clamp(min=MIN_LOG_SCALE)
        self.coefficients = per_channel[:, :, 2].tanh() if kinds == 3 else None

    @classmethod
    def num_parameters(cls, channels: int, bits: int = 8) -> int:
        """Of grey or colour images."""
        if channels not in (1, 3):
            raise ConfigError(f"logistic_mixture takes 1 or 3 channels, got {channels}")
        return NUM_COMPONENTS * (3 if channels == 1 else 10)

    def _conditional(self, x: Event) -> Tensor:
        """Means (b, c, components, h, w) given the earlier colours of x."""
        if self.coefficients is None:
            return self.locations
        red, green, blue = self.locations.unbind(1)
        first, second, third = self.coefficients.unbind(1)
        r, g = x[:, :1], x[:, 1:2]
        return torch.stack([red, green + first * r, blue + second * r + third * g], dim=1)

    def log_probs(self, x: Event) -> Tensor:
        """Log-probability of every pixel (b, h, w)."""
        cells = log_cell(x[:, :, None], self._conditional(x), self.log_scales, self.levels)
        return torch.logsumexp(cells.sum(1) + self.log_weights, dim=1)

    def _chain(self, weights: Tensor, numbers: Tensor, finish: Callable[[Tensor], Tensor]) -> Event:
        """Colours in sequence, each finished, from one number per component and channel."""
        values = (weights[:, None] * numbers).sum(2)
        if self.coefficients is None:
            return finish(values)
        first, second, third = (weights[:, None] * self.coefficients).sum(2).unbind(1)
        red = finish(values[:, 0])
        green = finish(values[:, 1] + first * red)
        blue = finish(values[:, 2] + second * red + third * green)
        return torch.stack([red, green, blue], dim=1)

    @property
    def mean(self) -> Event:
        """Weighted means, each colour given the means of the earlier ones."""
        return self._chain(self.log_weights.exp(), self.locations, lambda x: x.clamp(-1, 1))

    def sample(self, rng: Rng) -> Event:
        """Draw a component for every pixel, then the colours, rounded to a level."""
        event = self.log_weights.shape[1:]
        gumbel = -torch.log(-torch.special.log_ndtr(rng.normal(*event).double()))
        chosen = (self.log_weights + gumbel.to(self.log_weights)).argmax(1)
        weights = F.one_hot(chosen, NUM_COMPONENTS).movedim(-1, 1).to(self.log_weights)
        share = torch.special.ndtr(rng.normal(*self.locations.shape[1:]).double())
        noise = torch.logit(share).to(self.locations)
        numbers = self.locations + self.log_scales.exp() * noise
        return self._chain(weights, numbers, lambda x: _to_level(x, self.levels))


class Categorical(ImageLikelihood):
    """A free probability for each of 2^bits grey values."""

    is_discrete = True

    def __init__(self, parameters: Tensor, bits: int = 8) -> None:
        super().__init__(parameters, bits)
        self.log_weights = self.parameters.unflatten(1, (-1, self.levels)).log_softmax(2)

    @classmethod
    def num_parameters(cls, channels: int, bits: int = 8) -> int:
        """One logit per level."""
        return channels * 2**bits

    def log_probs(self, x: Event) -> Tensor:
        """Log-probability of the level of x."""
        level = ((x + 1) / 2 * (self.levels - 1)).round().long()
        return self.log_weights.gather(2, level[:, :, None])[:, :, 0]

    @property
    def mean(self) -> Event:
        """Expected value."""
        values = torch.linspace(-1, 1, self.levels).to(self.log_weights)
        return torch.einsum("bclhw,l->bchw", self.log_weights.exp(), values)

    def sample(self, rng: Rng) -> Event:
        """Draw a level for every number."""
        noise = rng.normal(*self.log_weights.shape[1:]).double()
        gumbel = -torch.log(-torch.special.log_ndtr(noise)).to(self.log_weights)
        level = (self.log_weights + gumbel).argmax(2)
        return 2 * level.to(self.log_weights) / (self.levels - 1) - 1


def full_precision(x: Tensor) -> Tensor:
    """The numbers in float32 where they have half of it: sums of nats need it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def soft_clamp(x: Tensor, bound: float = 5.0) -> Tensor:
    """Bound numbers smoothly: bound tanh(x / bound)."""
    return bound * torch.tanh(x / bound)


def _to_level(x: Tensor, levels: int) -> Tensor:
    """The nearest of the levels spread over [-1, 1]."""
    level = ((x + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1)
    return 2 * level / (levels - 1) - 1


LIKELIHOODS: dict[str, type[ImageLikelihood]] = {
    "bernoulli": Bernoulli,
    "logistic": Logistic,
    "logistic_mixture": LogisticMixture,
    "normal": NormalLikelihood,
    "laplace": Laplace,
    "categorical": Categorical,
}


def likelihood_named(name: str) -> type[ImageLikelihood]:
    """Return a law of images by name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in LIKELIHOODS:
        raise ConfigError(f"likelihood={name!r} is unknown; {nearest(name, LIKELIHOODS)}")
    return LIKELIHOODS[name]
