"""Pictures on disk."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trilemma.errors import ConfigError, WriteError
from trilemma.images import grid_image, save_animation, save_images, save_png, to_uint8


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
    with pytest.raises(WriteError, match="cannot write"):
        save_images(tmp_path / "file" / "a.png", torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_holds_every_frame_and_runs_for_ever(tmp_path, channels):
    frames = torch.zeros(6, 4, channels, 8, 8, dtype=torch.uint8)
    for i in range(6):
        frames[i, :, :, i] = 40 * (i + 1)  # colours that a palette of 256 holds exactly
    save_animation(tmp_path / "a.gif", frames, columns=4, fps=10)
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.info["loop"], film.info["duration"]) == (6, 0, 100)
        for i in range(6):
            film.seek(i)
            found = np.asarray(film.convert("RGB"))
            expected = np.asarray(grid_image(frames[i], 4, scale=12).convert("RGB"))
            assert (found == expected).all()


def test_animations_that_cannot_be_written(tmp_path, monkeypatch):
    frames = torch.zeros(2, 1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4"):
        save_animation(tmp_path / "a.webm", frames)
    with pytest.raises(ConfigError, match="fps=0"):
        save_animation(tmp_path / "a.gif", frames, fps=0)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'trilemma\[video\]'"):
        save_animation(tmp_path / "a.mp4", frames)
    assert not list(tmp_path.iterdir())


def test_films_have_even_sides(tmp_path, monkeypatch):
    """31 pixels and margins of 2, thrice enlarged, are 105; a codec is not needed to see it."""
    calls = []

    def write_frames(path, size, **options):
        calls.append((size, options["fps"]))
        while True:
            calls.append(len((yield)))
            Path(path).write_bytes(b"film")

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(write_frames=write_frames))
    frames = torch.zeros(3, 1, 1, 31, 31, dtype=torch.uint8)
    save_animation(tmp_path / "a.mp4", frames, fps=24)
    assert calls == [((106, 106), 24), *[106 * 106 * 3] * 3]
    assert (tmp_path / "a.mp4").read_bytes() == b"film"
