"""The digits that ship with the package: ``--data digits``.

512 of the 10,000 test digits of MNIST (LeCun, Cortes and Burges, 1998; CC BY-SA 3.0) lie in the
package's zoo, so that models of digits can be judged where no data set is at hand. They are test
digits: no bundled model was trained on them. For training, give a path of MNIST.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from functools import cached_property

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from trilemma.data.base import Batch, Data, to_indices, to_unit_range
from trilemma.errors import ConfigError, DataError

__all__ = ["DIGITS", "BundledDigits"]

DIGITS = "digits"
"""What the data are called on the command line."""
FILE = "mnist-reference.safetensors"


class BundledDigits(Data):
    """The package's 512 test digits, grey, 28 x 28, labelled 0 to 9.

    Args:
        split: ``"test"``, the only part there is.

    Raises:
        ConfigError: another split.
        DataError: later, when the file is missing from the installed package.
    """

    def __init__(self, *, split: str = "test") -> None:
        if split != "test":
            raise ConfigError(
                f"{DIGITS!r} has no split {split!r}: only 512 test digits ship with the package; "
                "take --split test, or give a path of MNIST"
            )
        self.part = split

    def __repr__(self) -> str:
        return "BundledDigits()"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one digit: (1, 28, 28)."""
        return (1, 28, 28)

    @property
    def num_classes(self) -> int:
        """The ten digits."""
        return 10

    @property
    def class_names(self) -> tuple[str, ...]:
        """``"0"`` to ``"9"``."""
        return tuple("0123456789")

    @property
    def labels(self) -> Tensor:
        """All labels, (512), int64."""
        return self._tensors["labels"].long()

    def __len__(self) -> int:
        return len(self._tensors["images"])

    def fetch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return digits in [-1, 1] and their labels, the same ones every time.

        Args:
            indices: digit numbers (b), each in [0, 512).

        Returns:
            The digits, (b, 1, 28, 28), float32, and their labels, (b).

        Raises:
            IndexError: an index lies outside [0, 512).
        """
        index = to_indices(indices, len(self))
        return Batch(to_unit_range(self._tensors["images"][index]), self.labels[index])

    def images_uint8(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return digits as 8-bit numbers.

        Args:
            indices: digit numbers (b), each in [0, 512).

        Returns:
            The digits, (b, 1, 28, 28), uint8.

        Raises:
            IndexError: an index lies outside [0, 512).
        """
        return self._tensors["images"][to_indices(indices, len(self))]

    def split(self, name: str) -> BundledDigits:
        """Return the only part there is.

        Args:
            name: ``"test"``.

        Returns:
            The same digits.

        Raises:
            ConfigError: another name.
        """
        return BundledDigits(split=name)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        try:
            content = importlib.resources.files("trilemma").joinpath("zoo", FILE).read_bytes()
            tensors = load(content)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{FILE} is missing from the installed package, or damaged; reinstall trilemma"
            ) from error
        return {name: tensors[name] for name in ("images", "labels")}
