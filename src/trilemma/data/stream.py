"""Pictures that flow past: data too large to store, read once an epoch in a shuffled order.

A stream cannot be permuted as a whole. It is cut into blocks of `BLOCK` rows, and each block is
shuffled by a permutation that depends on (seed, epoch, block) only. That is a shuffle buffer which
can be rebuilt: the saved position is where the block begins, together with how much of it was
used, and a run continues with exactly the picture it would have read next.

Rows keep the order in which the files hold them from block to block, so data sorted by class must
be shuffled once before they are streamed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trilemma.data.base import Batch, Stream, to_unit_range
from trilemma.data.columns import to_raw
from trilemma.data.decode import Shape, decode
from trilemma.data.sources import StreamSource, reading
from trilemma.errors import ConfigError, DataError

__all__ = ["BLOCK", "ImageStream"]

BLOCK = 2048
"""Rows that are shuffled together; encoded, they are held in memory."""


class ImageStream(Stream):
    """One process's share of a stream of pictures.

    Args:
        source: the rows.
        shape: colours, size and border of the pictures.
        name: names the data in error messages.
        event_shape: shape (c, h, w) that every picture must have.
        limit: read the first so many rows only; None for all.
        seed: decides the order, at least 0.
        rank: number of this process, in [0, world_size).
        world_size: number of processes.
    """

    def __init__(
        self,
        source: StreamSource,
        shape: Shape,
        *,
        name: str,
        event_shape: tuple[int, ...],
        limit: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        from datasets.distributed import split_dataset_by_node

        rows = source.rows if limit is None else source.rows.take(limit)
        self._rows = split_dataset_by_node(rows, rank=rank, world_size=world_size)
        self._source, self._shape, self._name = source, shape, name
        self._event_shape = event_shape
        self._seed, self._rank = seed, rank
        self._epoch, self._number, self._used = 0, 0, 0
        self._begin: dict[str, Any] | None = None
        self._reader: Any = None
        self._block: list[dict[str, Any]] = []

    def take(self, num: int) -> Batch:
        """Read and decode the next pictures.

        Args:
            num: how many, at least 1.

        Returns:
            The pictures (num, c, h, w) in [-1, 1] and their labels, if any.

        Raises:
            DataError: rows or a picture cannot be read, or its size differs from the first one's.
        """
        rows = [self._next_row() for _ in range(num)]
        images = np.stack([self._picture(row) for row in rows])
        x0 = to_unit_range(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
        label = self._source.label
        if label is None:
            return Batch(x0)
        return Batch(x0, torch.tensor([self._check_label(row[label]) for row in rows]))

    def skip(self, num: int) -> None:
        """Pass over the next pictures without decoding them.

        Args:
            num: how many, at least 0.
        """
        while num > 0:
            self._fill()
            passed = min(num, len(self._block) - self._used)
            self._used += passed
            num -= passed

    def state_dict(self) -> dict[str, Any]:
        """Return the position: epoch, block, rows used of it, and where the block begins.

        Returns:
            Numbers and strings that JSON can hold.
        """
        return {
            "epoch": self._epoch,
            "block": self._number,
            "used": self._used,
            "begin": self._begin,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that ``state_dict`` returned.

        Args:
            state: the position, of a stream with the same data, seed and share.

        Raises:
            ConfigError: the state is not that of a stream.
        """
        missing = {"epoch", "block", "used", "begin"} - set(state)
        if missing:
            raise ConfigError(f"the state of a stream must have {sorted(missing)}")
        self._epoch, self._number = int(state["epoch"]), int(state["block"])
        self._reader, self._block, self._used = None, [], 0
        self._open(state["begin"])
        if state["used"]:
            self._read_block()
            self._used = int(state["used"])

    def _next_row(self) -> dict[str, Any]:
        self._fill()
        self._used += 1
        return self._block[self._used - 1]

    def _fill(self) -> None:
        """Make sure that the block has an unused row."""
        if self._reader is None:
            self._open(None)
            self._read_block()
        elif self._used == len(self._block):
            if self._block:
                self._number += 1
                self._begin = self._rows.state_dict()
            self._read_block()
        if not self._block:
            self._next_epoch()

    def _next_epoch(self) -> None:
        if self._number == 0:
            raise DataError(
                f"process {self._rank} gets no row of {self._name}; use fewer processes"
            )
        self._epoch, self._number = self._epoch + 1, 0
        self._open(None)
        self._read_block()

    def _open(self, begin: dict[str, Any] | None) -> None:
        """Start to read at a position; None is the beginning of the data."""
        self._rows.load_state_dict(begin)
        self._begin = begin
        self._reader = iter(self._rows)

    def _read_block(self) -> None:
        with reading(self._name):
            rows = [row for _, row in zip(range(BLOCK), self._reader, strict=False)]
        key = np.random.SeedSequence([self._seed, self._rank, self._epoch, self._number])
        rng = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]) >> 1)
        self._block = [rows[i] for i in torch.randperm(len(rows), generator=rng).tolist()]
        self._used = 0

    def _where(self) -> str:
        return f"a row of {self._name} near {self._number * BLOCK + self._used}"

    def _picture(self, row: dict[str, Any]) -> np.ndarray:
        where: Callable[[], str] = self._where
        array = decode(to_raw(row[self._source.image], where()), self._shape, where)
        channels, height, width = self._event_shape
        if array.shape != (height, width, channels):
            raise DataError(
                f"{where()} is {array.shape[1]} x {array.shape[0]} but the first picture is "
                f"{width} x {height}; bring them to one size: --data.image_size N"
            )
        return array

    def _check_label(self, label: Any) -> int:
        if not isinstance(label, int) or label < 0:
            raise DataError(
                f"{self._where()} has label {label}; labels must be integers from 0, or give "
                "label_column 'none' to train without labels"
            )
        return label
