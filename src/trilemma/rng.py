"""Random numbers that belong to a sample, not to a batch or a process.

Training and sampling need the same promise in two forms. *Sampling*: what sample i looks like
depends on the seed and i alone, so every sample owns a generator. *Training*: what happens at a
step depends on the seed, the step and the sample's place in the global batch, so that one process
with a batch of 2n and two processes with n each compute the same gradient, and so that a resumed
run needs no stored random state: each draw is made for the global batch and each process keeps
its own rows. The rows of shard v of V are v, v + V, v + 2V, ...
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["BatchRng", "Pairing", "Rng", "SampleRng", "mix_seed"]

Pairing = Literal["independent", "antithetic", "stratified"]
"""How uniform numbers of one batch relate: not at all; the second half mirrors the first,
1 - r; or one shared number shifts an even spacing, (i + r) / N, rows in order."""

_MASK = 2**64 - 1


@runtime_checkable
class Rng(Protocol):
    """Source of random numbers with one row per sample of the batch at hand."""

    def normal(self, *event: int) -> Tensor:
        """Standard normal numbers (b, *event), float32."""
        ...

    def integers(self, high: int) -> Tensor:
        """Uniform integers (b) in [0, high), int64."""
        ...

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Uniform numbers (b) in [0, 1), float64, on the CPU; see ``Pairing``.

        Times are made of them, and coefficients of times are computed on the CPU.
        """
        ...


def mix_seed(*parts: int | str) -> int:
    """Hash integers and words to a 63-bit seed (splitmix64 over the parts).

    >>> mix_seed(0, "data", 1) != mix_seed(0, "data", 2)
    True
    """
    state = 0x9E3779B97F4A7C15
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        state = (state + number * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class SampleRng:
    """One generator per sample, seeded by the seed and the sample's index.

    Args:
        seed: seed of the whole run.
        indices: index of each sample, in order.
        device: where numbers are used; they are drawn on the CPU, so that every device agrees.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator().manual_seed(mix_seed(seed, i)) for i in indices]

    def normal(self, *event: int) -> Tensor:
        """Standard normal numbers (b, *event), float32."""
        rows = torch.empty(len(self.generators), *event)
        for row, generator in zip(rows, self.generators, strict=True):
            row.normal_(generator=generator)
        return rows.to(self.device, non_blocking=True)

    def integers(self, high: int) -> Tensor:
        """Uniform integers (b) in [0, high), int64."""
        draws = [torch.randint(high, (), generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.device)

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Uniform numbers (b) in [0, 1), float64; always independent, since samples are."""
        draws = [torch.rand((), generator=g, dtype=torch.float64) for g in self.generators]
        return torch.stack(draws)


class BatchRng:
    """Rows ``shard``, ``shard + num_shards``, ... of draws made for the global batch.

    Args:
        seed: of this step and purpose; see ``mix_seed``.
        num_rows: rows of one shard.
        shard: this shard, in [0, num_shards).
        num_shards: processes times accumulation steps.
        device: where numbers are drawn and used, but for uniform ones, which the CPU draws.
    """

    def __init__(
        self,
        seed: int,
        num_rows: int,
        *,
        shard: int = 0,
        num_shards: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        is_cpu = self.device.type == "cpu"
        self.on_cpu = (
            self.generator if is_cpu else torch.Generator().manual_seed(mix_seed(seed, "uniform"))
        )
        self.num_rows, self.shard, self.num_shards = num_rows, shard, num_shards

    def normal(self, *event: int) -> Tensor:
        """Standard normal numbers (b, *event), float32."""
        shape = (self.num_rows * self.num_shards, *event)
        rows = torch.randn(shape, generator=self.generator, device=self.device)
        return rows[self.shard :: self.num_shards]

    def integers(self, high: int) -> Tensor:
        """Uniform integers (b) in [0, high), int64."""
        total = self.num_rows * self.num_shards
        rows = torch.randint(high, (total,), generator=self.generator, device=self.device)
        return rows[self.shard :: self.num_shards]

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Uniform numbers (b) in [0, 1), float64, related across the global batch."""
        total = self.num_rows * self.num_shards
        count = {"independent": total, "antithetic": (total + 1) // 2, "stratified": 1}[pairing]
        rows = torch.rand(count, generator=self.on_cpu, dtype=torch.float64)
        if pairing == "antithetic":
            rows = torch.cat([rows, (1 - rows).clamp(max=1 - 2.0**-53)])[:total]
        elif pairing == "stratified":
            rows = (torch.arange(total) + rows) / total
        return rows[self.shard :: self.num_shards]
