"""Which columns of a table hold the pictures and the labels, and whether the labels are usable.

A column is taken when it declares itself (an image, a class label) or, for labels, when it holds
integers under a usual name. What is named explicitly must exist and fit; nothing is guessed then.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data.decode import Raw
from trilemma.errors import ConfigError, DataError, nearest

__all__ = [
    "LABEL_NAMES",
    "NO_LABEL",
    "Query",
    "class_names",
    "count_classes",
    "find_image",
    "find_label",
    "table_labels",
    "to_labels",
    "to_raw",
]

NO_LABEL = "none"
"""What `label_column` says when labels shall be ignored."""

LABEL_NAMES = ("label", "labels", "class", "classes", "class_label", "target", "digit", "y")
"""Integer columns that are taken for the label when none is declared as a class label."""


@dataclass(frozen=True)
class Query:
    """Which pictures are meant.

    Args:
        path: folder, file, or name on the Hub.
        split: part of the data.
        image_column: column with the pictures; None finds it.
        label_column: column with the labels; None finds it, ``"none"`` ignores labels.
        revision: commit or tag on the Hub.
        subset: configuration on the Hub, for data sets that have several.
    """

    path: str
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None
    revision: str | None = None
    subset: str | None = None


def to_raw(cell: Any, where: str) -> Raw:
    """Take the encoded picture out of a table's cell.

    Args:
        cell: bytes, or a record with ``bytes`` and ``path``.
        where: names the row, for the error message.

    Returns:
        The encoded picture.

    Raises:
        DataError: the cell is empty.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        return Path(cell)
    if not isinstance(cell, bytes):
        raise DataError(f"{where} has no picture; take the row out of the data")
    return cell


def find_image(features: Any, query: Query) -> str:
    """Find the column with the pictures.

    Args:
        features: the table's columns and their types.
        query: what was asked for.

    Returns:
        The column's name.

    Raises:
        ConfigError: there is no such column, or none with pictures.
    """
    if query.image_column is not None:
        _check_column(query.image_column, features, "image_column", query.path)
        if not _holds_images(features[query.image_column]):
            raise ConfigError(
                f"image_column {query.image_column!r} of {query.path} holds "
                f"{_type_name(features[query.image_column])}, not pictures"
            )
        return query.image_column
    pictures = [name for name in features if _holds_images(features[name])]
    declared = [name for name in pictures if type(features[name]).__name__ == "Image"]
    if not pictures:
        raise ConfigError(
            f"{query.path} has no column with pictures; its columns: {', '.join(features)}"
        )
    return (declared or pictures)[0]


def find_label(features: Any, query: Query, *, count_integers: bool) -> str | None:
    """Find the column with the labels.

    Args:
        features: the table's columns and their types.
        query: what was asked for.
        count_integers: whether plain integers will do; a stream cannot count their classes.

    Returns:
        The column's name, or None for unlabelled data.

    Raises:
        ConfigError: there is no such column.
        DataError: the column does not hold integers.
    """
    if query.label_column == NO_LABEL:
        return None
    if query.label_column is not None:
        _check_column(query.label_column, features, "label_column", query.path)
        _check_label_type(features[query.label_column], query, count_integers)
        return query.label_column
    for name in features:
        if type(features[name]).__name__ == "ClassLabel":
            return str(name)
    found = [n for n in features if n.lower() in LABEL_NAMES and _holds_integers(features[n])]
    return str(found[0]) if found and count_integers else None


def _check_column(name: str, features: Any, argument: str, path: str) -> None:
    if name not in features:
        raise ConfigError(f"{argument} {name!r} is not in {path}; {nearest(name, features)}")


def _check_label_type(feature: Any, query: Query, count_integers: bool) -> None:
    if type(feature).__name__ == "ClassLabel":
        return
    fix = "choose another label_column, or label_column 'none' to train without labels"
    if not _holds_integers(feature):
        raise DataError(
            f"label_column {query.label_column!r} of {query.path} holds {_type_name(feature)}; "
            f"labels must be integers from 0: {fix}"
        )
    if not count_integers:
        raise ConfigError(
            f"label_column {query.label_column!r} of {query.path} does not declare its classes, "
            f"so they cannot be counted while streaming; use streaming false, or {fix}"
        )


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", "") in (
        "binary",
        "large_binary",
    )


def _holds_integers(feature: Any) -> bool:
    return type(feature).__name__ == "Value" and feature.dtype.startswith(("int", "uint"))


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def class_names(features: Any, label: str | None) -> tuple[str, ...]:
    """Read the names of the classes.

    Args:
        features: the table's columns and their types.
        label: the column with the labels, or None.

    Returns:
        The declared names, or ().
    """
    return tuple(getattr(features[label], "names", None) or ()) if label else ()


def table_labels(table: Any, column: str, path: str) -> Tensor:
    """Read all labels of a table.

    Args:
        table: a `datasets.Dataset`.
        column: the column with the labels.
        path: names the table in error messages.

    Returns:
        Labels (n), int64.

    Raises:
        DataError: a label is missing, negative or not an integer.
    """
    cells = table.select_columns([column]).with_format("arrow")[:].column(0)
    if cells.null_count:
        row = cells.is_null().to_pylist().index(True)
        raise _bad_label(f"row {row} of {path}", "missing")
    return to_labels(cells.to_numpy(), path)


def to_labels(values: np.ndarray, path: str | Path) -> Tensor:
    """Check labels and turn them into a tensor.

    Args:
        values: class numbers (n), any integer type.
        path: names their origin in error messages.

    Returns:
        Labels (n), int64.

    Raises:
        DataError: a label is negative or not an integer.
    """
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise _bad_label(f"{path} has labels", f"{values.dtype}, shape {values.shape}")
    if (values < 0).any():
        row = int((values < 0).argmax())
        raise _bad_label(f"row {row} of {path}", str(values[row]))
    return torch.from_numpy(values.astype(np.int64))


def _bad_label(where: str, value: str) -> DataError:
    return DataError(
        f"{where}: label {value}; labels must be integers from 0, or give label_column 'none' "
        "to train without labels"
    )


def count_classes(labels: Tensor | None) -> int:
    """Count the classes as the largest label plus one.

    Args:
        labels: labels (n), int64, or None.

    Returns:
        Number of classes, 0 without labels.
    """
    return 0 if labels is None or len(labels) == 0 else int(labels.max()) + 1
