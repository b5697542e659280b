"""Evaluation of arrays: references that data lend, classes, intervals, the table of records."""

import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from trilemma.commands.judge import _record_table
from trilemma.data import BundledDigits, Data, Toy
from trilemma.data.base import Batch
from trilemma.errors import ConfigError, DataError
from trilemma.evaluation import (
    _stacked_records,
    class_counts,
    evaluate_samples,
    read_npz,
    reference_data,
)
from trilemma.images import save_images
from trilemma.metrics import (
    DigitFeatures,
    FeatureExtractor,
    GaussianStats,
    IdentityFeatures,
    Record,
    classify,
    mnist_reference,
    mode_statistics,
    stacked_numbers,
    wilson,
)


class Digits(Data):
    """The digits of the package; with ``lends`` also the statistics of all test digits."""

    def __init__(self, lends: bool) -> None:
        self.images = mnist_reference().images[:300]
        if lends:
            self.reference_stats = self._statistics

    event_shape = (1, 28, 28)
    num_classes = 0

    def _statistics(self, extractor: FeatureExtractor) -> GaussianStats | None:
        return mnist_reference().test if isinstance(extractor, DigitFeatures) else None

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices) -> Batch:
        return Batch(self.images[indices].float() / 127.5 - 1)

    def images_uint8(self, indices):
        return self.images[indices]

    def split(self, name: str) -> "Digits":
        return self


def judged(lends):
    fake = mnist_reference().images[300:420]
    records = evaluate_samples(fake, Digits(lends), 120, split="test")
    return {record.name: record for record in records}


def test_data_lend_their_statistics_to_the_frechet_distance():
    plain, given = judged(False), judged(True)
    assert (plain["fd_digits"].num_real, given["fd_digits"].num_real) == (120, 10_000)
    assert given["fd_digits"].floor_num_real == 10_000
    assert given["fd_digits"].value < plain["fd_digits"].value  # less of the reference's own noise
    assert given["recall"] == plain["recall"]
    assert set(plain) == {
        "fd_digits", "kd_digits", "precision", "recall", "density", "coverage", "is_digits"
    }  # fmt: skip
    for record in given.values():
        assert record.low <= record.value <= record.high
        assert record.floor is not None


def test_real_pictures_are_drawn_from_all_over_the_data():
    """As docs/metrics.md says, so that a figure can be repeated; folders are sorted by class."""
    data, asked = Digits(False), []
    data.images_uint8 = lambda index: asked.append(index) or Digits.images_uint8(data, index)
    evaluate_samples(mnist_reference().images[300:420], data, 120, seed=4, split="test")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(4))
    assert torch.equal(asked[0], order[:120]) and torch.equal(asked[1], order[120:240])


def test_records_name_the_part_that_they_are_held_against():
    records = evaluate_samples(mnist_reference().images[:60], BundledDigits(), 60, split="test")
    parts = {record.name: (record.split, record.num_real) for record in records}
    assert parts.pop("fd_digits") == ("train", 60_000)
    assert parts.pop("is_digits") == ("test", 0)
    assert set(parts.values()) == {("test", 60)}


def test_classes_are_counted():
    reference = mnist_reference()
    truth = torch.bincount(reference.labels, minlength=10)
    for extractor in ("digits", DigitFeatures()):
        counts = class_counts(reference.images, extractor)
        assert int(counts.sum()) == 512
        assert float((counts - truth).abs().max()) <= 5  # the classifier errs on few
    assert class_counts(torch.zeros(4, 2), IdentityFeatures()) is None
    dropped = class_counts(reference.images[reference.labels != 3], "digits")
    assert int(dropped[3]) <= 3
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        class_counts(reference.images, "digit")


def test_points_have_the_binomial_interval():
    toy = Toy("grid25", num_points=400)
    records = {r.name: r for r in evaluate_samples(toy_points(toy), toy, 400, split="train")}
    record = records["high_quality"]
    assert (record.low, record.high) == wilson(record.value, 400)
    assert (records["num_modes"].low, records["num_modes"].high) == (None, None)


