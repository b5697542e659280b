r"""The order of training examples, as a pure function of the seed and the step.

Epoch e shuffles the N examples by a permutation that depends on (seed, e) only; step k takes the
k-th run of `batch_size` positions, and a last run that would be shorter is dropped. Data smaller
than one batch are shuffled again and again, the permutations following each other. Nothing is
remembered between steps, so a run is continued by naming its step.

The global batch of a step is dealt like cards to V = `world_size` x `accumulate` hands:

$$ \text{shard } v = \{ v, v + V, v + 2V, \dots \}, \qquad v = m \, W + r $$

for micro-batch m of process r among W. The same examples reach the same optimiser step however
the work is shared out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trilemma.data.base import Batch, Data
from trilemma.errors import ConfigError, TrilemmaError

__all__ = ["Batches", "Order", "Share"]


class Order:
    """Which examples form the global batch of each step.

    Args:
        length: number of examples, at least 1.
        batch_size: examples in a global batch, at least 1.
        seed: decides every permutation, at least 0.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def permutation(self, epoch: int) -> Tensor:
        """Shuffle the examples for one epoch.

        Args:
            epoch: number of the epoch, at least 0.

        Returns:
            The numbers 0 to length - 1 (length), int64, in an order fixed by (seed, epoch).
        """
        if epoch != self._epoch:
            state = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
            rng = torch.Generator().manual_seed(int(state[0]) >> 1)
            self._permutation = torch.randperm(self.length, generator=rng)
            self._epoch = epoch
        return self._permutation

    def indices(self, step: int) -> Tensor:
        """Choose the examples of one step.

        Args:
            step: number of the optimiser step, at least 0.

        Returns:
            Example numbers (batch_size), int64.
        """
        num_full = self.length // self.batch_size
        if num_full:
            epoch, position = divmod(step, num_full)
            start = position * self.batch_size
            return self.permutation(epoch)[start : start + self.batch_size]
        first = step * self.batch_size
        epochs = range(first // self.length, (first + self.batch_size - 1) // self.length + 1)
        chained = torch.cat([self.permutation(epoch) for epoch in epochs])
        offset = first - epochs[0] * self.length
        return chained[offset : offset + self.batch_size]


@dataclass(frozen=True)
class Share:
    """One process's share of every global batch.

    Args:
        order: the global batches.
        rank: number of this process, in [0, world_size).
        world_size: number of processes.
        accumulate: micro-batches per step.
    """

    order: Order
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def indices(self, step: int, micro: int) -> Tensor:
        """Choose the examples of one micro-batch.

        Args:
            step: number of the optimiser step, at least 0.
            micro: number of the micro-batch, in [0, accumulate).

        Returns:
            Example numbers (batch_size / world_size / accumulate), int64.
        """
        shard = micro * self.world_size + self.rank
        return self.order.indices(step)[shard :: self.world_size * self.accumulate]

    def from_step(self, step: int) -> Iterator[Tensor]:
        """List the micro-batches one after another, without end.

        Args:
            step: the step to begin with.

        Returns:
            What `indices` gives for each micro-batch of each step.
        """
        while True:
            yield from (self.indices(step, micro) for micro in range(self.accumulate))
            step += 1


class Batches:
    """An endless iterator over steps; each item is the list of this process's micro-batches.

    Args:
        data: what to read.
        batch_size: examples in a *global* batch, over all processes and micro-batches.
        seed: decides the order, at least 0.
        start_step: step to begin with; for streamed data the examples before it are read over.
        rank: number of this process, in [0, world_size).
        world_size: number of processes.
        accumulate: micro-batches per step, whose gradients are added.
        num_workers: processes that decode ahead, for indexed data that are not in memory.
        pin_memory: whether to return page-locked tensors (needs a GPU).

    Raises:
        ConfigError: the batch cannot be dealt evenly, or an argument is out of range.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        _check(batch_size, seed, start_step, rank, world_size, accumulate, num_workers)
        self.data = data
        self.step = start_step
        self._accumulate = accumulate
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._micro_size = batch_size // (world_size * accumulate)
        self._ahead: Iterator[Any] | None = None
        if data.streaming:
            start = start_step * accumulate * self._micro_size
            self._stream = data.stream(seed=seed, rank=rank, world_size=world_size, start=start)
        else:
            self._share = Share(Order(len(data), batch_size, seed), rank, world_size, accumulate)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> list[Batch]:
        """Return the micro-batches of the next step."""
        batch = [self._micro(micro) for micro in range(self._accumulate)]
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on: the step, and the position when streaming.

        Returns:
            A dictionary that JSON can hold.
        """
        stream = {"stream": self._stream.state_dict()} if self.data.streaming else {}
        return {"step": self.step, **stream}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that ``state_dict`` returned.

        Args:
            state: the position; the seed and sizes must be those it was saved with.

        Raises:
            ConfigError: the state has no step, or lacks the position of a stream.
        """
        if "step" not in state or (self.data.streaming and "stream" not in state):
            needed = "'step' and 'stream'" if self.data.streaming else "'step'"
            raise ConfigError(f"the loader's state has {sorted(state)}; it needs {needed}")
        self.step = int(state["step"])
        self._ahead = None
        if self.data.streaming:
            self._stream.load_state_dict(state["stream"])

    def indices(self, step: int, micro: int) -> Tensor:
        """Say which examples one micro-batch of this process holds; not for streams.

        Args:
            step: number of the optimiser step.
            micro: number of the micro-batch, in [0, accumulate).

        Returns:
            Example numbers (batch_size / world_size / accumulate), int64.
        """
        return self._share.indices(step, micro)

    def _micro(self, micro: int) -> Batch:
        if self.data.streaming:
            batch = self._stream.take(self._micro_size)
        elif self._num_workers and not self.data.in_memory:
            return self._from_workers()
        else:
            batch = self.data.fetch(self.indices(self.step, micro))
        return batch.pin_memory() if self._pin_memory else batch

    def _from_workers(self) -> Batch:
        if self._ahead is None:
            self._ahead = iter(
                DataLoader(
                    _Fetch(self.data),
                    sampler=self._share.from_step(self.step),
                    batch_size=None,
                    num_workers=self._num_workers,
                    pin_memory=self._pin_memory,
                )
            )
        batch = next(self._ahead)
        if isinstance(batch, TrilemmaError):
            self._ahead = None  # stop the workers now, not when the traceback is forgotten
            raise batch
        return batch


class _Fetch(Dataset[Any]):
    """A data set whose index is a whole list; errors come back as values, to stay one line."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __getitem__(self, indices: Tensor) -> Batch | TrilemmaError:
        try:
            return self._data.fetch(indices)
        except TrilemmaError as error:
            return error


def _check(
    batch_size: int,
    seed: int,
    start_step: int,
    rank: int,
    world_size: int,
    accumulate: int,
    num_workers: int,
) -> None:
    least = {
        "batch_size": (batch_size, 1),
        "seed": (seed, 0),
        "start_step": (start_step, 0),
        "world_size": (world_size, 1),
        "accumulate": (accumulate, 1),
        "num_workers": (num_workers, 0),
    }
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise ConfigError(f"{name} is {value}; allowed: {minimum} or more")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank}; allowed: 0 to {world_size - 1} (world_size - 1)")
    num_shards = world_size * accumulate
    if batch_size % num_shards:
        low = batch_size - batch_size % num_shards
        near = " or ".join(str(n) for n in (low, low + num_shards) if n)
        raise ConfigError(
            f"batch_size {batch_size} cannot be dealt evenly to {world_size} processes x "
            f"{accumulate} micro-batches; allowed: multiples of {num_shards}, such as {near}"
        )
