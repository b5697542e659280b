r"""What a data set is: a finite table of examples that can be asked for any rows, in any order.

Training reads data through one question only: *which examples have these indices?* The answer,
a [`Batch`][trilemma.data.Batch], depends on the indices and on nothing else, so the loader alone
decides the order, and a run that stops can be continued bit by bit without storing a random state.

A class states its facts (`event_shape`, `num_classes`, `class_names`, `flip`) as properties.
Building an object only records its arguments: files are opened, or the network asked, when the
first fact or example is needed. Pictures are 8-bit numbers p on disk and in memory, and reach the
network as

$$ x_0 = p / 127.5 - 1 \in [-1, 1]. $$
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.typing import Event, Labels

__all__ = ["Batch", "Data", "Stream", "to_indices", "to_unit_range"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples.

    Args:
        x0: clean data (b, \\*event), float32; pictures in [-1, 1], points in the data's own scale.
        label: class numbers (b), int64, or None for unlabelled data.
    """

    x0: Event
    label: Labels | None = None

    def __len__(self) -> int:
        return self.x0.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """Move to a device, without waiting for the copy when the memory is pinned.

        Args:
            device: where the tensors shall lie.

        Returns:
            The same examples on ``device``.
        """
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return Batch(self.x0.to(device, non_blocking=True), label)

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory, from which a GPU reads faster.

        Returns:
            The same examples in pinned memory.
        """
        label = None if self.label is None else self.label.pin_memory()
        return Batch(self.x0.pin_memory(), label)


class Stream(ABC):
    """Examples one after another, for data that are too large or too far away to index."""

    @abstractmethod
    def take(self, num: int) -> Batch:
        """Read the next examples.

        Args:
            num: how many, at least 1.

        Returns:
            ``num`` examples; after the last example of the data the next epoch begins.
        """

    @abstractmethod
    def skip(self, num: int) -> None:
        """Pass over the next examples without decoding them.

        Args:
            num: how many, at least 0.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the position, as numbers and strings that JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that ``state_dict`` returned."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.take(1)


class Data(ABC):
    """A data set; subclasses add where the examples come from."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example: (c, h, w) for pictures, (2,) for points in the plane."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes, 0 when the data are unlabelled."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, or () when they are unknown."""
        return ()

    @property
    def flip(self) -> bool:
        """Whether training may mirror the pictures left to right; the trainer does the flipping."""
        return False

    @property
    def in_memory(self) -> bool:
        """Whether examples are at hand, so that loading them in other processes gains nothing."""
        return True

    @property
    def streaming(self) -> bool:
        """Whether the examples come in the order of a stream and cannot be indexed."""
        return False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def fetch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return examples by number, the same ones every time.

        Args:
            indices: example numbers (b), each in [0, len).

        Returns:
            The examples, in the order of ``indices``.

        Raises:
            IndexError: an index lies outside [0, len).
            DataError: an example cannot be read.
        """

    @abstractmethod
    def split(self, name: str) -> "Data":
        """Return the same data set's other part, with the same settings.

        Args:
            name: ``"train"`` or ``"test"``, or another part that the data have.

        Returns:
            A data set of the same class.

        Raises:
            ConfigError: there is no such part; the message lists those there are.
        """

    def images_uint8(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return pictures as they are stored, for metrics and for saving.

        Args:
            indices: example numbers (b), each in [0, len).

        Returns:
            8-bit pictures (b, c, h, w), uint8.

        Raises:
            ConfigError: the examples are not pictures.
            IndexError: an index lies outside [0, len).
        """
        raise ConfigError(f"{self!r} holds points, not pictures; use fetch(indices).x0")

    def stream(
        self, *, seed: int = 0, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Stream:
        """Read the examples as a stream; only for data with ``streaming``.

        Args:
            seed: decides the order, at least 0.
            rank: number of this process, in [0, world_size).
            world_size: number of processes that share the data.
            start: how many examples of this process to pass over first.

        Returns:
            An endless stream.

        Raises:
            ConfigError: the data are indexed, not streamed.
        """
        raise ConfigError(f"{self!r} is not streamed; use Batches(data, ...) or fetch(indices)")


def to_indices(indices: Sequence[int] | Tensor, length: int) -> Tensor:
    """Turn example numbers into an index tensor and check them.

    Args:
        indices: example numbers (b).
        length: number of examples there are.

    Returns:
        The numbers (b), int64, on the CPU.

    Raises:
        IndexError: an index lies outside [0, length).
    """
    index = torch.as_tensor(
        indices if isinstance(indices, Tensor) else list(indices), dtype=torch.int64, device="cpu"
    ).reshape(-1)
    outside = (index < 0) | (index >= length)
    if outside.any():
        raise IndexError(
            f"example {int(index[outside][0])} was asked for, but there are {length}: "
            f"use 0 to {length - 1}"
        )
    return index


def to_unit_range(image: Tensor) -> Tensor:
    """Map 8-bit pictures to the range that networks see: x0 = p / 127.5 - 1.

    Args:
        image: pictures (\\*), uint8, 0 to 255.

    Returns:
        The pictures (\\*), float32, in [-1, 1].
    """
    return image.to(torch.float32).div_(127.5).sub_(1.0)
