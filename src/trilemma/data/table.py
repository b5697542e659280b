r"""Tables: rows of numbers and categories, from a CSV file or one of scikit-learn's own data sets.

A row becomes a vector with one entry a column, in the table's order. A *numeric* entry v is
standardised by the mean and the standard deviation of the training rows,

$$ x = (v - \mu) / \sigma, $$

and a *categorical* entry is its number 0, ..., n - 1 among the column's categories in their order
(numbers by size, texts by alphabet, those of scikit-learn as they come). `categories` says which
is which: 0 for a numeric column, else n. A label is a column like any other, at `target`.

What takes a vector back to a row, the *description*, is a dictionary that JSON can hold. Kept with
a model, it turns samples into a CSV file (`to_csv`) without the data they were learnt from.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data.base import Batch, Data, to_indices
from trilemma.errors import ConfigError, DataError, nearest
from trilemma.typing import Event

__all__ = ["BUNDLED", "Column", "Table", "from_rows", "to_csv", "to_rows"]

SPLITS = ("train", "test")
BUNDLED = {
    "wine": "load_wine",
    "breast-cancer": "load_breast_cancer",
    "iris": "load_iris",
    "diabetes": "load_diabetes",
}
"""Real data sets inside scikit-learn, and what loads them.

- `wine`: 178 wines of three cultivars, 13 chemical measurements;
- `breast-cancer`: 569 tumours, benign or malignant, 30 measurements of cell nuclei;
- `iris`: 150 flowers of three species, 4 lengths;
- `diabetes`: 442 patients, 9 numbers and the sex; the label is a number too.
"""
LABEL = "label"
"""Name of the label's column in these sets."""
MISSING = {"", "na", "n/a", "nan", "null", "?"}
"""What stands for a missing value, in small letters."""
MAX_DECIMALS = 6
MAX_TEXTS = 100
MOSTLY = 0.9


@dataclass(frozen=True)
class Column:
    """A column, and how its entries become numbers.

    Args:
        name: of the column.
        categories: their names, in the order of their codes; () for a numeric column.
        mean: of the training rows; 0 for categories.
        std: of the training rows; 1 for categories and for a constant.
        decimals: digits after the point that all values make do with; None if more than 6.
    """

    name: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    decimals: int | None = None

    def read(self, value: float | str) -> float:
        """Entry of the vector for a value in the column's own units, or the name of a category.

        Raises:
            DataError: there is no such category, or the text is not a finite number.
        """
        if self.categories:
            if str(value) not in self.categories:
                raise DataError(
                    f"column {self.name!r} has no category {str(value)!r}; "
                    f"{nearest(str(value), self.categories)}"
                )
            return float(self.categories.index(str(value)))
        number = _number(str(value))
        if number is None:
            raise DataError(f"column {self.name!r}: {value!r} is not a finite number")
        return (number - self.mean) / self.std

    def show(self, entry: float) -> float | str:
        """Undo ``read``: numbers rounded to the column's decimals, the nearest category."""
        if self.categories:
            return self.categories[min(max(round(entry), 0), len(self.categories) - 1)]
        value = entry * self.std + self.mean
        return value if self.decimals is None else round(value, self.decimals)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with what the column's kind needs."""
        if self.categories:
            return {"name": self.name, "categories": list(self.categories)}
        numbers = {"mean": self.mean, "std": self.std, "decimals": self.decimals}
        return {"name": self.name, **numbers}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Column:
        """Rebuild a column from ``to_dict``.

        Raises:
            DataError: a field is unknown, missing or of the wrong kind.
        """
        try:
            column = cls(**{**fields, "categories": tuple(fields.get("categories", ()))})
            if column.std > 0:
                return column
        except TypeError as error:
            raise DataError(f"a column cannot be read from {dict(fields)}: {error}") from error
        raise DataError(f"a column cannot be read from {dict(fields)}: std must be positive")


