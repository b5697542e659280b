"""Stacked digits: a thousand modes that can be counted.

Each colour channel of a picture holds one handwritten digit, drawn independently, so the pictures
fall into 10 x 10 x 10 = 1000 modes whose names a digit classifier can read off. A generator that
drops modes shows it in the count, and in the divergence of the mode histogram from uniform.

The digits of a channel run through random permutations of the whole data set, one after the other
(Metz et al., 2017; Lin et al., 2018): 120,000 pictures show each of 60,000 digits twice in every
channel. Pictures are put together when they are asked for; what is stored are the numbers.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trilemma.data.base import Batch, Data, to_indices, to_unit_range
from trilemma.data.hub import HubImages
from trilemma.errors import ConfigError, DataError

__all__ = ["StackedDigits"]


class StackedDigits(Data):
    """Three grey digits as one colour picture; nothing is opened before the first use.

    Args:
        path: labelled digits, as `HubImages` takes them: a folder, a file or a name on the Hub.
        split: part of the data, ``"train"`` or ``"test"``.
        num_images: number of pictures, at least 1.
        pad: black pixels added on each side; 2 makes 28 x 28 digits 32 x 32.
        seed: decides which digits meet, at least 0.

    Raises:
        ConfigError: a number is out of range.
        DataError: later, when the digits are missing, unreadable, or not labelled 0 to 9.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        num_images: int = 120_000,
        pad: int = 2,
        seed: int = 0,
    ) -> None:
        if num_images < 1 or seed < 0:
            raise ConfigError(
                f"num_images is {num_images}, seed {seed}; allowed: num_images 1 or more, "
                "seed 0 or more"
            )
        self.path, self.part = path, split
        self.num_images, self.pad, self.seed = num_images, pad, seed
        self._digits = HubImages(path, split=split, channels=1, pad=pad)

    def __repr__(self) -> str:
        return f"StackedDigits({self.path!r}, split={self.part!r})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one picture (3, h, w), border included."""
        return (3, *self._digits.event_shape[1:])

    @property
    def num_classes(self) -> int:
        """The modes: 1000."""
        return 1000

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits in red, green and blue: "000" to "999"."""
        return tuple(f"{mode:03d}" for mode in range(1000))

    @property
    def in_memory(self) -> bool:
        """Whether the digits are kept decoded."""
        return self._digits.in_memory

    def __len__(self) -> int:
        return self.num_images

    def fetch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return stacked pictures in [-1, 1] and their modes, the same ones every time.

        Args:
            indices: picture numbers (b), each in [0, num_images).

        Returns:
            The pictures (b, 3, h, w), float32, and labels (b), 100 red + 10 green + blue.

        Raises:
            IndexError: an index lies outside [0, num_images).
            DataError: the digits are missing, unreadable, or not labelled 0 to 9.
        """
        index = to_indices(indices, len(self))
        digit = self._digit_labels[self._stack[index]]
        label = (digit * torch.tensor([100, 10, 1])).sum(1)
        return Batch(to_unit_range(self.images_uint8(index)), label)

    def images_uint8(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return stacked pictures as 8-bit numbers.

        Args:
            indices: picture numbers (b), each in [0, num_images).

        Returns:
            The pictures (b, 3, h, w), uint8, 0 to 255.

        Raises:
            IndexError: an index lies outside [0, num_images).
            DataError: the digits are missing or unreadable.
        """
        stack = self._stack[to_indices(indices, len(self))]
        return self._digits.images_uint8(stack.reshape(-1)).reshape(len(stack), *self.event_shape)

    def split(self, name: str) -> "StackedDigits":
        """Return as many pictures, stacked from another part of the digits.

        Args:
            name: ``"train"``, ``"test"`` or another part that the digits have.

        Returns:
            The other part.

        Raises:
            ConfigError: there is no such part; the message lists those there are.
        """
        other = StackedDigits(
            self.path, split=name, num_images=self.num_images, pad=self.pad, seed=self.seed
        )
        other._digits = self._digits.split(name)
        return other

    @cached_property
    def _digit_labels(self) -> Tensor:
        labels = self._digits.labels
        if labels is None or int(labels.max()) > 9:
            given = "no labels" if labels is None else f"labels up to {int(labels.max())}"
            raise DataError(f"{self.path} ({self.part}) has {given}; stacking needs digits 0 to 9")
        return labels

    @cached_property
    def _stack(self) -> Tensor:
        """Which digit stands in each channel of each picture (num_images, 3)."""
        num_digits = len(self._digits)
        num_rounds = -(-self.num_images // num_digits)
        key = np.random.SeedSequence(self.seed).generate_state(1, np.uint64)
        rng = torch.Generator().manual_seed(int(key[0]) >> 1)
        channels = [
            torch.cat([torch.randperm(num_digits, generator=rng) for _ in range(num_rounds)])
            for _ in range(3)
        ]
        return torch.stack(channels, dim=1)[: self.num_images]
