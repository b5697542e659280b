"""Frozen autoencoders in the format of diffusers: latents, decoding, a model file without them."""

import json
import math

import diffusers
import pytest
import torch

from trilemma import load
from trilemma.autoencoders import PretrainedAutoencoder
from trilemma.config import load_recipe, override, resolve
from trilemma.errors import CheckpointError, ConfigError
from trilemma.pipeline import save_pipeline
from trilemma.rng import BatchRng


def kl():
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=2,
        scaling_factor=0.5,
        shift_factor=0.25,
    )


def tiny():
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=2,
    )


@pytest.fixture(params=[kl, tiny], ids=["kl", "tiny"])
def folder(request, tmp_path):
    torch.manual_seed(0)
    request.param().save_pretrained(tmp_path / "ae")
    return str(tmp_path / "ae")


def test_latents_are_scaled_and_decoding_undoes_it(folder):
    own = PretrainedAutoencoder(folder, 16)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    posterior = own.encode(x)
    assert posterior.mean.shape[1:] == own.latent_shape == posterior.log_std.shape[1:]
    network = own.network
    with torch.no_grad():
        if own.is_tiny:
            raw, deviation = network.encode(x).latents, torch.tensor(0.05)
        else:
            law = network.encode(x).latent_dist
            raw, deviation = law.mean, law.std * 0.5
        image = network.decode(raw).sample
    shift = 0.0 if own.is_tiny else 0.25
    torch.testing.assert_close(posterior.mean, (raw - shift) * own.scale)
    torch.testing.assert_close(posterior.log_std.exp(), deviation.expand_as(raw))
    law = own.decode(posterior.mean)
    torch.testing.assert_close(law.location, image)
    expected = -((x - image).abs() / 0.1 + math.log(0.2)).flatten(1).sum(1)
    torch.testing.assert_close(law.log_prob(x), expected)


def test_it_stays_frozen(folder):
    own = PretrainedAutoencoder(folder, 16).train()
    assert not own.training
    assert not any(p.requires_grad for p in own.requires_grad_(True).parameters())


def test_a_prior_trains_on_it_and_the_file_needs_no_folder(folder, tmp_path):
    channels, side = PretrainedAutoencoder(folder, 16).latent_shape[:2]
    config = load_recipe("lsgm-emoji64-pretrained")
    override(config, "method.autoencoder.folder", folder)
    override(config, "method.autoencoder.image_size", "16")
    for key, value in {
        "image_size": side,
        "in_channels": channels,
        "channels": 4,
        "channel_mult": "[1]",
        "num_res_blocks": 1,
    }.items():
        override(config, f"method.prior.network.network.{key}", str(value))
    override(config, "method.prior.network.channels", str(channels))
    config = resolve({"method": config["method"]})
    from trilemma.config import build_method

    method = build_method(config["method"])
    method.train()
    assert list(method.phases) == ["prior"]
    method.train_only("prior")
    x0 = torch.rand(4, 3, 16, 16) * 2 - 1
    method.loss(x0, None, "prior", BatchRng(0, 4), 0).total.backward()
    assert all(p.grad is None for p in method.autoencoder.parameters())
    assert any(p.grad is not None for p in method.prior.parameters())
    save_pipeline(tmp_path / "m.safetensors", method, config["method"], (3, 16, 16))
    (tmp_path / "ae").rename(tmp_path / "moved")
    samples = load(tmp_path / "m.safetensors").sample(2, num_steps=2)
    assert samples.shape == (2, 3, 16, 16)


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(ConfigError, match="image_size=15"):
        PretrainedAutoencoder(folder, 15)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        PretrainedAutoencoder(str(tmp_path), 16)
    with pytest.raises(ConfigError, match="architecture"):
        PretrainedAutoencoder(None, 16)
    with pytest.raises(ConfigError, match="latent_std"):
        PretrainedAutoencoder(folder, 16, latent_std=0.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ConfigError, match="UNet2DModel"):
        PretrainedAutoencoder(str(tmp_path / "other"), 16)
    (tmp_path / "ae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, tmp_path / "ae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot load"):  # a pickle is not opened
        PretrainedAutoencoder(folder, 16)
