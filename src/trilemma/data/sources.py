"""Where pictures lie: folders, parquet tables, arrays and the Hugging Face Hub, behind one face.

A source knows how many pictures there are, hands out their encoded bytes by number, and carries
their labels. Everything about a picture's look is the business of `decode`.

- a folder of pictures: two or more sub-folders are classes, sorted by name, unless they are called
  `train`, `test` or `validation`, which makes them the parts of the data;
- parquet files: the part is read from the file's name (`train-00000.parquet`) or its folder's;
- one `.parquet` or `.npz` file: a single part, `train`;
- anything else that is shaped like `name` or `owner/name`: a data set on the Hub.
"""

import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data.columns import (
    NO_LABEL,
    Query,
    class_names,
    count_classes,
    find_image,
    find_label,
    table_labels,
    to_labels,
    to_raw,
)
from trilemma.data.decode import Raw
from trilemma.data.layout import (
    class_of,
    find_files,
    find_pictures,
    group_parquet,
    group_pictures,
    neighbours,
)
from trilemma.errors import ConfigError, DataError, nearest

__all__ = ["Source", "StreamSource", "open_source", "open_stream", "read_arrays", "reading"]

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ALLOWED = (
    "a folder of pictures, a folder of parquet files, a .parquet file, an .npz file, "
    "or a Hub name like owner/name"
)


class Source(ABC):
    """Encoded pictures by number.

    Args:
        labels: class numbers (n), int64, or None.
        class_names: their names, or ().
        num_classes: how many classes, 0 without labels.
    """

    def __init__(
        self, labels: Tensor | None, class_names: tuple[str, ...], num_classes: int
    ) -> None:
        self.labels = labels
        self.class_names = class_names
        self.num_classes = num_classes

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def raw(self, indices: Sequence[int]) -> list[Raw]:
        """Return encoded pictures.

        Args:
            indices: picture numbers.

        Returns:
            One encoded picture each.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Name a picture for an error message.

        Args:
            index: its number.

        Returns:
            Its file, or its row and table.
        """


class FolderSource(Source):
    """Picture files.

    Args:
        files: the pictures, in order.
        classes: names of all classes, () when unlabelled.
        root: the folder below which each picture's first folder is its class.
    """

    def __init__(self, files: list[Path], classes: tuple[str, ...], root: Path) -> None:
        number = {name: index for index, name in enumerate(classes)}
        labels = [number[file.relative_to(root).parts[0]] for file in files] if classes else None
        super().__init__(None if labels is None else torch.tensor(labels), classes, len(classes))
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def raw(self, indices: Sequence[int]) -> list[Raw]:
        """Return the files' paths."""
        return [self._files[index] for index in indices]

    def where(self, index: int) -> str:
        """Name the file."""
        return f"picture {self._files[index]}"


class ArraySource(Source):
    """Pictures in an array.

    Args:
        images: pictures (n, h, w) or (n, h, w, c), uint8.
        labels: class numbers (n), int64, or None.
        path: the file they are from.
    """

    def __init__(self, images: np.ndarray, labels: Tensor | None, path: Path) -> None:
        super().__init__(labels, (), count_classes(labels))
        self._images = images
        self._path = path

    def __len__(self) -> int:
        return len(self._images)

    def raw(self, indices: Sequence[int]) -> list[Raw]:
        """Return rows of the array."""
        return [self._images[index] for index in indices]

    def where(self, index: int) -> str:
        """Name the row."""
        return f"row {index} of {self._path}"


class TableSource(Source):
    """Rows of a `datasets` table.

    Args:
        table: a `datasets.Dataset`.
        query: what was asked for.
    """

    def __init__(self, table: Any, query: Query) -> None:
        image = find_image(table.features, query)
        label = find_label(table.features, query, count_integers=True)
        labels = None if label is None else table_labels(table, label, query.path)
        names = class_names(table.features, label)
        super().__init__(labels, names, len(names) or count_classes(labels))
        self._rows = table.select_columns([image]).with_format("arrow")
        self._query = query

    def __len__(self) -> int:
        return len(self._rows)

    def raw(self, indices: Sequence[int]) -> list[Raw]:
        """Read rows; consecutive ones are fastest."""
        cells = self._rows[list(indices)].column(0).to_pylist()
        return [to_raw(cell, self.where(index)) for cell, index in zip(cells, indices, strict=True)]

    def where(self, index: int) -> str:
        """Name the row."""
        return f"row {index} of {self._query.path} ({self._query.split})"