class Table(Data):
    """Rows of a table, standardised and coded, one part of a seeded division into two.

    Args:
        path: ``"wine"``, ``"breast-cancer"``, ``"iris"`` or ``"diabetes"``, which need
            scikit-learn, or the path of a CSV file with a header.
        split: ``"train"`` or ``"test"``.
        seed: decides which rows are which part's, at least 0.
        test_share: share of the test rows, in (0, 1).
        categorical: names of columns that are categories though all their values are numbers.
        max_categories: a column of numbers is numeric if it has more different values than this,
            else categorical, at least 0.
        target: name of the column that a classifier would predict; scikit-learn's sets know theirs.
        delimiter: what separates the entries of a CSV file, one character.

    Raises:
        ConfigError: an unknown split, or a number out of range.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        seed: int = 0,
        test_share: float = 0.25,
        categorical: Sequence[str] = (),
        max_categories: int = 10,
        target: str | None = None,
        delimiter: str = ",",
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"a table has no split {split!r}; {nearest(split, SPLITS)}")
        if not (0 < test_share < 1 and seed >= 0 and max_categories >= 0):
            raise ConfigError(
                f"test_share is {test_share}, seed {seed}, max_categories {max_categories}; "
                "allowed: test_share in (0, 1), seed and max_categories 0 or more"
            )
        if len(delimiter) != 1:
            raise ConfigError(f"delimiter is {delimiter!r}; allowed: one character")
        self.path, self.part = str(path), split
        self.settings: dict[str, Any] = {
            "seed": seed,
            "test_share": test_share,
            "categorical": list(categorical),
            "max_categories": max_categories,
            "target": target,
            "delimiter": delimiter,
        }

    def __repr__(self) -> str:
        return f"Table({self.path!r}, split={self.part!r})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """A row has one entry a column."""
        return (len(self.columns),)

    @property
    def num_classes(self) -> int:
        """None: a label is a column of the rows."""
        return 0

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return self._opened[0]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Name of each column."""
        return tuple(column.name for column in self.columns)

    @property
    def categories(self) -> tuple[int, ...]:
        """Number of categories of each column; 0 for a numeric one."""
        return tuple(len(column.categories) for column in self.columns)

    @property
    def category_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of each column's categories; () for a numeric one."""
        return tuple(column.categories for column in self.columns)

    @property
    def target(self) -> int | None:
        """Number of the label's column; None if no column was named as such."""
        return self._opened[1]

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return rows by number.

        Args:
            indices: row numbers (b) within this part, each in [0, len).

        Returns:
            The rows (b, num_columns), float32, without labels.

        Raises:
            IndexError: an index lies outside [0, len).
            DataError: the table cannot be read.
        """
        return Batch(self._rows[to_indices(indices, len(self))])

    def split(self, name: str) -> Table:
        """Return the other part, standardised by the same training rows.

        Args:
            name: ``"train"`` or ``"test"``.

        Returns:
            The rows that this part does not have.

        Raises:
            ConfigError: any other name.
        """
        return Table(self.path, split=name, **self.settings)

    def to_rows(self, x: Event) -> list[list[float | str]]:
        """Turn vectors into rows in the data's own units.

        Args:
            x: vectors (n, num_columns).

        Returns:
            Rows of numbers and names of categories.
        """
        return to_rows(x, self.describe())

    def from_rows(self, rows: Sequence[Sequence[float | str]]) -> Event:
        """Turn rows in the data's own units into vectors (n, num_columns), float32."""
        return from_rows(rows, self.describe())

    def describe(self) -> dict[str, Any]:
        """Say how vectors become rows, and how the table was divided, as plain values.

        Returns:
            ``columns`` (a list with the name of each column, and its categories or its mean,
            standard deviation and decimals), ``target`` (a column number or None) and
            ``settings``, the arguments that open the table in the same way again, but for path
            and split.
        """
        columns = [column.to_dict() for column in self.columns]
        return {"columns": columns, "target": self.target, "settings": dict(self.settings)}

    @cached_property
    def _opened(self) -> tuple[tuple[Column, ...], int | None, Tensor]:
        """Columns, number of the label's column, and the rows of this part."""
        source = _bundled(self.path) if self.path in BUNDLED else self._file()
        order = self._order(source.num_rows)
        num_test = min(max(round(source.num_rows * self.settings["test_share"]), 1), len(order) - 2)
        train, test = order[num_test:], order[:num_test]
        columns, entries = [], []
        for name, values in zip(source.names, source.values, strict=True):
            column, numbers = self._column(name, values, source, train)
            columns.append(column)
            entries.append(numbers)
        table = torch.from_numpy(np.stack(entries, axis=1)).to(torch.float32)
        target = self.settings["target"] or source.target
        if target is not None and target not in source.names:
            raise ConfigError(f"{self.path}: no column {target!r}; {nearest(target, source.names)}")
        part = train if self.part == "train" else test
        position = None if target is None else source.names.index(target)
        return tuple(columns), position, table[torch.from_numpy(part)]

    @property
    def _rows(self) -> Tensor:
        return self._opened[2]

    def _file(self) -> _Source:
        """Read the CSV file and check that its columns exist."""
        source = _read(Path(self.path), self.settings["delimiter"])
        for name in self.settings["categorical"]:
            if name not in source.names:
                raise ConfigError(f"{self.path}: no column {name!r}; {nearest(name, source.names)}")
        return source

    def _order(self, num_rows: int) -> Any:
        """A permutation of the rows, the test rows first."""
        if num_rows < 3:
            raise DataError(f"{self.path} has {num_rows} rows; at least 3 are needed")
        return np.random.default_rng([self.settings["seed"], 0]).permutation(num_rows)

    def _column(
        self, name: str, values: Sequence[str | float], source: _Source, train: Any
    ) -> tuple[Column, Any]:
        """A column and its entries for all rows, float64."""
        if name in source.codes:
            return Column(name, source.codes[name]), np.asarray(values, np.float64)
        numbers = [value if isinstance(value, float) else _number(value) for value in values]
        is_number = [number is not None for number in numbers]
        chosen = name in self.settings["categorical"]
        self._check_missing(name, values, source, chosen=chosen)
        limit = self.settings["max_categories"]
        many = len(set(compress(numbers, is_number))) > limit
        if not chosen and all(is_number) and many:
            return _numeric(name, np.asarray(numbers, np.float64), train)
        if not chosen and many and sum(is_number) >= MOSTLY * len(values):
            row = is_number.index(False)
            raise DataError(
                f"{source.where(row)}, column {name!r}: {values[row]!r} is not a number, though "
                f"{sum(is_number)} of {len(values)} values are; correct it, or name the column in "
                "categorical"
            )
        texts = [_plain(value) for value in values]
        if all(is_number):
            by_text = dict(zip(texts, numbers, strict=True))
            names = sorted(by_text, key=lambda text: (by_text[text], text))
        else:
            names = sorted(set(texts))
        if not chosen and len(names) > max(MAX_TEXTS, limit) and 2 * len(names) > len(values):
            raise DataError(
                f"column {name!r} has {len(names)} different texts in {len(values)} rows, such as "
                f"{names[0]!r}: leave out identifiers and free text, or name it in categorical"
            )
        codes = {text: float(code) for code, text in enumerate(names)}
        return Column(name, tuple(names)), np.asarray([codes[text] for text in texts])

    @staticmethod
    def _check_missing(
        name: str, values: Sequence[str | float], source: _Source, *, chosen: bool
    ) -> None:
        """Refuse missing values; in a column of chosen categories only an empty entry is one."""
        absent = {""} if chosen else MISSING
        for row, value in enumerate(values):
            if isinstance(value, str) and value.strip().lower() in absent:
                raise DataError(
                    f"{source.where(row)}, column {name!r}: the value is missing ({value!r}); "
                    "fill it in, or leave the row out"
                )


