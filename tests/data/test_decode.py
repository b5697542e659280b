import io

import numpy as np
import pytest
from PIL import Image

from trilemma.data.decode import Shape, decode
from trilemma.errors import DataError


def where():
    return "picture x.png"


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_lossless_pictures_come_back_exactly(helpers):
    for channels in (1, 3):
        array = helpers.images(1, size=5, channels=channels)[0]
        out = decode(helpers.encode(array), Shape(channels), where)
        np.testing.assert_array_equal(out.reshape(array.shape), array)


def test_transparent_pictures_lie_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    out = decode(encoded(image), Shape(3), where)
    assert out.tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_half_transparent_black_is_grey():
    out = decode(encoded(Image.new("LA", (1, 1), (0, 128))), Shape(1), where)
    assert abs(int(out.item()) - 127) <= 1


@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_one_transparent_colour_becomes_white(kind):
    image = Image.new("RGB", (2, 1), (0, 0, 255))
    image.putpixel((1, 0), (9, 8, 7))
    if kind == "P":
        image = image.quantize(2)
        colour = image.getpixel((1, 0))
    else:
        colour = (9, 8, 7)
    out = decode(encoded(image, transparency=colour), Shape(3), where)
    assert out.tolist() == [[[0, 0, 255], [255, 255, 255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    array = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    out = decode(encoded(Image.fromarray(array)), Shape(1), where)
    assert out[..., 0].tolist() == [[0, 100, 255]]


def test_float_pictures_are_refused():
    with pytest.raises(DataError, match=r"x\.png has 'F' pixels; allowed: 8 or 16 bits"):
        decode(encoded(Image.new("F", (2, 2)), "TIFF"), Shape(1), where)


def test_camera_orientation_is_undone():
    image = Image.new("L", (4, 2))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    out = decode(encoded(image, exif=exif), Shape(1), where)
    assert out.shape == (4, 2, 1) and out[0, 1, 0] == 255


def test_resize_takes_the_shorter_side_and_cuts_the_middle():
    array = np.zeros((20, 60), np.uint8)
    array[:, 20:40] = 200
    out = decode(array, Shape(1, image_size=10), where)
    assert out.shape == (10, 10, 1) and (out[:, 2:-2] == 200).all()
    whole = decode(array, Shape(1, image_size=10, crop="none"), where)
    assert whole.shape == (10, 30, 1)


def test_shrinking_does_not_alias():
    """A one-pixel chessboard is grey from afar; sampling single pixels would keep it black."""
    array = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    out = decode(array, Shape(1, image_size=8), where)
    assert np.abs(out.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [(7, 7), (7, 13), (100, 33), (3, 1000)])
def test_any_size_comes_out_square(size):
    array = np.zeros((size[1], size[0]), np.uint8)
    assert decode(array, Shape(1, image_size=11), where).shape == (11, 11, 1)


def test_padding_is_black_and_outside():
    array = np.full((3, 3), 9, np.uint8)
    out = decode(array, Shape(1, pad=2), where)[..., 0]
    assert out.shape == (7, 7) and out.sum() == 81 and (out[2:5, 2:5] == 9).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_truncated_pictures_are_named(helpers, kind):
    data = helpers.encode(helpers.images(1, size=32)[0], kind)
    decode(data, Shape(3), where)
    for part in (0.9, 0.5, 0.05):
        with pytest.raises(DataError, match=r"^picture x\.png cannot be read \(.*\); replace it"):
            decode(data[: int(len(data) * part)], Shape(3), where)


def test_other_files_are_no_pictures():
    with pytest.raises(DataError, match="not a picture in a format that Pillow reads"):
        decode(b"hello, world", Shape(3), where)


def test_colour_among_grey_must_be_decided(helpers):
    data = helpers.encode(helpers.images(1)[0])
    with pytest.raises(DataError, match="channels 3"):
        decode(data, Shape(1, strict_grey=True), where)
    assert decode(data, Shape(1), where).shape == (8, 8, 1)