@dataclass(frozen=True)
class StreamSource:
    """Rows of a `datasets` stream.

    Args:
        rows: a `datasets.IterableDataset` with only the columns below.
        image: column with the encoded pictures.
        label: column with the labels, or None.
        class_names: names of the classes, or ().
    """

    rows: Any
    image: str
    label: str | None
    class_names: tuple[str, ...]


def open_source(query: Query) -> Source:
    """Find pictures by path or name.

    Args:
        query: what is wanted.

    Returns:
        The pictures of one part of the data; at least one.

    Raises:
        ConfigError: the part or a column does not exist.
        DataError: the path does not exist, cannot be read, holds no pictures, or the Hub does not
            answer.
    """
    root = Path(query.path).expanduser()
    if root.is_dir():
        source = _open_folder(root, query)
    elif root.is_file():
        source = _open_file(root, query)
    else:
        source = TableSource(_from_hub(query, streaming=False), query)
    if len(source) == 0:
        raise DataError(f"{query.path} ({query.split}) holds no pictures; give another path")
    return source


def open_stream(query: Query) -> StreamSource:
    """Find pictures that shall be streamed.

    Args:
        query: what is wanted.

    Returns:
        The stream of one part of the data.

    Raises:
        ConfigError: the part or a column does not exist, or the data cannot be streamed.
        DataError: the path does not exist, cannot be read, or the Hub does not answer.
    """
    root = Path(query.path).expanduser()
    if root.exists():
        files = [root] if root.suffix == ".parquet" else find_files(root, {".parquet"})
        if not files:
            raise ConfigError(
                f"streaming needs parquet files or a Hub name, and {root} is neither; "
                "use streaming false"
            )
        rows = _read_parquet(_choose(group_parquet(root, files), query), query, streaming=True)
    else:
        rows = _from_hub(query, streaming=True)
    if rows.features is None:
        with reading(f"{query.path} ({query.split})"):
            rows = rows._resolve_features()
    image = find_image(rows.features, query)
    label = find_label(rows.features, query, count_integers=False)
    rows = rows.select_columns([name for name in (image, label) if name])
    if type(rows.features[image]).__name__ == "Image":
        rows = rows.cast_column(image, _datasets().Image(decode=False))
    return StreamSource(rows, image, label, class_names(rows.features, label))


def _choose(parts: dict[str, Any], query: Query) -> Any:
    if query.split not in parts:
        raise ConfigError(
            f"{query.path} has no split {query.split!r}; {nearest(query.split, parts)}; "
            "--split NAME chooses"
        )
    return parts[query.split]


def _open_folder(root: Path, query: Query) -> Source:
    parquet = find_files(root, {".parquet"})
    if parquet:
        files = _choose(group_parquet(root, parquet), query)
        return TableSource(_read_parquet(files, query, streaming=False), query)
    if (root / "dataset_info.json").is_file() or (root / "dataset_dict.json").is_file():
        return TableSource(_choose(_saved_tables(root), query), query)
    return _open_pictures(root, query)


def _open_file(path: Path, query: Query) -> Source:
    if path.suffix == ".parquet":
        files = _choose(group_parquet(path, [path]), query)
        return TableSource(_read_parquet(files, query, streaming=False), query)
    if path.suffix == ".npz":
        _choose({"train": path}, query)
        return _open_npz(path, query)
    raise DataError(f"{path} is a {path.suffix or 'nameless'} file; allowed: {ALLOWED}")


def _open_pictures(root: Path, query: Query) -> FolderSource:
    files = find_pictures(root)
    if not files:
        count = sum(1 for _ in root.iterdir())
        inside = f"{count} entries but no pictures" if count else "nothing"
        raise DataError(f"folder {root} holds {inside}; allowed: {ALLOWED}")
    parts = group_pictures(root, files)
    chosen_root, chosen = _choose(parts, query)
    if query.label_column == NO_LABEL:
        return FolderSource(chosen, (), chosen_root)
    classes = {class_of(file, base) for base, group in parts.values() for file in group}
    names = tuple(sorted(name for name in classes if name))
    if len(names) < 2 and "" not in classes:  # one folder tells nothing apart
        names = ()
    if names and "" in classes:
        loose = next(f for base, group in parts.values() for f in group if not class_of(f, base))
        raise DataError(
            f"folder {root} has pictures both in class folders ({names[0]}) and outside "
            f"({loose.name}); move them, or give label_column 'none' to train without labels"
        )
    return FolderSource(chosen, names, chosen_root)


