import io

import numpy as np
import pytest
import torch
from PIL import Image

from trilemma.data import HubImages, read_images
from trilemma.errors import DataError


def shown(path, channels=1, side=1):
    """Pixels as bytes (n, c, h, w)."""
    return ((read_images(path, (channels, side, side)) + 1) * 127.5).round().to(torch.uint8)


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_sixteen_bits_are_a_ramp(tmp_path):
    values = np.array([[0, 257 * 85, 257 * 170, 65535]], np.uint16).repeat(4, axis=0)
    path = save(Image.fromarray(values), tmp_path / "a.png")
    assert shown(path, 1, 4)[0, 0, 0].tolist() == [0, 85, 170, 255]


def test_what_is_transparent_is_white(tmp_path):
    path = save(Image.new("RGBA", (4, 4)), tmp_path / "a.png")
    assert (shown(path, 3, 4) == 255).all()
    assert (shown(path, 1, 4) == 255).all()


def test_pictures_are_turned_as_the_camera_says(tmp_path):
    image = Image.new("L", (2, 2))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise makes it upright
    assert shown(save(image, tmp_path / "a.png", exif=exif), 1, 2)[0, 0].tolist() == [
        [0, 255],
        [0, 0],
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_as_training_reads_it(tmp_path, helpers, channels):
    """Any size; hidden files and others passed over; below the folder too."""
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (9, 14)), ("a.JPG", (20, 11)), ("c/d.png", (5, 5))):
        helpers.png(tmp_path / name, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    for name in (".DS_Store", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_text("no picture")
    found = read_images(tmp_path, (channels, 8, 8))
    data = HubImages(str(tmp_path), image_size=8, channels=channels, label_column="none")
    assert found.shape == (3, channels, 8, 8) and found.dtype == torch.float32
    assert torch.equal(found, data.fetch(range(3)).x0)
    assert torch.equal(read_images(tmp_path / "b.png", (channels, 8, 8)), found[1:2])


def test_what_is_no_picture_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name, words in (
        ("empty", "empty holds no pictures"),
        ("a.png", r"picture .*a\.png cannot be read \(not a picture"),
        ("a.pgn", r"a\.pgn does not exist \(nearest in .*: a\.png\)"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            read_images(tmp_path / name, (1, 4, 4))
        assert "\n" not in str(caught.value)


def test_half_a_picture_is_refused(tmp_path, helpers):
    content = helpers.encode(helpers.images(1, size=32)[0])
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    assert Image.open(io.BytesIO(content)).size == (32, 32)
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read_images(tmp_path, (3, 32, 32))
