"""A measured number, with all that is needed to read it.

Scores of generative models depend on the number of samples, the reference split, the network
behind the features and the resize filter; two numbers that differ in any of these cannot be
compared. A ``Record`` keeps them together, beside the *floor*: the same metric on two sets of real
images of the same size, which is what a perfect sampler would score; and beside an interval of
95 %, how far the score would move if the samples were drawn again (``metrics.bootstrap``). A floor
that is a mean over several splits of the real images says so in the note.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trilemma.errors import ConfigError, DataError

__all__ = ["Record", "check_comparable", "from_json", "to_json"]

PROTOCOL = ("name", "num_fake", "num_real", "split", "extractor", "weights_sha256", "preprocessing")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One score with its protocol.

    Attributes:
        name: of the metric; ``fid`` and ``kid`` only for the true Inception.
        value: the score.
        lower_is_better: direction.
        num_fake: generated samples that entered.
        num_real: real samples that entered.
        split: reference split, such as ``"test"``.
        extractor: name of the feature extractor.
        weights_sha256: of its weights; empty if it has none.
        preprocessing: identifier of the steps before it.
        error: uncertainty of the value, what it is stands in ``note``; None if not known.
        low: lower end of the 95 % interval, of the kind that ``note`` says; None if not known.
        high: its upper end.
        floor: the metric of real against real images; None if it was not measured.
        floor_num_fake: real samples that played the fake ones for the floor.
        floor_num_real: real samples on the other side of the floor.
        seed: of all random subsets.
        note: what a reader must know besides.
        floor_error: standard deviation of the floor from one split of the real samples to another,
            which is how far a single draw of a perfect sampler strays; None if not known.
        most: of a count of modes, how many there are; the floor says how many so many perfect
            samples show. None for other scores.
    """

    name: str
    value: float
    lower_is_better: bool
    num_fake: int
    num_real: int
    split: str
    extractor: str
    weights_sha256: str
    preprocessing: str
    error: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_num_fake: int | None = None
    floor_num_real: int | None = None
    seed: int = 0
    note: str = ""
    floor_error: float | None = None
    most: int | None = None

    def to_dict(self) -> dict[str, str | int | float | bool | None]:
        """Return all fields as plain values; NaN and infinity become None, as JSON has neither.

        Returns:
            Field name to value.
        """
        fields = dataclasses.asdict(self)
        return {key: None if _unwritable(value) else value for key, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> "Record":
        """Rebuild a record from ``to_dict``.

        Args:
            fields: field name to value.

        Returns:
            The record; a value of None becomes NaN. Fields that came later, such as ``low``,
            ``high``, ``floor_error`` and ``most``, may be missing.

        Raises:
            DataError: a field is unknown or missing.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise DataError(f"record has unknown fields {', '.join(unknown)}")
        values = dict(fields)
        if values.get("value", 0.0) is None:
            values["value"] = math.nan
        try:
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as error:
            raise DataError(f"record is incomplete: {error}") from error


def check_comparable(a: Record, b: Record) -> None:
    """Refuse to compare two records of different protocols.

    Args:
        a: one record.
        b: another.

    Raises:
        ConfigError: naming the first thing that differs.
    """
    for key in PROTOCOL:
        one, other = getattr(a, key), getattr(b, key)
        if one != other:
            raise ConfigError(
                f"{a.name} = {a.value:.4g} and {b.name} = {b.value:.4g} cannot be compared: {key} "
                f"is {one!r} and {other!r}; evaluate both under one protocol"
            )


def to_json(records: Sequence[Record]) -> str:
    """Write records as a JSON list.

    Args:
        records: what ``evaluate`` returned.

    Returns:
        Indented JSON, valid for any parser (no NaN).
    """
    return json.dumps([record.to_dict() for record in records], indent=2, allow_nan=False)


def from_json(text: str) -> list[Record]:
    """Read what ``to_json`` wrote.

    Args:
        text: a JSON list of records.

    Returns:
        The records.

    Raises:
        DataError: not a JSON list of records.
    """
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"records are not valid JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError("records must be a JSON list of objects, as to_json writes them")
    return [Record.from_dict(entry) for entry in entries]


def _unwritable(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
