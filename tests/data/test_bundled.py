import pytest
import torch

from trilemma.data import BundledDigits, HubImages, data_from_argument
from trilemma.errors import ConfigError
from trilemma.evaluation import _lent, evaluate_samples, reference_data
from trilemma.metrics import (
    DigitFeatures,
    IdentityFeatures,
    classify,
    frechet_distance,
    gaussian_stats,
    mnist_reference,
)


def test_digits_are_those_of_the_reference():
    data, known = data_from_argument("digits"), mnist_reference()
    assert isinstance(data, BundledDigits) and data.event_shape == (1, 28, 28)
    assert len(data) == 512 and data.num_classes == 10 and data.class_names[7] == "7"
    assert not data.flip and data.in_memory and not data.streaming
    assert torch.equal(data.images_uint8(range(512)), known.images)
    assert torch.equal(data.labels, known.labels) and data.labels.dtype == torch.int64


def test_examples_follow_the_indices():
    data = BundledDigits()
    batch = data.fetch(torch.tensor([400, 3, 400]))
    images = data.images_uint8([400, 3, 400])
    assert images.dtype == torch.uint8 and images.shape == (3, 1, 28, 28)
    torch.testing.assert_close(batch.x0, images.float() / 127.5 - 1)
    assert torch.equal(batch.label, data.labels[[400, 3, 400]])
    assert batch.x0.min() == -1 and batch.x0.max() > 0.9
    assert (classify(images)[:, 0] == batch.label).all()
    with pytest.raises(IndexError, match="512 was asked for, but there are 512"):
        data.fetch([512])


def test_there_are_test_digits_only():
    data = BundledDigits()
    assert torch.equal(data.split("test").images_uint8([5]), data.images_uint8([5]))
    for split in ("train", "validation"):
        with pytest.raises(ConfigError, match=f"no split '{split}': only 512 test digits") as error:
            data.split(split)
        assert "give a path of MNIST" in str(error.value)


def test_the_name_is_not_a_path():
    assert isinstance(data_from_argument("./digits"), HubImages)
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        data_from_argument("digit")


def test_what_is_fetched_cannot_be_changed_from_outside():
    data = BundledDigits()
    data.images_uint8([0]).fill_(7)
    data.fetch([0]).x0.zero_()
    assert torch.equal(data.images_uint8([0]), mnist_reference().images[:1])


def test_models_are_judged_against_all_training_digits():
    data = reference_data("digits", "test", (1, 28, 28))
    assert isinstance(data, BundledDigits)
    fake = data.images_uint8(range(100)).roll(2, 3)
    records = {r.name: r for r in evaluate_samples(fake, data, 100, split="test")}
    found, known = gaussian_stats(DigitFeatures()(fake)), mnist_reference().train
    assert records["fd_digits"].value == pytest.approx(frechet_distance(found, known), rel=1e-6)
    assert records["fd_digits"].num_real == 60_000 and records["recall"].num_real == 100
    assert _lent(data, IdentityFeatures()) is None  # statistics of other features mean nothing


def test_models_of_other_shapes_and_splits_are_refused():
    with pytest.raises(ConfigError, match=r"digits has \(1, 28, 28\)"):
        reference_data("digits", "test", (3, 32, 32))
    with pytest.raises(ConfigError, match="take --split test"):
        reference_data("digits", "train", (1, 28, 28))
