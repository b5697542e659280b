"""Small pictures made on the spot: every test here runs without a download."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep what `datasets` stores out of the user's cache."""
    import datasets

    cache = str(tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def make_images(num, size=8, channels=3, seed=0):
    shape = (num, size, size) if channels == 1 else (num, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def write_png(path: Path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(array))


def write_parquet(path: Path, images, labels, *, names=None):
    """A table as the Hub stores it: encoded pictures, and class labels when named."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"image": datasets.Image()}
    columns = {"image": [{"bytes": encode(image), "path": None} for image in images]}
    if labels is not None:
        label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
        features["label"] = label
        columns["label"] = list(labels)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(str(path))


@pytest.fixture
def helpers():
    class Helpers:
        images = staticmethod(make_images)
        encode = staticmethod(encode)
        png = staticmethod(write_png)
        parquet = staticmethod(write_parquet)

    return Helpers
