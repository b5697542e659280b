"""Where the draws of a frame come from: weighted sums of those of a few sources.

A sample is a function of the normal numbers that were drawn for it, in order: the noise that
sampling starts from, the codes of a generator, the noise of every random step. A source makes the
draws of one sample again, or hands out known noise; ``MixedRng`` adds the draws of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.rng import Pairing, Rng, SampleRng

__all__ = ["KnownRng", "MixedRng", "Noise", "Source", "noise_source", "sample_source"]

Source = Callable[[slice, torch.device], Rng]
"""Makes the draws of some frames of a path: one row for each of them, or one that they share."""


class MixedRng:
    """Weighted sums of the draws of several sources, row by row.

    Args:
        sources: each with one row, which all share, or as many as there are weights.
        weights: (b, m), of the m sources in each row; a weight of one takes a draw as it is.
    """

    def __init__(self, sources: Sequence[Rng], weights: Tensor) -> None:
        self.sources, self.weights = sources, weights

    def normal(self, *event: int) -> Tensor:
        """Standard normal numbers (b, *event) where squared weights sum to one."""
        total: Tensor | None = None
        for source, weight in zip(self.sources, self.weights.unbind(1), strict=True):
            draw = source.normal(*event)
            part = weight.to(draw).view(-1, *(1 for _ in event)) * draw
            total = part if total is None else total + part
        assert total is not None
        return total

    def integers(self, high: int) -> Tensor:
        """Integers of the source with the largest weight."""
        return self._nearest([source.integers(high) for source in self.sources])

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Uniform numbers of the source with the largest weight."""
        return self._nearest([source.uniform(pairing) for source in self.sources])

    def _nearest(self, draws: list[Tensor]) -> Tensor:
        table = torch.stack([draw.expand(len(self.weights)) for draw in draws], dim=1)
        return table.gather(1, self.weights.argmax(1, keepdim=True).to(table.device))[:, 0]


class KnownRng:
    """Hands out known normal numbers in order, and the mean of the law, zero, after them.

    Args:
        draws: tensors (b, *event), in the order in which they will be asked for.
        num_rows: b.
    """

    def __init__(self, draws: Sequence[Tensor], num_rows: int) -> None:
        self.draws, self.num_rows = list(draws), num_rows

    def normal(self, *event: int) -> Tensor:
        """The next known numbers (b, *event), or zeros."""
        if not self.draws:
            return torch.zeros(self.num_rows, *event)
        draw = self.draws.pop(0)
        if tuple(draw.shape[1:]) != event:
            raise ConfigError(f"noise of shape {tuple(draw.shape[1:])} given, {event} needed")
        return draw

    def integers(self, high: int) -> Tensor:
        """Zeros."""
        return torch.zeros(self.num_rows, dtype=torch.int64)

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Halves."""
        return torch.full((self.num_rows,), 0.5, dtype=torch.float64)


class Noise(NamedTuple):
    """What data were made of, standard normal for samples of the model.

    Args:
        state: the state at t = 1, whitened (n, k, *state_shape).
        others: latents of the groups that keep a standard normal prior, each (n, *group).
    """

    state: Tensor
    others: tuple[Tensor, ...] = ()

    def row(self, i: int) -> Noise:
        """Noise of one datum (1, ...)."""
        return Noise(self.state[i : i + 1], tuple(other[i : i + 1] for other in self.others))


def sample_source(seed: int, index: int) -> Source:
    """The draws of one sample."""
    return lambda frames, device: SampleRng(seed, [index], device)


def noise_source(noise: Noise) -> Source:
    """Known noise, of one datum that all frames share or of one datum for each."""

    def make(frames: slice, device: torch.device) -> Rng:
        chosen = slice(None) if len(noise.state) == 1 else frames
        draws = [part[chosen].to(device) for part in (noise.state, *noise.others)]
        return KnownRng(draws, len(draws[0]))

    return make