def test_points_have_a_divergence_of_the_modes():
    """Three of eight modes, by hand; a point far from all belongs to the nearest."""
    toy = Toy("ring8", num_points=10, scale=1.41)
    counts = {0: 40, 3: 10, 5: 50}
    drawn = torch.cat([toy.modes[k].expand(n, 2) for k, n in counts.items()])
    drawn[0] *= 5  # not of high quality, but its mode is the first
    points = toy.from_data_units(drawn).float()
    records = {r.name: r for r in evaluate_samples(points, toy, 100, split="train")}
    found = records["mode_kl"]
    expected = sum(n / 100 * math.log(8 * n / 100) for n in counts.values())
    assert found.value == pytest.approx(expected, rel=1e-12) and found.lower_is_better
    assert records["num_modes"].value == 3 and records["high_quality"].value == 0.99
    assert found.low < found.value < found.high
    rng = torch.Generator().manual_seed(0)
    draws = torch.multinomial(torch.ones(8), 100 * 4000, replacement=True, generator=rng)
    each = torch.nn.functional.one_hot(draws.view(4000, 100), 8).sum(1).double() / 100
    floor = torch.special.xlogy(each, 8 * each).sum(1).mean()
    assert found.floor == pytest.approx(float(floor), rel=0.03)  # what a perfect model scores
    assert (found.num_fake, found.extractor) == (100, "identity")


def toy_points(toy):
    return toy.fetch(torch.arange(400)).x0


def test_stacked_digits_have_an_interval_of_the_divergence():
    images = mnist_reference().images
    order = torch.randint(512, (900, 3), generator=torch.Generator().manual_seed(0))
    modes, divergence = _stacked_records(images[order, 0], "test")
    assert divergence.name == "mode_kl"
    assert divergence.low < divergence.value < divergence.high
    assert divergence.low < divergence.floor < divergence.high
    assert modes.value == divergence_of(images, order).num_hit
    assert modes.most == 1000 and modes.floor == pytest.approx(593, abs=3)  # 1000 (1 - e^-0.9)
    assert modes.weights_sha256 == divergence.weights_sha256 == DigitFeatures().weights_sha256


def divergence_of(images, order):
    return mode_statistics(stacked_numbers(classify(images[order, 0])), 1000)


def table_of(*records):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_record_table(list(records)))
    return console.export_text()


def record(**fields):
    shared = {"name": "fd_digits", "value": 5.2345, "lower_is_better": True, "num_fake": 10}
    shared |= {"num_real": 20, "split": "test", "extractor": "digits", "weights_sha256": ""}
    return Record(**shared | {"preprocessing": "none"} | fields)


def test_table_prints_the_interval_in_brackets():
    text = table_of(record(low=4.9, high=5.61, floor=0.2), record(error=0.31), record())
    assert "5.234 [4.9, 5.61]" in text
    assert "5.234 ± 0.31" in text
    assert "in brackets 95 % intervals" in text
    assert "[nan" not in table_of(record(value=math.inf))


def test_real_pictures_get_the_border_that_the_model_was_trained_with(tmp_path):
    digits = mnist_reference().images[:30]
    save_images(tmp_path / "digits", digits)
    data = reference_data(str(tmp_path / "digits"), "train", (1, 32, 32), card={"pad": 2})
    found = data.images_uint8(range(30))
    assert torch.equal(found[:, :, 2:30, 2:30], digits)
    assert int(found.sum()) == int(digits.sum())  # the border is black
    resized = reference_data(str(tmp_path / "digits"), "train", (1, 32, 32))
    assert not torch.equal(resized.images_uint8(range(30)), found)


def test_samples_of_an_npz_are_read_whatever_lies_beside_them(tmp_path):
    path = tmp_path / "drawn.npz"
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    about = np.array([{"made": "elsewhere"}], dtype=object)  # a pickle, which stays closed
    np.savez(path, arr_0=images, about=about)
    assert torch.equal(read_npz(path), torch.from_numpy(images).permute(0, 3, 1, 2))
    np.savez(path, samples=images[:2], arr_0=images)
    assert len(read_npz(path)) == 2
    for arrays, words in (
        ({"faces": images}, r"has \['faces'\]; the pictures must be called 'samples' or 'arr_0'"),
        ({"arr_0": about}, "not one of numbers"),
        ({"arr_0": images / 255}, r"holds float64 of shape \(5, 4, 4, 3\)"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=words) as caught:
            read_npz(path)
        assert "\n" not in str(caught.value)
