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
SCORE = {"method.network.channels": 4, "method.network.num_res_blocks": 1}
SCORE_POINTS = {"method.network.width": 8, "data.num_points": 64}
TRAINER = {
    "trainer.num_images": 8,
    "trainer.batch_size": 4,
    "trainer.save_images": 8,
    "trainer.sample_images": 0,
    "trainer.log_every": 1,
    "trainer.num_workers": 0,
    "trainer.precision": "fp32",
    "trainer.trackers": "[]",
}


def trained_networks(config: dict) -> list[str]:
    """Arguments of a recipe's method that hold the networks which it trains, the main one first."""
    names = ("network", "generator", "discriminator")
    return [name for name in names if name in config["method"]["init_args"]]


def shrunk(name: str, folder: Path) -> dict:
    """A bundled recipe with tiny widths and lengths on generated data of its own shape."""
    config = load_recipe(name)
    is_points = config["data"]["class_path"] == "Toy"
    main = trained_networks(config)[0]
    if main == "network":
        sizes = SCORE_POINTS if is_points else SCORE
    else:
        sizes = POINTS if is_points else SHRINK
    for key, value in {**sizes, **TRAINER}.items():
        override(config, key, str(value))
    if is_points:
        return config
    network = config["method"]["init_args"][main]["init_args"]
    size, channels = network["image_size"], network.get("out_channels", network["in_channels"])
    if size > 64:  # still divisible by the 64 of the large discriminator, and by 7 levels
        size = 64
        override(config, f"method.{main}.image_size", str(size))
        override(config, "data.image_size", str(size))
    if config["data"]["class_path"] == "StackedDigits":
        size, channels = size - 4, 1
        override(config, "data.num_images", "16")
    path = write_pictures(folder / f"{name}.npz", 20, size, channels)
    override(config, "data.path", str(path))
    return config