@dataclass(frozen=True)
class _Source:
    """A table as it was found.

    Args:
        path: its name, for messages.
        names: of the columns.
        values: of each column: texts, numbers, or codes where the column stands in ``codes``.
        lines: line of each row in the file; () if it is no file.
        codes: names of the categories of columns that are coded already.
        target: name of the label's column, if known.
    """

    path: str
    names: list[str]
    values: list[Sequence[str | float]]
    lines: Sequence[int]
    codes: Mapping[str, tuple[str, ...]]
    target: str | None

    @property
    def num_rows(self) -> int:
        return len(self.values[0])

    def where(self, row: int) -> str:
        """Say where a row stands."""
        return f"{self.path}, " + (f"line {self.lines[row]}" if self.lines else f"row {row}")


def _read(path: Path, delimiter: str) -> _Source:
    """Read a CSV file with a header.

    Raises:
        DataError: it is missing, unreadable, or its lines differ in length.
    """
    rows, lines = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if any(cell.strip() for cell in row) or len(row) > 1:
                    rows.append([cell.strip() for cell in row])
                    lines.append(reader.line_num)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist; give a CSV file or one of {', '.join(BUNDLED)}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} as CSV: {error}") from error
    if len(rows) < 2:
        raise DataError(f"{path} has no rows; the first line is the header")
    names = rows[0]
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"the header of {path} must name every column, each differently: {names}")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(row)} entries, but the header has {len(names)}; "
                f"entries are separated by {delimiter!r}"
            )
    values: list[Sequence[str | float]] = [list(column) for column in zip(*rows[1:], strict=True)]
    return _Source(str(path), names, values, lines[1:], {}, None)


