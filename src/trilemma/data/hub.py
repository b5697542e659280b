"""Any picture data: a name on the Hugging Face Hub, a folder, parquet files or an array.

Small data sets are decoded once, on first use, and kept as one 8-bit tensor; MNIST takes seconds
and 47 MB. Data that would need more than `CACHE_BYTES` are decoded each time they are asked for,
which the loader then does in worker processes. What does not fit on the disk is streamed.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma.data.base import Batch, Data, Stream, to_indices, to_unit_range
from trilemma.data.columns import Query, to_raw
from trilemma.data.decode import Shape, decode, natural_channels, open_picture
from trilemma.data.sources import Source, StreamSource, open_source, open_stream, reading
from trilemma.data.stream import ImageStream
from trilemma.errors import ConfigError, DataError

__all__ = ["CACHE_BYTES", "HubImages"]

CACHE_BYTES = 2 * 1024**3
"""Decoded pictures are kept in memory up to this many bytes."""

CHUNK = 1024


class HubImages(Data):
    r"""Pictures by name or path; nothing is opened before the first use.

    Args:
        path: name on the Hub (``owner/name``); folder of pictures, whose sub-folders are classes;
            folder of ``train*.parquet`` and ``test*.parquet``; a ``.parquet`` file; or an
            ``.npz`` file with ``arr_0`` (n, h, w, c) uint8 and, if labelled, ``arr_1`` (n).
        split: part of the data: ``"train"``, ``"test"``, ``"validation"`` or what the Hub has.
        image_column: column with the pictures; None takes the first one that holds pictures.
        label_column: column with the labels; None finds it, ``"none"`` ignores labels.
        image_size: length of the shorter side in pixels, before padding; None keeps the size,
            which must then be the same for all pictures.
        crop: when resizing, ``"center"`` cuts the central square, ``"none"`` keeps the whole.
        channels: 1 for grey, 3 for colour; None does as the first picture.
        pad: black pixels added on each side; 2 makes MNIST 32 x 32.
        flip: whether training may mirror the pictures left to right.
        limit: use the first so many pictures only; None for all.
        streaming: read as a stream, without storing the data.
        cache: whether decoded pictures may be kept in memory.
        revision: commit or tag on the Hub.
        subset: configuration on the Hub, for data sets that have several.

    Raises:
        ConfigError: an argument is out of range; later, a column or split does not exist.
        DataError: later, when the data are missing, empty or unreadable.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        image_column: str | None = None,
        label_column: str | None = None,
        image_size: int | None = None,
        crop: Literal["center", "none"] = "center",
        channels: Literal[1, 3] | None = None,
        pad: int = 0,
        flip: bool = False,
        limit: int | None = None,
        streaming: bool = False,
        cache: bool = True,
        revision: str | None = None,
        subset: str | None = None,
    ) -> None:
        _check(path, image_size, crop, channels, pad, limit)
        self.path, self.part = path, split
        self._query = Query(path, split, image_column, label_column, revision, subset)
        self._size: dict[str, Any] = {"image_size": image_size, "crop": crop, "pad": pad}
        self._channels, self._flip, self._limit = channels, flip, limit
        self._streaming, self._may_cache = streaming, cache

    def __repr__(self) -> str:
        return f"HubImages({self.path!r}, split={self.part!r})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one picture (c, h, w), border included."""
        return self._first.shape[2], self._first.shape[0], self._first.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 when the pictures are unlabelled."""
        return len(self.class_names) if self._streaming else self._source.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, or () when they are unknown."""
        return self._stream_source.class_names if self._streaming else self._source.class_names

    @property
    def pad(self) -> int:
        """Black pixels added on each side."""
        return self._size["pad"]

    @property
    def flip(self) -> bool:
        """Whether training may mirror the pictures left to right."""
        return self._flip

    @property
    def in_memory(self) -> bool:
        """Whether the decoded pictures are kept, or will be after the first use."""
        return (
            self._may_cache
            and not self._streaming
            and len(self) * self._first.nbytes <= CACHE_BYTES
        )

    @property
    def streaming(self) -> bool:
        """Whether the pictures are read as a stream."""
        return self._streaming

    @property
    def labels(self) -> Tensor | None:
        """All labels (n), int64, or None when the pictures are unlabelled."""
        labels = self._source.labels
        return None if labels is None else labels[: len(self)]

    def __len__(self) -> int:
        count = len(self._source)
        return count if self._limit is None else min(count, self._limit)

    def fetch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return pictures in [-1, 1] and their labels, the same ones every time.

        Args:
            indices: picture numbers (b), each in [0, len).

        Returns:
            The pictures (b, c, h, w), float32, with labels (b) if there are any.

        Raises:
            IndexError: an index lies outside [0, len).
            DataError: a picture cannot be read, or its size differs from the first one's.
        """
        index = to_indices(indices, len(self))
        labels = self._source.labels
        image = to_unit_range(self.images_uint8(index))
        return Batch(image, None if labels is None else labels[index])

    def images_uint8(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return pictures as 8-bit numbers.

        Args:
            indices: picture numbers (b), each in [0, len).

        Returns:
            The pictures (b, c, h, w), uint8, 0 to 255.

        Raises:
            IndexError: an index lies outside [0, len).
            DataError: a picture cannot be read, or its size differs from the first one's.
        """
        index = to_indices(indices, len(self))
        return self._decoded[index] if self.in_memory else self._decode(index.tolist())

    def split(self, name: str) -> "HubImages":
        """Return another part of the data, read with the same settings.

        Args:
            name: ``"train"``, ``"test"`` or another part that the data have.

        Returns:
            That part.

        Raises:
            ConfigError: there is no such part; the message lists those there are.
        """
        query = self._query
        other = HubImages(
            self.path,
            split=name,
            image_column=query.image_column,
            label_column=query.label_column,
            channels=self._channels,
            flip=self._flip,
            limit=self._limit,
            streaming=self._streaming,
            cache=self._may_cache,
            revision=query.revision,
            subset=query.subset,
            **self._size,
        )
        _ = other._stream_source if self._streaming else other._source
        return other

    def stream(
        self, *, seed: int = 0, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Stream:
        """Read the pictures as an endless stream, shuffled block by block.

        Args:
            seed: decides the order, at least 0.
            rank: number of this process, in [0, world_size).
            world_size: number of processes; they share the pictures out.
            start: how many pictures of this process to pass over first.

        Returns:
            The stream.

        Raises:
            ConfigError: the data were not opened with ``streaming``.
        """
        if not self._streaming:
            return super().stream(seed=seed, rank=rank, world_size=world_size, start=start)
        stream = ImageStream(
            self._stream_source,
            self._shape,
            name=f"{self.path} ({self.part})",
            event_shape=self.event_shape,
            limit=self._limit,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        stream.skip(start)
        return stream

    @cached_property
    def _source(self) -> Source:
        if self._streaming:
            raise ConfigError(
                f"{self!r} is streamed and cannot be indexed or counted; use streaming false"
            )
        return open_source(self._query)

    @cached_property
    def _stream_source(self) -> StreamSource:
        return open_stream(self._query)

    @cached_property
    def _first_raw(self) -> Any:
        if not self._streaming:
            return self._source.raw([0])[0]
        source = self._stream_source
        name = f"{self.path} ({self.part})"
        with reading(name):
            row = next(iter(source.rows), None)
        if row is None:
            raise DataError(f"{name} holds no pictures; give another path")
        return to_raw(row[source.image], self._where_first())

    def _where_first(self) -> str:
        return f"row 0 of {self.path} ({self.part})" if self._streaming else self._source.where(0)

    @cached_property
    def _shape(self) -> Shape:
        if self._channels is not None:
            return Shape(self._channels, **self._size)
        channels = natural_channels(open_picture(self._first_raw, self._where_first))
        return Shape(channels, strict_grey=channels == 1, **self._size)

    @cached_property
    def _first(self) -> np.ndarray:
        return decode(self._first_raw, self._shape, self._where_first)

    @cached_property
    def _decoded(self) -> Tensor:
        images = torch.empty(len(self), *self.event_shape, dtype=torch.uint8)
        for start in range(0, len(self), CHUNK):
            stop = min(start + CHUNK, len(self))
            images[start:stop] = self._decode(range(start, stop))
        return images

    def _decode(self, indices: Sequence[int]) -> Tensor:
        channels, height, width = self.event_shape
        out = np.empty((len(indices), height, width, channels), np.uint8)
        for row, (index, raw) in enumerate(zip(indices, self._source.raw(indices), strict=True)):
            array = decode(raw, self._shape, partial(self._source.where, index))
            if array.shape != out.shape[1:]:
                raise self._mixed_sizes(index, array)
            out[row] = array
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def _mixed_sizes(self, index: int, array: np.ndarray) -> DataError:
        first, source = self._first, self._source
        return DataError(
            f"{source.where(0)} is {first.shape[1]} x {first.shape[0]} but {source.where(index)} "
            f"is {array.shape[1]} x {array.shape[0]}; bring them to one size: "
            f"--data.image_size N with --data.crop center"
        )


def _check(
    path: str,
    image_size: int | None,
    crop: str,
    channels: int | None,
    pad: int,
    limit: int | None,
) -> None:
    if not path:
        raise ConfigError("path is empty; give a folder, a file, or a Hub name like owner/name")
    for name, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; allowed: 1 or more, or null")
    if pad < 0:
        raise ConfigError(f"pad is {pad}; allowed: 0 or more")
    if crop not in ("center", "none"):
        raise ConfigError(f"crop is {crop!r}; allowed: 'center', 'none'")
    if channels not in (None, 1, 3):
        raise ConfigError(f"channels is {channels}; allowed: 1 (grey), 3 (colour), or null")
