r"""A variational autoencoder of tables, whose rows mix numbers and categories.

Fully connected on both sides: numbers enter as they are, standardised, categories as indicators.
The decoder's law treats the columns as independent given the latents,

.. math:: p(x \mid z) = \prod_{j\ numeric} N\big(x_j; \mu_j(z), s_j^2\big)
          \prod_{j\ categorical} p_j(x_j \mid z),

with one learnt s_j for each numeric column, the same for all rows. A spread that depends on the
latents would fit a small table better and describe it worse: it goes to zero at the rows that the
network remembers. What the latents leave unexplained is noise of the law, so synthetic rows are
*drawn* from it; its mean would be a table without scatter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trilemma.autoencoders.base import Autoencoder, Normal
from trilemma.autoencoders.likelihoods import Likelihood, soft_clamp
from trilemma.errors import ConfigError
from trilemma.rng import Rng
from trilemma.typing import Event

__all__ = ["TableLaw", "TableVAE"]

MAX_LOG_STD = 1.0
GAIN = 10.0
"""Speed of a standard deviation's logarithm, which has far to go, relative to the weights."""


class TableLaw(Likelihood):
    """Independent columns: a normal density for each number, probabilities for each category.

    Args:
        parameters: of every row (b, p): the means of all numeric columns, then the logits of each
            categorical one.
        log_std: of the numeric columns, in their order (m).
        categories: number of categories of each column; 0 for a numeric one.
    """

    def __init__(self, parameters: Tensor, log_std: Tensor, categories: Sequence[int]) -> None:
        self.numbers, self.codes = _places(categories)
        counts = [categories[place] for place in self.codes]
        self.location, *self.logits = parameters.float().split([len(self.numbers), *counts], dim=1)
        self.log_std = log_std.float()
        self.is_discrete = not self.numbers  # type: ignore[misc]

    def log_prob(self, x: Event) -> Tensor:
        """Log-density of the numbers plus log-probability of the categories, nats."""
        return self.log_probs(x).sum(1)

    def log_probs(self, x: Event) -> Tensor:
        """The same for every column (b, columns)."""
        standard = (x[:, self.numbers] - self.location) * torch.exp(-self.log_std)
        density = -standard.square() / 2 - self.log_std - math.log(2 * math.pi) / 2
        chosen = [
            logits.log_softmax(1).gather(1, x[:, place, None].round().long())
            for place, logits in zip(self.codes, self.logits, strict=True)
        ]
        return self._in_order(density, chosen)

    @property
    def mean(self) -> Event:
        """Means of the numbers, and the most probable categories."""
        return self._read(self.location, self.logits)

    def sample(self, rng: Rng) -> Event:
        """Draw numbers and categories."""
        sizes = [part.shape[1] for part in (self.location, *self.logits)]
        noise, *others = rng.normal(sum(sizes)).to(self.location.device).split(sizes, dim=1)
        gumbel = [-torch.log(-torch.special.log_ndtr(other.double())) for other in others]
        drawn = [logits + g.to(logits) for logits, g in zip(self.logits, gumbel, strict=True)]
        return self._read(self.location + self.log_std.exp() * noise.to(self.location), drawn)

    def _read(self, numbers: Tensor, logits: Sequence[Tensor]) -> Event:
        """Numbers as they are, and the place of the largest logit."""
        return self._in_order(numbers, [part.argmax(1, keepdim=True).to(part) for part in logits])

    def _in_order(self, numbers: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Put entries of the numeric and of the categorical columns in the table's order."""
        places = torch.tensor(self.numbers + self.codes, device=numbers.device)
        return torch.cat([numbers, *others], dim=1)[:, places.argsort()]


class TableVAE(Autoencoder):
    """Fully connected autoencoder of rows, with a vector of latents.

    Args:
        categories: number of categories of each column, 0 for a numeric one; what
            ``trilemma.data.Table.categories`` says.
        latent_dim: latent numbers of a row.
        width: hidden units per layer.
        num_layers: hidden layers, in the encoder and in the decoder.
        dropout: after each hidden layer of the encoder, in [0, 1). The decoder has none: it would
            count as noise of the data in training and be missing from the samples.
        min_std: smallest standard deviation of a numeric column, in (0, 1); keeps the decoder from
            learning the rows of a small table by heart.

    Raises:
        ConfigError: for values outside their range.
    """

    draws: ClassVar[bool] = True

    def __init__(
        self,
        categories: Sequence[int],
        *,
        latent_dim: int = 8,
        width: int = 128,
        num_layers: int = 2,
        dropout: float = 0.1,
        min_std: float = 0.1,
    ) -> None:
        super().__init__()
        if not categories or min(categories) < 0:
            raise ConfigError(
                f"categories={list(categories)}: one entry a column, 0 for a numeric one"
            )
        if min(latent_dim, width, num_layers) < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                f"latent_dim={latent_dim}, width={width} and num_layers={num_layers} must be at "
                f"least 1 and dropout={dropout} lie in [0, 1)"
            )
        if not 0 < min_std < 1:
            raise ConfigError(f"min_std={min_std} must lie in (0, 1)")
        self.min_std = float(min_std)
        self.categories = tuple(int(count) for count in categories)
        self.event_shape, self.latent_shape = (len(self.categories),), (latent_dim,)
        self.numbers, self.codes = _places(self.categories)
        entries = len(self.numbers) + sum(self.categories)
        hidden = [width] * num_layers
        self.encoder = _layers([entries, *hidden, 2 * latent_dim], dropout)
        self.decoder = _layers([latent_dim, *hidden, entries], 0.0)
        self.raw_log_std = nn.Parameter(torch.zeros(len(self.numbers)))
        self.raw_log_std.no_decay = True  # type: ignore[attr-defined]

    @property
    def log_std(self) -> Tensor:
        """Log standard deviation of each numeric column, between ln min_std and 1."""
        low = math.log(self.min_std)
        start = math.log(-low / MAX_LOG_STD)  # which makes the first deviations 1
        share = torch.sigmoid(GAIN * self.raw_log_std + start)
        return low + (MAX_LOG_STD - low) * share

    def indicators(self, x: Event) -> Tensor:
        """Numbers as they are, then categories as indicators (b, p)."""
        indicators = []
        for place in self.codes:
            codes = torch.arange(self.categories[place], device=x.device)
            indicators.append((x[:, place, None].round() == codes).to(x))
        return torch.cat([x[:, self.numbers], *indicators], dim=1)

    def encode(self, x: Event) -> Normal:
        """Means and log standard deviations, each bounded by 5 tanh(. / 5)."""
        mean, log_std = self.encoder(self.indicators(x)).float().chunk(2, dim=1)
        return Normal(soft_clamp(mean), soft_clamp(log_std))

    def decode(self, z: Tensor, others: Sequence[Tensor] = ()) -> Likelihood:
        """Law of the rows."""
        return TableLaw(self.decoder(z), self.log_std, self.categories)


def _places(categories: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places of the numeric and of the categorical columns."""
    places = range(len(categories))
    return [j for j in places if not categories[j]], [j for j in places if categories[j]]


def _layers(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with SiLU and dropout between them."""
    *hidden, last = pairwise(widths)
    layers: list[Any] = []
    for inputs, outputs in hidden:
        layers += [nn.Linear(inputs, outputs), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(*last))
