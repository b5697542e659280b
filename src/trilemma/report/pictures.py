"""Samples as pictures in the text: PNG of images, SVG of points of the plane."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from trilemma.report import diagrams
from trilemma.report.record import Cell
from trilemma.report.sheet import Sheet
from trilemma.report.svg import Markup, element

__all__ = ["COLUMNS", "LARGEST", "common_range", "outside", "pairs", "plane", "png", "strip"]

COLUMNS = 8
STRIP = 8
LARGEST = 96
"""Sides above this many pixels are reduced to it, so that the page stays small."""
MARGIN = 2
MOST_POINTS = 3000


def png(images: np.ndarray, alt: str, columns: int, class_: str) -> Markup:
    """Images uint8 (n, h, w, c) in a grid, as PNG in the text."""
    small = np.stack([_reduced(image) for image in images])
    count, height, width, _ = small.shape
    rows = math.ceil(count / columns)
    canvas = np.zeros(
        (rows * (height + MARGIN) - MARGIN, columns * (width + MARGIN) - MARGIN, 4), np.uint8
    )
    for i, image in enumerate(small):
        top, left = i // columns * (height + MARGIN), i % columns * (width + MARGIN)
        canvas[top : top + height, left : left + width, :3] = image  # grey is repeated
        canvas[top : top + height, left : left + width, 3] = 255
    grey = bool(
        (canvas[..., 0] == canvas[..., 1]).all() and (canvas[..., 1] == canvas[..., 2]).all()
    )
    picture = Image.fromarray(canvas[..., [0, 3]], "LA") if grey else Image.fromarray(canvas)
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    text = base64.b64encode(buffer.getvalue()).decode()
    return element(
        "img",
        src=f"data:image/png;base64,{text}",
        alt=alt,
        width=str(canvas.shape[1]),
        height=str(canvas.shape[0]),
        class_=f"pixels {class_}",
    )


def _reduced(image: np.ndarray) -> np.ndarray:
    """An image (h, w, c), its larger side at most ``LARGEST``, in as many channels."""
    if max(image.shape[:2]) <= LARGEST:
        return image
    scale = LARGEST / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    mode = image[..., 0] if image.shape[2] == 1 else image
    small = np.asarray(Image.fromarray(mode).resize(size, Image.Resampling.LANCZOS))
    return small[..., None] if small.ndim == 2 else small


def strip(sheet: Sheet, cell: Cell, index: int) -> Markup:
    """A few samples in a row."""
    pictures = sheet.pictures(cell)
    if isinstance(pictures, str):
        return element("p", pictures, class_="note")
    samples = pictures["samples"]
    if samples.ndim != 4:
        return plane(sheet, cell, samples, f"card-{index}")
    return png(samples[:STRIP], f"{STRIP} samples of {cell.model}", STRIP, "strip")


def pairs(images: np.ndarray, neighbours: np.ndarray, name: str) -> Markup:
    """Rows of images, each above the row of their neighbours."""
    rows = []
    for start in range(0, len(images), COLUMNS):
        part = slice(start, start + COLUMNS)
        about = f"{name} that look most like a training image, from number {start + 1}"
        rows.append(png(images[part], about, COLUMNS, "pair"))
        rows.append(png(neighbours[part], f"training images of the {about}", COLUMNS, "pair last"))
    return element("div", *rows)


def common_range(sheet: Sheet, cells: Iterable[Cell]) -> tuple[float, float] | None:
    """Common range of all points, but for the outermost of each cell; None for pictures."""
    ends = []
    for cell in cells:
        pictures = sheet.pictures(cell)
        if isinstance(pictures, str) or pictures["samples"].ndim == 4:
            continue
        values = pictures["samples"][np.isfinite(pictures["samples"])]
        if values.size:
            ends.append(np.quantile(values, (0.002, 0.998)))
    if not ends:
        return None
    low, high = (float(end) for end in np.median(np.array(ends), axis=0))
    room = 0.12 * (high - low) or 1.0
    return low - room, high + room


def outside(points: np.ndarray, ends: tuple[float, float] | None) -> int:
    """How many points lie outside of a range."""
    low, high = ends or (-math.inf, math.inf)
    inside = ((points >= low) & (points <= high)).all(1)
    return int((~inside).sum())


def plane(
    sheet: Sheet,
    cell: Cell,
    points: np.ndarray,
    ident: str,
    ends: tuple[float, float] | None = None,
) -> Markup:
    """Points of the plane; their first two coordinates."""
    where = ends or common_range(sheet, [cell])
    if where is None:
        return element("p", "No finite points.", class_="note")
    dots = [(float(a), float(b)) for a, b in points[:MOST_POINTS, :2]]
    colour = sheet.colour(cell.model)
    drawn = diagrams.scatter(ident, f"Points of {cell.model}", dots, where, colour)
    return element("div", drawn, class_="plane")