def read_arrays(
    path: Path | str, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read arrays of an ``.npz`` file.

    Args:
        path: the file.
        needed: names of which at least one must be there.
        optional: further names.

    Returns:
        Those of them that are there, by name.

    Raises:
        DataError: the file is missing, damaged, of another kind, or has none that is needed.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it holds a single array, as .npy files do")
        with archive:
            present = archive.files
            arrays = {name: archive[name] for name in (*needed, *optional) if name in present}
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):  # NumPy's advice is to read what may hold a program
            raise DataError(f"{path} is not an .npz file, or not one of numbers") from error
        raise DataError(f"{path} is not a readable .npz file: {_first_line(error)}") from error
    if not any(name in arrays for name in needed):
        names = " or ".join(map(repr, needed))
        raise DataError(f"{path} has {sorted(present)}; the pictures must be called {names}")
    return arrays


def _open_npz(path: Path, query: Query) -> ArraySource:
    arrays = read_arrays(path, ["arr_0"], ["arr_1"])
    images = arrays["arr_0"]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:]
        not in (
            (),
            (1,),
            (3,),
        )
    ):
        raise DataError(
            f"arr_0 of {path} is {images.dtype} {images.shape}; allowed: uint8 "
            "(n, h, w), (n, h, w, 1) or (n, h, w, 3)"
        )
    images = images[..., 0] if images.shape[3:] == (1,) else images
    if query.label_column == NO_LABEL or "arr_1" not in arrays:
        return ArraySource(images, None, path)
    labels = to_labels(arrays["arr_1"], path)
    if len(labels) != len(images):
        raise DataError(
            f"{path} has {len(images)} pictures in arr_0, {len(labels)} labels in arr_1"
        )
    return ArraySource(images, labels, path)


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "reading parquet files and the Hub needs `datasets`: pip install 'trilemma[train]'"
        ) from error
    return datasets


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Let `datasets` read tables silently, and say what it cannot read in one line.

    Downloads keep their progress bar; reading needs none.

    Args:
        name: names the data in the error message.

    Raises:
        DataError: they are damaged, or no table.
    """
    datasets = _datasets()
    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except Exception as error:  # pyarrow and datasets share no base class
        raise DataError(f"{name} cannot be read: {_root_cause(error)}") from error
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


def _read_parquet(files: list[Path], query: Query, *, streaming: bool) -> Any:
    names = {"train": [str(file) for file in files]}
    load = _datasets().load_dataset
    with reading(f"{query.path} ({query.split})"):
        return load("parquet", data_files=names, streaming=streaming)["train"]


def _saved_tables(root: Path) -> dict[str, Any]:
    load = _datasets().load_from_disk
    with reading(str(root)):
        saved = load(str(root))
    return dict(saved) if isinstance(saved, dict) else {"train": saved}


def _from_hub(query: Query, *, streaming: bool) -> Any:
    path = query.path
    if not HUB_NAME.fullmatch(path) or Path(path).suffix in (".npz", ".parquet"):
        raise DataError(f"path {path} does not exist{neighbours(path)}; allowed: {ALLOWED}")
    datasets = _datasets()
    try:
        parts = datasets.load_dataset(
            path, query.subset, revision=query.revision, streaming=streaming
        )
    except Exception as error:  # network, authorisation, format: each library has its own
        raise _hub_error(query, error) from error
    return _choose(parts, query)


def _hub_error(query: Query, error: Exception) -> DataError:
    path = query.path
    if isinstance(error, FileNotFoundError):
        reason = "the Hub has no public data set of this name"
    elif isinstance(error, ConnectionError | TimeoutError):
        reason = "the Hub cannot be reached from here"
    else:
        reason = f"the Hub's data set cannot be opened: {_root_cause(error)}"
    fix = "download it once with a connection, or give a local folder"
    return DataError(f"{path!r} is no local path{neighbours(path)}, and {reason}; {fix}")


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
