"""Cached features: keys, reuse, damage, folders that cannot be written."""

import warnings
from pathlib import Path

import pytest
import torch

from trilemma.errors import DataError
from trilemma.metrics import (
    DigitFeatures,
    IdentityFeatures,
    cache_folder,
    cached_features,
    evaluate,
    mnist_reference,
)


class Counted(DigitFeatures):
    """Digit features that count how many images went through the network."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def extract(self, images):
        self.seen += len(images)
        return super().extract(images)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def digits():
    return mnist_reference().images[:40]


def files(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def test_second_call_reads_what_the_first_wrote(folder, digits):
    network = Counted()
    first = cached_features(digits, network)
    again = cached_features(digits.clone(), network)
    assert network.seen == 40
    assert torch.equal(first, again)
    assert torch.equal(first, DigitFeatures()(digits))
    assert [path.suffix for path in files(folder)] == [".safetensors"]  # no temporary file left


def test_other_images_and_other_extractors_have_other_files(folder, digits):
    network = Counted()
    cached_features(digits, network)
    changed = digits.clone()
    changed[3, 0, 10, 10] ^= 1
    cached_features(changed, network)
    cached_features(digits[:20], network)
    assert network.seen == 100
    network.preprocessing += ", another way"
    cached_features(digits, network)
    network.weights_sha256 = "0" * 64
    cached_features(digits, network)
    assert network.seen == 180
    assert len(files(folder)) == 5


@pytest.mark.parametrize("damage", ["truncated", "changed", "foreign", "shape"])
def test_damaged_files_are_computed_anew(folder, digits, damage):
    network = Counted()
    truth = cached_features(digits, network)
    (path,) = files(folder)
    whole = path.read_bytes()
    other = None
    if damage == "shape":
        cached_features(digits[:20], network)
        (other,) = [p for p in files(folder) if p != path]
    path.write_bytes(
        {
            "truncated": whole[:-9],
            "changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
            "foreign": b"something else",
            "shape": other.read_bytes() if other else b"",
        }[damage]
    )
    seen = network.seen
    with pytest.warns(RuntimeWarning, match="damaged and computed anew"):
        assert torch.equal(cached_features(digits, network), truth)
    assert network.seen == seen + 40
    assert path.read_bytes() == whole  # replaced
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cached_features(digits, network), truth)


def test_a_folder_that_cannot_be_written_is_warned_of_once(tmp_path, monkeypatch, digits):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="TRILEMMA_CACHE"):
        first = cached_features(digits, DigitFeatures())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cached_features(digits, DigitFeatures()), first)


def test_order_of_the_folders(monkeypatch):
    monkeypatch.setenv("TRILEMMA_CACHE", "one")
    monkeypatch.setenv("XDG_CACHE_HOME", "two")
    assert cache_folder() == Path("one")
    monkeypatch.delenv("TRILEMMA_CACHE")
    assert cache_folder() == Path("two/trilemma")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "trilemma"


def test_features_without_weights_are_not_kept(folder):
    points = torch.randn(5, 2)
    assert torch.equal(cached_features(points, IdentityFeatures()), points)
    assert not files(folder)


def test_evaluation_keeps_real_images_only(folder):
    images = mnist_reference().images
    real, rest, fake = images[:60], images[60:120], images[120:180]
    options = {"split": "test", "floor_real": rest}
    off = evaluate(fake, real, DigitFeatures(), cached=False, **options)
    assert not files(folder)
    network = Counted()
    first = evaluate(fake, real, network, **options)
    assert (network.seen, len(files(folder))) == (180, 2)
    assert evaluate(fake, real, network, **options) == first == off
    assert network.seen == 240


def test_images_are_checked_before_they_are_looked_up(folder):
    with pytest.raises(DataError, match="channels"):
        cached_features(torch.zeros(2, 3, 28, 28, dtype=torch.uint8), DigitFeatures())


def test_the_suite_does_not_write_at_home():
    assert "trilemma-tests-" in str(cache_folder())
