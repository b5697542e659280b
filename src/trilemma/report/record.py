"""What a report holds: models, cells, and the protocol that they share.

A *cell* is one way to draw from one model: a sampler on a grid. Its figures are metric records
with their protocol, times, memory, classes and nearest training data. Everything in a ``Report``
is plain values, so that ``report.json`` can be read by any program; pictures lie beside it in
``cells/<key>.npz`` (``Cell.pictures``).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trilemma.errors import DataError
from trilemma.metrics import Record

__all__ = ["FAMILIES", "FORMAT", "Cell", "Model", "Report", "Speed", "plain", "read_cell"]

FORMAT = "trilemma-report-1"

FAMILIES = {
    "ddgan": "denoising diffusion GAN",
    "gan": "plain GAN (one denoising step)",
    "lsgm": "latent diffusion",
    "cld": "critically damped Langevin diffusion",
    "ddpm": "pixel diffusion",
    "edm": "pixel diffusion, preconditioned",
    "vae": "variational autoencoder",
    "samples": "samples from a file",
}
"""What a reader is told of each kind of model."""
PUBLISHED = {"fd": "fid", "kd": "kid", "is": "inception_score"}
"""What a score is called on the features of the true Inception."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Time that sampling takes, networks loaded and warm.

    Attributes:
        batch_size: images drawn at once.
        ms_per_image: median over the repeats, milliseconds per image.
        fastest: the fastest repeat, milliseconds per image.
        slowest: the slowest.
        repeats: how often it was measured.
    """

    batch_size: int
    ms_per_image: float
    fastest: float
    slowest: float
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to draw from one model, and what it is worth.

    Attributes:
        key: "<model>/<sampler>-<steps>"; slashes are folders below ``cells/``.
        model: name of the model.
        sampler: name of the sampler.
        steps: steps of the grid; None for a solver that chooses its own.
        grid: name of the time grid.
        is_default: whether the model draws like this unless told otherwise.
        nfe: network calls per sample; 0 for samples from a file.
        error: why there are no figures; empty if there are.
        records: metrics with their protocol.
        speed: at batch 1 and at a larger one.
        peak_memory: bytes that drawing one batch of ``memory_batch`` adds to those of the loaded
            model; None if it could not be measured.
        memory_batch: that batch.
        time_note: why there are no times, if they were tried.
        class_counts: samples per class; empty if no classifier fits.
        real_class_counts: the same of as many real data.
        memorisation: shares and threshold of the check against training data, or {"note": ...}.
    """

    key: str
    model: str
    sampler: str
    steps: int | None
    grid: str
    is_default: bool
    nfe: int = 0
    error: str = ""
    records: tuple[Record, ...] = ()
    speed: tuple[Speed, ...] = ()
    peak_memory: int | None = None
    memory_batch: int = 64
    time_note: str = ""
    class_counts: tuple[int, ...] = ()
    real_class_counts: tuple[int, ...] = ()
    memorisation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> str:
        """File of the drawn images beside the report.

        ``samples`` uint8 (n, h, w, c), sample i of seed and i; if copies were looked for,
        ``closest`` and ``neighbours`` uint8 (m, h, w, c), the samples most like a training image
        and those images, and ``real_closest`` and ``real_neighbours``, the same of held-out data;
        for points ``samples`` is float32 (n, 2).
        """
        return f"cells/{self.key}.npz"

    def record(self, name: str) -> Record | None:
        """The metric of a name, or of a name that starts like it (``fd`` finds ``fd_digits``).

        ``fd``, ``kd`` and ``is`` also find the score of the true Inception, such as ``kid``.
        """
        for found in self.records:
            if found.name in (name, PUBLISHED.get(name)) or found.name.startswith(f"{name}_"):
                return found
        return None

    @property
    def distance(self) -> Record | None:
        """The Frechet distance, whatever its features."""
        return self.record("fid") or self.record("fd")

    def value(self, name: str) -> float:
        """Value of a metric, NaN where there is none."""
        found = self.distance if name == "distance" else self.record(name)
        return math.nan if found is None else found.value

    def milliseconds(self, batch_size: int | None = None) -> float:
        """Time per image at a batch size (the largest by default), NaN where not measured."""
        speeds = sorted(self.speed, key=lambda speed: speed.batch_size)
        if batch_size is not None:
            speeds = [speed for speed in speeds if speed.batch_size == batch_size]
        return speeds[-1].ms_per_image if speeds else math.nan


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the report.

    Attributes:
        name: what the report calls it.
        where: path, bundled name or Hub id, as it was given.
        family: a key of ``FAMILIES``.
        method: name of its class.
        num_parameters: of the networks that sampling needs.
        size: bytes of its file.
        sha256: of its file; empty if it could not be read.
        error: why it could not be loaded; empty if it could.
        card: where its weights came from.
        likelihood: as ``LikelihoodResult.as_dict``, or {"note": why there is none}.
    """

    name: str
    where: str
    family: str = ""
    method: str = ""
    num_parameters: int = 0
    size: int = 0
    sha256: str = ""
    error: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    likelihood: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was measured, under one protocol.

    Attributes:
        models: in the order in which they were named.
        cells: in the order of the models, then of calls.
        data: name, kind ("images", "stacked" or "points"), split, event_shape, length,
            class_names, of the classes that samples are sorted into, hardly_seen, the flaws that
            fitted features hardly see, unlike_digits, how sure the classifier of digits is of real
            images if that is too little (else null), and given_shape, [c, h, w] of the first real
            image if it was brought to another form.
        settings: num, seed, extractor, likelihood_num, ladder.
        hardware: device, name, threads, torch.
        date: year-month-day.
        version: of this library.
        command: that makes the report again.
    """

    models: tuple[Model, ...]
    cells: tuple[Cell, ...]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    hardware: Mapping[str, Any]
    date: str
    version: str
    command: str

    def measured(self, model: str | None = None) -> Iterator[Cell]:
        """Cells with figures, of one model or of all."""
        for cell in self.cells:
            if not cell.error and cell.records and model in (None, cell.model):
                yield cell

    def family_of(self, cell: Cell) -> str:
        """Family of a cell's model."""
        return next(model.family for model in self.models if model.name == cell.model)

    def to_json(self) -> str:
        """The report as JSON; NaN and infinity become null, which JSON has not."""
        fields = plain(dataclasses.asdict(self))
        return json.dumps({"format": FORMAT, **fields}, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: for anything else.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"a report must be JSON: {error}") from error
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise DataError(f"not a report: its format is not {FORMAT!r}")
        try:
            models = tuple(Model(**model) for model in fields.pop("models"))
            cells = tuple(read_cell(cell) for cell in fields.pop("cells"))
            return cls(models=models, cells=cells, **fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"the report is incomplete: {error}") from error


def read_cell(fields: Mapping[str, Any]) -> Cell:
    """Rebuild a cell from its plain fields."""
    values = dict(fields)
    values["records"] = tuple(Record.from_dict(record) for record in values["records"])
    values["speed"] = tuple(Speed(**speed) for speed in values["speed"])
    values["class_counts"] = tuple(values["class_counts"])
    values["real_class_counts"] = tuple(values["real_class_counts"])
    return Cell(**values)


def plain(value: Any) -> Any:
    """Replace what JSON does not have."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
