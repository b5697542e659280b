"""Files that hold weights: whole or absent, self-describing, and read without executing anything.

One safetensors file carries tensors and a JSON header. The header states a format, a kind
("pipeline" for sampling, "training" for resuming), the full configuration, and a SHA-256 digest
over everything else, so that a truncated, altered or foreign file is refused with a reason.
Writing goes to a temporary name, is flushed to disk and renamed, so a killed process leaves the
previous file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trilemma.errors import CheckpointError, WriteError

__all__ = ["FORMAT", "Stored", "read", "write", "write_bytes"]

FORMAT = "trilemma-1"


@dataclass(frozen=True)
class Stored:
    """Content of a weight file: tensors by name, and the header's JSON object."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]


def write_bytes(path: Path, payload: bytes) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename, fsync of the folder.

    Raises:
        WriteError: if the disk is full, the folder cannot be written or the path is a folder.
    """
    if not path.name or path.is_dir():
        raise WriteError(f"cannot write {path}: it is a folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def write(
    path: Path | str, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and header atomically.

    Args:
        path: file to write, usually ``*.safetensors``.
        kind: "pipeline" or "training".
        tensors: tensors by name, moved to the CPU.
        header: JSON-serialisable description, such as the configuration.

    Raises:
        WriteError: if the file cannot be written.
    """
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(dict(header), sort_keys=True)
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "header": text,
        "sha256": _digest(kind, text, on_cpu),
    }
    write_bytes(Path(path), _in_order(save(on_cpu, metadata)))


def read(path: Path | str, kind: str) -> Stored:
    """Read a file written by ``write`` and verify its digest.

    Raises:
        CheckpointError: if the file is missing, truncated, altered, foreign or of another kind.
    """
    path = Path(path)
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        metadata = _metadata(payload)
        tensors = load(payload)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({len(payload)} bytes): {error}"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file of format {metadata.get('format')!r}, not {FORMAT!r}; "
            "for the authors' weights use `trilemma convert`"
        )
    if metadata.get("kind") != kind:
        raise CheckpointError(f"{path} is a {metadata.get('kind')} file; a {kind} file is needed")
    if _digest(kind, metadata.get("header", ""), tensors) != metadata.get("sha256"):
        raise CheckpointError(f"{path} was altered after it was written: its digest does not match")
    return Stored(tensors, json.loads(metadata["header"]))


def _in_order(payload: bytes) -> bytes:
    """A safetensors payload with its metadata sorted, so that equal content is equal bytes."""
    length = int.from_bytes(payload[:8], "little")
    head = json.loads(payload[8 : 8 + length])
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    return payload[:8] + text.ljust(length) + payload[8 + length :]


def _metadata(payload: bytes) -> dict[str, str]:
    """Metadata block of a safetensors payload."""
    length = int.from_bytes(payload[:8], "little")
    if len(payload) < 8 or length > len(payload) - 8:
        raise ValueError("the header is incomplete")
    head = json.loads(payload[8 : 8 + length])
    found = head.get("__metadata__", {}) if isinstance(head, dict) else None
    if not isinstance(found, dict):
        raise ValueError("the header is not that of a safetensors file")
    return found


def _digest(kind: str, header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{FORMAT}\n{kind}\n{header}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
