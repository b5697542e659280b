import numpy as np
import pytest
import torch

from trilemma.data import StackedDigits
from trilemma.errors import ConfigError, DataError


@pytest.fixture
def digits(tmp_path, helpers):
    """Thirty flat pictures whose brightness tells the digit, and which of its three it is."""
    labels = np.tile(np.arange(10), 3)
    values = 20 * labels + np.arange(30) // 10 + 1
    images = np.broadcast_to(values[:, None, None], (30, 4, 4)).astype(np.uint8)
    names = [str(d) for d in range(10)]
    helpers.parquet(tmp_path / "train.parquet", images, labels, names=names)
    helpers.parquet(tmp_path / "test.parquet", images[:10], labels[:10], names=names)
    return tmp_path


def test_labels_name_the_digit_of_each_channel(digits):
    data = StackedDigits(str(digits), num_images=75, pad=1)
    assert len(data) == 75 and data.event_shape == (3, 6, 6) and data.num_classes == 1000
    assert not data.flip and data.class_names[42] == "042"
    image, batch = data.images_uint8(range(75)), data.fetch(range(75))
    assert image.dtype == torch.uint8 and image.shape == (75, 3, 6, 6)
    assert (image[:, :, 0] == 0).all() and (image[:, :, 1:-1, 1:-1] > 0).all()
    digit = image[:, :, 3, 3].long() // 20
    assert torch.equal(batch.label, digit @ torch.tensor([100, 10, 1]))
    torch.testing.assert_close(batch.x0, image.float() / 127.5 - 1)


def test_every_channel_runs_through_whole_permutations(digits):
    centre = StackedDigits(str(digits), num_images=60).images_uint8(range(60))[:, :, 4, 4]
    for channel in range(3):
        for half in (centre[:30, channel], centre[30:, channel]):
            assert len(half.unique()) == 30
    assert not torch.equal(centre[:, 0], centre[:, 1])
    assert not torch.equal(centre[:30], centre[30:])


def test_seed_and_split(digits):
    data = StackedDigits(str(digits), num_images=40)
    assert torch.equal(
        data.fetch([3, 8]).x0, StackedDigits(str(digits), num_images=40).fetch([3, 8]).x0
    )
    other = StackedDigits(str(digits), num_images=40, seed=1)
    assert not torch.equal(data.fetch(range(40)).label, other.fetch(range(40)).label)
    test = data.split("test")
    assert len(test) == 40 and len(test.images_uint8(range(40))[:, :, 4, 4].unique()) == 10
    with pytest.raises(ConfigError, match="'test', 'train'"):
        data.split("validation")


def test_unlabelled_digits_are_refused(tmp_path, helpers):
    helpers.parquet(tmp_path / "train.parquet", helpers.images(3, channels=1), None)
    with pytest.raises(DataError, match="no labels; stacking needs digits 0 to 9"):
        StackedDigits(str(tmp_path), num_images=5).fetch([0])


def test_too_many_classes_are_refused(tmp_path, helpers):
    helpers.parquet(tmp_path / "train.parquet", helpers.images(2, channels=1), [0, 25])
    with pytest.raises(DataError, match="labels up to 25"):
        StackedDigits(str(tmp_path), num_images=5).fetch([0])


def test_bad_numbers():
    with pytest.raises(ConfigError, match="num_images is 0"):
        StackedDigits("anywhere", num_images=0)
