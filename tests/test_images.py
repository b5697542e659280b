"""Pictures on disk."""

import numpy as np
import pytest
import torch
from PIL import Image

from trilemma.errors import CheckpointError, ConfigError
from trilemma.images import grid_image, save_images, save_png, to_uint8


def test_rounding_to_eight_bits():
    values = torch.tensor([-2.0, -1.0, -0.9999, 0.0, 0.5, 0.9999, 1.0, 3.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 191, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 127.5 - 1), every)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_picture(channels):
    images = torch.randint(0, 256, (7, channels, 4, 5), dtype=torch.uint8)
    array = np.asarray(grid_image(images, columns=3, margin=1)).reshape(3 * 5 + 1, 3 * 6 + 1, -1)
    for i, image in enumerate(images):
        top, left = 1 + i // 3 * 5, 1 + i % 3 * 6
        found = array[top : top + 4, left : left + 5]
        assert (found == image.permute(1, 2, 0).numpy()).all()
    assert (array[0] == 255).all()
    assert (array[11:15, 7:] == 255).all()  # unused cells are white


def test_small_pictures_are_enlarged(tmp_path):
    save_png(tmp_path / "grid.png", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    assert Image.open(tmp_path / "grid.png").size == (22 * 8, 22 * 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_hold_pictures_and_labels(tmp_path, channels):
    images = torch.randint(0, 256, (5, channels, 4, 4), dtype=torch.uint8)
    save_images(tmp_path / "a.npz", images, torch.arange(5))
    with np.load(tmp_path / "a.npz") as archive:
        assert (archive["arr_0"] == images.permute(0, 2, 3, 1).numpy()).all()
        assert archive["arr_1"].tolist() == [0, 1, 2, 3, 4]
    save_images(tmp_path / "b.npz", images)
    with np.load(tmp_path / "b.npz") as archive:
        assert list(archive) == ["arr_0"]


@pytest.mark.parametrize("channels", [1, 3])
def test_folders_hold_one_file_a_picture(tmp_path, channels):
    images = torch.randint(0, 256, (3, channels, 4, 4), dtype=torch.uint8)
    save_images(tmp_path / "out", images, first=7)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000007.png", "000008.png", "000009.png"]
    array = np.asarray(Image.open(tmp_path / "out" / "000008.png")).reshape(4, 4, channels)
    assert (array == images[1].permute(1, 2, 0).numpy()).all()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.png.*\.npz"):
        save_images(tmp_path / "a.jpeg", torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_images(tmp_path / "file" / "a.png", torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
