"""How files are arranged: which pictures belong to which part and class of the data.

Parts are found by the usual names of folders and files (`PARTS`); every other sub-folder with
pictures is a class. Hidden files and folders are passed over. Links to folders are followed, but
for those that lead back to a folder on the way.
"""

import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from PIL import Image

__all__ = [
    "PARTS",
    "class_of",
    "find_files",
    "find_pictures",
    "group_parquet",
    "group_pictures",
    "neighbours",
]

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
"""What folders and files are called, and the part of the data they hold."""


def find_files(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """List the files in a folder and below it.

    Args:
        root: the folder.
        suffixes: endings wanted, lower case, with their dot.

    Returns:
        The files, sorted by path.
    """
    wanted = tuple(suffixes)
    found = [
        Path(folder) / name
        for folder, below, names in _walk(root)
        for name in names
        if name.lower().endswith(wanted) and not name.startswith(".")
    ]
    return sorted(found)


def find_pictures(root: Path) -> list[Path]:
    """List the pictures in a folder and below it, by their endings.

    Args:
        root: the folder.

    Returns:
        The files, sorted by path.
    """
    known = Image.registered_extensions().items()
    return find_files(root, {ending for ending, kind in known if kind in Image.OPEN})


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    way = {root: {os.path.realpath(root)}}  # the folders from the root down to each
    for folder, below, names in os.walk(root, followlinks=True):
        above, kept = way.pop(Path(folder)), []
        for name in below:
            path = Path(folder) / name
            real = os.path.realpath(path)
            if not name.startswith(".") and name != "__MACOSX" and real not in above:
                way[path] = above | {real}
                kept.append(name)
        below[:] = kept
        yield folder, below, names


def class_of(file: Path, root: Path) -> str:
    """Name the class of a picture.

    Args:
        file: the picture.
        root: the folder that holds the class folders.

    Returns:
        The first folder on the way from ``root``, or "" when the picture lies in ``root`` itself.
    """
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def group_pictures(root: Path, files: list[Path]) -> dict[str, tuple[Path, list[Path]]]:
    """Group by part: the sub-folders are parts when all are called so, or one is called train.

    Args:
        root: the folder.
        files: the pictures in it.

    Returns:
        For each part its own folder and pictures.
    """
    top = {PARTS.get(class_of(file, root).lower()) for file in files}
    if "train" not in top and None in top:
        return {"train": (root, files)}
    parts: dict[str, tuple[Path, list[Path]]] = {}
    for file in files:
        name = class_of(file, root)
        if name.lower() in PARTS:
            part = parts.setdefault(PARTS[name.lower()], (root / name, []))
            part[1].append(file)
    return parts


def group_parquet(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Group by part: the name begins with the part, or a folder above is called so.

    Args:
        root: the folder, or the single file.
        files: the parquet files in it.

    Returns:
        The files of each part.
    """
    parts: dict[str, list[Path]] = {}
    for file in files:
        folders = file.relative_to(root).parts[:-1] if file != root else ()
        words = [re.split(r"[^a-zA-Z]", file.stem.lower())[0], *(f.lower() for f in folders)]
        names = [PARTS[word] for word in words if word in PARTS] or ["train"]
        parts.setdefault(names[0], []).append(file)
    if root.is_file():  # a single file is the whole data set, whatever its name
        parts.setdefault("train", files)
    return parts


def neighbours(path: str) -> str:
    """Say what lies near a path that does not exist.

    Args:
        path: the missing path.

    Returns:
        A remark in brackets with similar names in the nearest folder that exists, or "".
    """
    target = Path(path).expanduser()
    parent = target.parent
    while not parent.is_dir():
        target, parent = parent, parent.parent
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    close = get_close_matches(target.name, names, n=3, cutoff=0.5)
    if not close:
        return ""
    return f" (nearest in {parent}: {', '.join(close)})"
