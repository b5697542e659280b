"""Tiny pictures on disk, and recipes shrunk until they train in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trilemma.config import load_recipe, override


def write_pictures(path: Path, num: int = 12, size: int = 8, channels: int = 3) -> Path:
    """An ``.npz`` of random labelled pictures, labels 0 to 9 in turn."""
    shape = (num, size, size, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(path, arr_0=images, arr_1=np.arange(num) % 10)
    return path


SHRINK = {
    "method.generator.channels": 4,
    "method.generator.num_res_blocks": 1,
    "method.generator.code_dim": 3,
    "method.generator.style_dim": 4,
    "method.discriminator.channels": 4,
    "method.discriminator.embed_dim": 4,
}
POINTS = {
    "method.generator.width": 8,
    "method.discriminator.width": 8,
    "data.num_points": 64,
}
TRAINER = {
    "trainer.num_images": 8,
    "trainer.batch_size": 4,
    "trainer.save_images": 8,
    "trainer.sample_images": 0,
    "trainer.log_every": 1,
    "trainer.num_workers": 0,
    "trainer.trackers": "[]",
}


def shrunk(name: str, folder: Path) -> dict:
    """A bundled recipe with tiny widths and lengths on generated data of its own shape."""
    config = load_recipe(name)
    is_points = config["data"]["class_path"] == "Toy"
    for key, value in {**(POINTS if is_points else SHRINK), **TRAINER}.items():
        override(config, key, str(value))
    if not is_points:
        generator = config["method"]["init_args"]["generator"]["init_args"]
        size, channels = generator["image_size"], generator.get("in_channels", 3)
        if size > 64:  # still divisible by the 64 of the large discriminator
            size = 64
            override(config, "method.generator.image_size", str(size))
            override(config, "data.image_size", str(size))
        if config["data"]["class_path"] == "StackedDigits":
            size, channels = size - 4, 1
            override(config, "data.num_images", "16")
        path = write_pictures(folder / f"{name}.npz", 20, size, channels)
        override(config, "data.path", str(path))
    return config
