r"""Features of real images, computed once and kept on disk.

The same real images are compared with every model, and their features are most of the cost of a
second evaluation. A file of features is named by the SHA-256 of all that they depend on: the bytes
and shape of the images, and the extractor's name, weights and preprocessing. A file is therefore
never out of date, only unused, and the folder may be deleted at any time:

    $TRILEMMA_CACHE, else $XDG_CACHE_HOME/trilemma, else ~/.cache/trilemma.

Files are written under a temporary name and renamed, so that two programs can share the folder. A
file that is damaged is computed anew and replaced, and a folder that cannot be written costs time
only: both are warnings, not errors. (The writer of checkpoints stands beside the metrics, out of
their sight, and flushes to the disk, which a cache does not need; hence four lines of our own.)
"""

import contextlib
import hashlib
import os
import warnings
from pathlib import Path

import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trilemma.metrics.features import FeatureExtractor

__all__ = ["CACHE_VARIABLE", "cache_folder", "cached_features"]

CACHE_VARIABLE = "TRILEMMA_CACHE"
FORMAT = "trilemma-features-1"
_unwritable: set[str] = set()


def cache_folder() -> Path:
    """Return the folder of cached features; it need not exist.

    Returns:
        ``$TRILEMMA_CACHE``, ``$XDG_CACHE_HOME/trilemma`` or ``~/.cache/trilemma``.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "trilemma"
    return Path("~/.cache/trilemma").expanduser()


def cached_features(
    images: Tensor, extractor: FeatureExtractor, *, batch_size: int = 64
) -> Float32[Tensor, "n d"]:
    """Return features of images, from the cache if they are there, and else keep them there.

    Extractors without weights are not worth a file and are called directly.

    Args:
        images: uint8, (n, c, h, w).
        extractor: the features.
        batch_size: images per forward pass.

    Returns:
        What the extractor returns, (n, d).

    Raises:
        ConfigError: ``batch_size`` is below 1.
        DataError: the images have a type, shape or colour that the extractor cannot read.
    """
    if not extractor.weights_sha256:
        return extractor(images, batch_size=batch_size)
    extractor.check(images)
    path = cache_folder() / f"{_key(images, extractor)}.safetensors"
    found = _read(path, len(images), extractor.dim)
    if found is None:
        found = extractor(images, batch_size=batch_size)
        _write(path, found)
    return found


def _key(images: Tensor, extractor: FeatureExtractor) -> str:
    about = (FORMAT, extractor.name, extractor.weights_sha256, extractor.preprocessing)
    digest = hashlib.sha256(repr((*about, tuple(images.shape))).encode())
    digest.update(images.cpu().numpy().tobytes())
    return digest.hexdigest()


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()


def _read(path: Path, num: int, dim: int) -> Tensor | None:
    """Return the features of a file; None if there is none, or with a warning if it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            features, about = file.get_tensor("features"), file.metadata() or {}
        if features.dtype != torch.float32 or tuple(features.shape) != (num, dim):
            raise ValueError(f"it holds {features.dtype} of shape {tuple(features.shape)}")
        if about.get("sha256") != _digest(features):
            raise ValueError("its digest does not match")
    except (SafetensorError, OSError, ValueError) as error:
        warnings.warn(
            f"cached features {path} are damaged and computed anew: {error}", RuntimeWarning, 3
        )
        return None
    return features


def _write(path: Path, features: Tensor) -> None:
    """Write the features whole or not at all; warn once a folder if that is impossible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = save({"features": features.contiguous()}, {"sha256": _digest(features)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if str(path.parent) not in _unwritable:
            _unwritable.add(str(path.parent))
            warnings.warn(
                f"features cannot be kept in {path.parent} ({error.strerror or error}) and are "
                f"computed each time; name another folder by {CACHE_VARIABLE}",
                RuntimeWarning,
                3,
            )
