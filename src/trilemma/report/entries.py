"""The models of a report: loaded, or set aside with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trilemma.data import Data, Toy
from trilemma.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TrilemmaError,
)
from trilemma.evaluation import read_npz
from trilemma.pipeline import Pipeline, load, locate
from trilemma.report.ladder import family_of
from trilemma.report.measure import Protocol
from trilemma.report.record import Model

__all__ = ["Entry", "common_data", "open_models"]


@dataclass(frozen=True)
class Entry:
    """A model of the report, its pipeline if it could be loaded, or its samples.

    Args:
        model: what the report says of it.
        pipeline: the model itself.
        samples: uint8 (n, c, h, w), drawn elsewhere.
    """

    model: Model
    pipeline: Pipeline | None = None
    samples: Tensor | None = None

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, None if nothing could be read."""
        if self.pipeline is not None:
            return self.pipeline.event_shape
        return None if self.samples is None else tuple(self.samples.shape[1:])


def open_models(models: Sequence[str], device: str) -> list[Entry]:
    """Load every model, or say why not; names are made unique.

    Args:
        models: bundled names, files, run folders, Hub ids, or ``*.npz`` of samples.
        device: where the networks run.

    Raises:
        ConfigError: if no model is named.
        CheckpointError: if none of them can be read.
    """
    if not models:
        raise ConfigError(
            "no model given; `trilemma models` lists those that ship with the package"
        )
    entries: list[Entry] = []
    for where in models:
        name = _name(where)
        taken = {entry.model.name for entry in entries}
        number = next(
            n for n in range(1, 10**6) if (name if n == 1 else f"{name}-{n}") not in taken
        )
        model = Model(name=name if number == 1 else f"{name}-{number}", where=where)
        try:
            entries.append(_open(model, device))
        except TrilemmaError as error:
            entries.append(Entry(replace(model, error=str(error))))
    if all(entry.model.error for entry in entries):
        raise CheckpointError(entries[0].model.error)
    return entries


def _open(model: Model, device: str) -> Entry:
    file = Path(model.where) if model.where.endswith(".npz") else locate(model.where)
    if file.suffix == ".npz":
        samples = read_npz(file)
        identity = _identity(file)
        model = replace(model, family="samples", method="images from a file", **identity)
        return Entry(model, samples=samples)
    try:
        pipeline = load(file, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r}: {str(error).splitlines()[0]}") from error
    known: dict[str, Any] = {
        "family": family_of(pipeline.method),
        "method": type(pipeline.method).__name__,
        "num_parameters": sum(p.numel() for p in pipeline.method.sampling_state().values()),
        "card": pipeline.card,
    }
    return Entry(replace(model, **known, **_identity(file)), pipeline)


def _fitting(entries: list[Entry], protocol: Protocol) -> tuple[Entry, Data]:
    """The first entry that the data fit, and these; what fails for all fails for the first."""
    reasons = []
    for entry in entries:
        if not entry.model.error:
            assert entry.event_shape is not None
            try:
                return entry, protocol.real(entry.event_shape, entry.model.card)
            except (ConfigError, DataError) as error:
                reasons.append(error)
    raise reasons[0]


def _name(where: str) -> str:
    """What a report calls a model: the run's folder, or the file without its suffix."""
    path = Path(where)
    if not path.exists():
        return where.replace("/", "-")
    path = path.resolve()
    if path.name == "model.safetensors":
        return path.parent.name or "model"
    return path.stem if path.suffix in (".safetensors", ".npz") else path.name or "model"


def _identity(file: Path) -> dict[str, Any]:
    payload = file.read_bytes()
    return {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


def common_data(entries: list[Entry], protocol: Protocol) -> tuple[tuple[int, ...], Data]:
    """Open the data in the form of the first model that fits; models of another are set aside.

    Args:
        entries: changed in place.
        protocol: names the data.

    Returns:
        Shape of one sample, and the real data.

    Raises:
        ConfigError: if the data fit no model, or are rows of a table.
    """
    first, data = _fitting(entries, protocol)
    event_shape = first.event_shape
    assert event_shape is not None
    if len(event_shape) != 3 and not isinstance(data, Toy):
        raise ConfigError(
            "a report compares models of images or of points in the plane; judge models of tables "
            "with `trilemma evaluate`"
        )
    pad = first.model.card.get("pad", 0)
    for i, entry in enumerate(entries):
        error, own = "", entry.model.card.get("pad", 0)
        if entry.event_shape != event_shape:
            error = f"draws {entry.event_shape}, this report compares {event_shape}"
        elif entry.pipeline is not None and own != pad:
            error = f"draws pictures with a border of {own} pixels, this report compares {pad}"
        if error and not entry.model.error:
            entries[i] = Entry(replace(entry.model, error=error))
    return event_shape, data
