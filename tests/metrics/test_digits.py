"""The bundled classifier and reference: accuracy, meaning of the features, damaged files."""

import importlib.resources
import json

import pytest
import torch
import torch.nn.functional as F

from trilemma.errors import CheckpointError, DataError
from trilemma.metrics import (
    DigitFeatures,
    DigitNet,
    classify,
    frechet_distance,
    gaussian_stats,
    manifold_scores,
    mnist_reference,
    mode_statistics,
    stacked_numbers,
)
from trilemma.metrics import digits as module
from trilemma.metrics.digits import LEAST_CERTAINTY, certainty


@pytest.fixture(scope="module")
def reference():
    return mnist_reference()


@pytest.fixture(scope="module")
def extractor():
    return DigitFeatures()


def test_classifies_the_bundled_digits(reference):
    assert reference.images.shape == (512, 1, 28, 28)
    assert len(reference.labels.unique()) == 10
    hits = classify(reference.images)[:, 0] == reference.labels
    assert hits.double().mean() >= 0.98


def test_padding_and_stacking_do_not_change_the_classes(reference):
    padded = F.pad(reference.images[:64], (2, 2, 2, 2))
    assert torch.equal(classify(padded), classify(reference.images[:64]))
    stacked = reference.images[:63].reshape(21, 3, 28, 28)
    labels = classify(stacked, batch_size=10)
    assert torch.equal(labels.flatten(), classify(reference.images[:63])[:, 0])
    assert mode_statistics(stacked_numbers(labels), 1000).num_samples == 21


def test_small_enough_and_honest_about_itself():
    assert sum(p.numel() for p in DigitNet().parameters()) <= 150_000
    for name, limit in ((module.CLASSIFIER_FILE, 600_000), (module.REFERENCE_FILE, 1_000_000)):
        content = module.zoo_bytes(name)
        assert len(content) <= limit
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert header["__metadata__"]["date"].startswith("20")
        assert "CC BY-SA 3.0" in header["__metadata__"]["licence"]
        assert b"/" + b"work" not in content[:4096]


def test_recorded_accuracy():
    content = module.zoo_bytes(module.CLASSIFIER_FILE)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert float(header["__metadata__"]["test_accuracy"]) >= 0.993


def test_features_are_standardised_on_the_training_digits(reference):
    assert reference.train.num_samples == 60_000
    assert reference.test.num_samples == 10_000
    assert reference.train.mean.abs().max() < 1e-3
    assert (reference.train.cov.diagonal() - 1).abs().max() < 1e-3
    assert torch.linalg.eigvalsh(reference.train.cov)[0] > 1e-4  # full rank


def test_reference_statistics_fit_the_bundled_digits(reference, extractor):
    floor = frechet_distance(gaussian_stats(extractor(reference.images)), reference.test)
    assert frechet_distance(reference.train, reference.test) < 0.1
    assert floor == pytest.approx(0.27667, rel=1e-3)


def test_distances_grow_with_the_damage(reference, extractor):
    images, labels = reference.images, reference.labels
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(256, images.shape, generator=rng, dtype=torch.uint8)
    sets = [
        images,
        images.roll(2, 3),
        images[labels != 3],
        torch.cat([images[:384], noise[:128]]),
        images[labels < 5],
        noise,
    ]
    values = [frechet_distance(gaussian_stats(extractor(s)), reference.test) for s in sets]
    assert values == sorted(values), values
    assert values[1] > 2 * values[0]
    assert values[-1] > 50


def test_a_missing_class_lowers_recall_and_noise_lowers_precision(reference, extractor):
    images, labels = reference.images, reference.labels
    rng = torch.Generator().manual_seed(0)
    real, fair = images[::2], images[1::2]
    few = images[1::2][labels[1::2] < 5].repeat(2, 1, 1, 1)[:256]
    soiled = fair.clone()
    soiled[:128] = torch.randint(256, soiled[:128].shape, generator=rng, dtype=torch.uint8)
    whole, narrow, dirty = (
        manifold_scores(extractor(real), extractor(s)) for s in (fair, few, soiled)
    )
    assert narrow.recall < whole.recall - 0.2
    assert narrow.coverage < whole.coverage - 0.2
    assert narrow.precision > whole.precision - 0.1
    assert dirty.precision < whole.precision - 0.3
    assert dirty.density < whole.density - 0.3


def test_certainty_is_the_mean_of_the_largest_probability(reference, extractor):
    images = reference.images[:70]
    expected = extractor.probabilities(images).max(1).values.mean()
    assert certainty(images, batch_size=30) == pytest.approx(float(expected), rel=1e-6)
    padded = F.pad(images, (2, 2, 2, 2)).reshape(35, 2, 32, 32)
    assert certainty(padded) == pytest.approx(float(expected), rel=1e-6)


def test_certainty_tells_digits_from_other_pictures(reference):
    """Few digits, noisy and pale ones are digits; what is turned, inverted or blocky is not."""
    images = reference.images
    rng = torch.Generator().manual_seed(0)
    noise = 64 * torch.randn(images.shape, generator=rng)
    parts = images[:504].split(24)
    for digits in (*parts, (images + noise).clamp(0, 255).byte(), images // 2):
        assert certainty(digits) > LEAST_CERTAINTY + 0.04
    blocks = F.interpolate(torch.rand(200, 1, 4, 4, generator=rng), (28, 28)) * 255
    for others in (255 - images, images.rot90(1, (2, 3)), images.flip(3), blocks.byte()):
        assert certainty(others) < LEAST_CERTAINTY - 0.03


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 28, 28), "uint8"),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), r"\(n, c, h, w\)"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.uint8), "28 x 28"),
        (torch.zeros(2, 1, 28, 32, dtype=torch.uint8), "28 x 32"),
        (torch.zeros(0, 1, 28, 28, dtype=torch.uint8), "n > 0"),
    ],
)
def test_images_that_are_no_digits(images, message):
    with pytest.raises(DataError, match=message):
        classify(images)


@pytest.fixture
def broken_zoo(monkeypatch):
    """Put other bytes in the place of a zoo file."""
    loaders = (module.digit_net, module.mnist_reference)
    for loader in loaders:
        loader.cache_clear()
    real = module.zoo_bytes

    def replace(name, content):
        monkeypatch.setattr(module, "zoo_bytes", lambda n: content if n == name else real(n))

    yield replace
    monkeypatch.undo()
    for loader in loaders:
        loader.cache_clear()


@pytest.mark.parametrize("name", [module.CLASSIFIER_FILE, module.REFERENCE_FILE])
def test_damaged_files(broken_zoo, name):
    broken_zoo(name, module.zoo_bytes(name)[:-100])
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        mnist_reference()


def test_weights_of_another_network(broken_zoo):
    broken_zoo(module.CLASSIFIER_FILE, module.zoo_bytes(module.REFERENCE_FILE))
    with pytest.raises(CheckpointError, match="does not fit"):
        classify(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_reference_of_another_classifier(broken_zoo):
    content = bytearray(module.zoo_bytes(module.CLASSIFIER_FILE))
    content[-1] ^= 1
    broken_zoo(module.CLASSIFIER_FILE, bytes(content))
    with pytest.raises(CheckpointError, match="another classifier"):
        mnist_reference()


def test_missing_file():
    with pytest.raises(CheckpointError, match="reinstall"):
        module.zoo_bytes("no-such-file.safetensors")
    assert importlib.resources.files("trilemma").joinpath("zoo", module.REFERENCE_FILE).is_file()