def _bundled(name: str) -> _Source:
    """Load one of scikit-learn's data sets; its label becomes the last column.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ConfigError(
            f"the table {name!r} comes with scikit-learn: pip install 'trilemma[tables]'"
        ) from error
    unscaled = {"scaled": False} if name == "diabetes" else {}
    found = getattr(datasets, BUNDLED[name])(**unscaled)
    values: list[Sequence[str | float]] = [column.tolist() for column in found.data.T]
    names = [*map(str, found.feature_names), LABEL]
    classes = tuple(map(str, getattr(found, "target_names", ())))
    values.append(np.asarray(found.target, np.float64).tolist())
    return _Source(name, names, values, (), {LABEL: classes} if classes else {}, LABEL)


def _numeric(name: str, numbers: Any, train: Any) -> tuple[Column, Any]:
    """A numeric column and its standardised entries."""
    mean, std = float(numbers[train].mean()), float(numbers[train].std())
    std = std if std > 1e-12 * max(abs(mean), 1e-300) else 1.0
    return Column(name, (), mean, std, _decimals(numbers)), (numbers - mean) / std


def _decimals(numbers: Any) -> int | None:
    """Digits after the point that all numbers make do with, at most 6; None if they need more."""
    tolerance = 1e-12 * np.maximum(np.abs(numbers), 1.0)
    for digits in range(MAX_DECIMALS + 1):
        if (np.abs(numbers - numbers.round(digits)) <= tolerance).all():
            return digits
    return None


def _number(text: str) -> float | None:
    """Read a finite number, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _plain(value: str | float) -> str:
    """A category's name; whole numbers without a point."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value.is_integer() else repr(value)


def _columns(description: Mapping[str, Any], width: int) -> list[Column]:
    """Columns of a description, as many as the vectors are wide."""
    try:
        columns = [Column.from_dict(fields) for fields in description["columns"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the description of a table has no list of columns: {error}") from error
    if len(columns) != width:
        raise DataError(f"rows have {width} entries, the description has {len(columns)} columns")
    return columns


def to_rows(x: Event, description: Mapping[str, Any]) -> list[list[float | str]]:
    """Turn vectors into rows in the data's own units.

    Args:
        x: vectors (n, num_columns).
        description: what ``Table.describe`` returned.

    Returns:
        Rows of numbers and names of categories.

    Raises:
        DataError: the description is damaged or of another table.
    """
    columns = _columns(description, x.shape[1])
    return [
        [column.show(entry) for column, entry in zip(columns, row, strict=True)]
        for row in x.double().tolist()
    ]


def from_rows(rows: Sequence[Sequence[float | str]], description: Mapping[str, Any]) -> Event:
    """Undo ``to_rows``.

    Args:
        rows: numbers and names of categories in the order of the columns.
        description: what ``Table.describe`` returned.

    Returns:
        Vectors (n, num_columns), float32.

    Raises:
        DataError: a value does not fit its column, or the description is of another table.
    """
    width = len(rows[0]) if rows else len(description.get("columns", ()))
    columns = _columns(description, width)
    entries = [
        [column.read(value) for column, value in zip(columns, row, strict=True)] for row in rows
    ]
    return torch.tensor(entries, dtype=torch.float32).reshape(len(rows), len(columns))


def to_csv(x: Event, description: Mapping[str, Any]) -> str:
    """Write vectors as the text of a CSV file with a header.

    Numbers have the data's decimals, or six significant digits if the data have more than that.

    Args:
        x: vectors (n, num_columns).
        description: what ``Table.describe`` returned.

    Returns:
        Lines that ``Table`` can read again.

    Raises:
        DataError: the description is damaged or of another table.
    """
    columns = _columns(description, x.shape[1])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in to_rows(x, description):
        writer.writerow([_cell(*pair) for pair in zip(columns, row, strict=True)])
    return text.getvalue()


def _cell(column: Column, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if column.decimals is None else f"{value:.{column.decimals}f}"
