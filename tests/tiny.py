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


AUTOENCODERS = {
    "ResidualVAE": {"channels": 4, "num_blocks": 1},
    "TableVAE": {"categories": [0] * 13 + [3]},
    "NVAE": {"encoder_channels": 4, "decoder_channels": 4, "latent_channels": 2}
    | dict.fromkeys(("num_groups", "encoder_cells", "decoder_cells", "num_pre_cells"), 1)
    | {"num_post_cells": 1},
}
PRIORS = {
    "NCSNpp": {"channels": 4, "num_res_blocks": 1},
    "PointScore": {"width": 8},
    "StridedDiscriminator": {"channels": 4},
}
NARROW = 32
"""Side of the pictures of a shrunk hierarchical autoencoder."""


def trained_networks(config: dict) -> dict[str, dict]:
    """Entries of the networks that a recipe's method trains, by their names in it, main ones first.

    A blend belongs to the network inside.
    """
    arguments = config["method"]["init_args"]
    names = ("autoencoder", "network", "generator", "discriminator")
    found = {name: arguments[name] for name in names if name in arguments}
    if not arguments.get("train_autoencoder", True):
        del found["autoencoder"]
    if "prior" in arguments:
        inner = trained_networks({"method": arguments["prior"]})
        found |= {f"prior.{name}": entry for name, entry in inner.items()}
    return found


def shrink_latent(config: dict, folder: Path) -> None:
    """Make the networks of a latent model tiny, in place."""
    arguments = config["method"]["init_args"]
    autoencoder = arguments["autoencoder"]
    own, kind = autoencoder["init_args"], autoencoder["class_path"]
    own |= AUTOENCODERS.get(kind, {})
    inner = [entry for name, entry in trained_networks(config).items() if name != "autoencoder"]
    for entry in inner:
        blend = entry if entry["class_path"] == "MixedScore" else None
        network = (blend["init_args"]["network"] if blend else entry)["init_args"]
        network |= PRIORS.get((blend["init_args"]["network"] if blend else entry)["class_path"], {})
        if "code_dim" in network:
            network |= {"code_dim": 3, "style_dim": 4}
        if kind == "NVAE":
            halvings = own.get("num_pre_blocks", 1) + own.get("num_scales", 1) - 1
            latents = own["num_groups"] * own["latent_channels"]
            network |= {"image_size": NARROW // 2**halvings, "in_channels": latents}
            network["channel_mult"] = network["channel_mult"][:2]
            blend["init_args"]["channels"] = latents
    if kind == "NVAE":
        own["image_size"] = NARROW
    if kind == "PretrainedAutoencoder":
        factor = own["image_size"] // network["image_size"]
        channels = config["data"]["init_args"]["channels"]
        own["folder"] = pretrained(folder / "autoencoder", factor, channels)


def pretrained(folder: Path, factor: int, channels: int) -> str:
    """A tiny autoencoder as diffusers save it: 4 latent channels, the side divided by a factor."""
    import diffusers

    levels = factor.bit_length()
    network = diffusers.AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=2,
    )
    network.save_pretrained(folder)
    return str(folder)


def shrunk(name: str, folder: Path) -> dict:
    """A bundled recipe with tiny widths and lengths on generated data of its own shape."""
    config = load_recipe(name)
    data = config["data"]["init_args"]
    is_points = config["data"]["class_path"] == "Toy"
    is_latent = "autoencoder" in config["method"]["init_args"]
    sizes: dict = {} if is_latent else POINTS if is_points else SHRINK
    if "network" in config["method"]["init_args"]:
        sizes = SCORE_POINTS if is_points else SCORE
    for key, value in {**sizes, **TRAINER}.items():
        override(config, key, str(value))
    if is_latent:
        shrink_latent(config, folder)
        network = config["method"]["init_args"]["autoencoder"]["init_args"]
    else:
        main, entry = next(iter(trained_networks(config).items()))
        network = entry["init_args"]
    if is_points or config["data"]["class_path"] == "Table":
        return config
    size = network["image_size"]
    channels = (
        network.get("image_channels", data["channels"]) if is_latent else network["in_channels"]
    )
    channels = network.get("out_channels", channels)
    if is_latent:
        size -= 2 * data.get("pad", 0)
        if "image_size" in data:
            data["image_size"] = size
    elif size > 64:  # still divisible by the 64 of the large discriminator, and by 7 levels
        size = 64
        override(config, f"method.{main}.image_size", str(size))
        override(config, "data.image_size", str(size))
    if config["data"]["class_path"] == "StackedDigits":
        size, channels = size - 4, 1
        override(config, "data.num_images", "16")
    path = write_pictures(folder / f"{name}.npz", 20, size, channels)
    override(config, "data.path", str(path))
    return config
