"""Inception score: the definition, its two ends, parts, names, classes of the extractors."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from trilemma.errors import ConfigError, DataError
from trilemma.metrics import (
    DigitFeatures,
    EfficientNetLite0Features,
    IdentityFeatures,
    InceptionFeatures,
    classify,
    evaluate,
    inception_score,
    inception_score_interval,
    metric_key,
    mnist_reference,
)


def laws(n=200, k=7, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.linspace(0.1, 1.0, k), n))


def by_scipy(p):
    p = p.numpy()
    return float(np.exp(np.mean([entropy(row, p.mean(0)) for row in p])))


def test_equals_the_definition():
    p = laws()
    assert inception_score(p).mean == pytest.approx(by_scipy(p), rel=1e-10)
    assert math.isnan(inception_score(p).std)


def test_parts_are_scored_one_by_one():
    p = laws(205)
    scores = [by_scipy(part) for part in p.tensor_split(10)]
    found = inception_score(p, splits=10)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-10)
    assert found.std == pytest.approx(np.std(scores, ddof=1), rel=1e-8)
    assert found.num_splits == 10


def test_both_ends():
    certain = torch.eye(7, dtype=torch.float64).repeat(30, 1)  # zeros: 0 ln 0 = 0
    assert inception_score(certain).mean == pytest.approx(7.0, rel=1e-12)
    assert inception_score(certain[:1].repeat(50, 1)).mean == pytest.approx(1.0, rel=1e-12)
    assert inception_score(torch.full((50, 7), 1 / 7)).mean == pytest.approx(1.0, rel=1e-6)
    interval = inception_score_interval(certain)
    assert interval.high == 7.0
    assert interval.low < 7.0


def test_interval_covers_the_mean_at_its_size():
    values, held = [], []
    intervals = []
    for seed in range(80):
        p = laws(120, seed=seed)
        values.append(inception_score(p).mean)
        intervals.append(inception_score_interval(p, resamples=60, seed=seed))
    middle = np.mean(values)
    held = [i.low <= middle <= i.high for i in intervals]
    assert np.mean(held) >= 0.88
    assert np.mean([i.error for i in intervals]) == pytest.approx(np.std(values), rel=0.25)


def test_digits_show_ten_classes():
    network, reference = DigitFeatures(), mnist_reference()
    p = network.probabilities(reference.images, batch_size=100)
    assert network.class_names == tuple("0123456789")
    assert p.shape == (512, 10)
    torch.testing.assert_close(p.sum(1), torch.ones(512).double())
    assert torch.equal(p.argmax(1), classify(reference.images)[:, 0])
    with torch.inference_mode():
        logits = network.network(reference.images.float() / 255)
    torch.testing.assert_close(p, logits.double().softmax(1), rtol=1e-3, atol=1e-6)


def test_efflite_classes_are_those_of_its_head():
    network = EfficientNetLite0Features(side=64)
    images = (torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).byte()
    images = images.repeat_interleave(8, 2).repeat_interleave(8, 3)
    p = network.probabilities(images)
    with torch.inference_mode():
        logits = network.network((images.float() - 127) / 128)
    torch.testing.assert_close(p, logits.double().softmax(1), rtol=1e-3, atol=1e-6)


def test_points_have_no_classes():
    assert IdentityFeatures().probabilities(torch.zeros(3, 2)) is None
    assert IdentityFeatures().class_names == ()


def test_word_inception_score_is_for_inception_only():
    assert metric_key(DigitFeatures(), "inception_score") == "is_digits"
    inception = InceptionFeatures.__new__(InceptionFeatures)
    assert metric_key(inception, "inception_score") == "inception_score"


def test_record_and_its_floor():
    reference = mnist_reference()
    real, rest = reference.images[:256], reference.images[256:]
    ones = rest[reference.labels[256:] == 1]
    records = {
        r.name: r for r in evaluate(ones, real, DigitFeatures(), split="test", floor_real=rest)
    }
    record = records["is_digits"]
    assert record.value < 1.5
    assert (record.num_fake, record.num_real) == (len(ones), 0)
    # the floor: real digits, as many as there are fakes
    assert record.floor_num_fake == len(ones)
    assert 6 < record.floor < 10
    assert not record.lower_is_better
    assert record.low <= record.value <= record.high


def test_errors():
    with pytest.raises(ConfigError, match="splits = 11"):
        inception_score(laws(10), splits=11)
    with pytest.raises(DataError, match="softmax"):
        inception_score(torch.randn(10, 3))
    with pytest.raises(DataError, match="miss 1"):
        inception_score(torch.rand(10, 3))
