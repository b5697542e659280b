"""Files of the authors become model files that draw the same pictures."""

import argparse
import io
import json
import os
import random

import pytest
import torch
from oracles import ReplayRng, below, golden, golden_config
from PIL import Image

from trilemma.autoencoders import NVAE
from trilemma.checkpoints.convert import OFFICIAL_DDGAN, convert_ddgan, convert_lsgm, read_torch
from trilemma.checkpoints.official_lsgm import (
    OFFICIAL_LSGM,
    describe_autoencoder,
    describe_prior,
    export_state,
)
from trilemma.cli import main
from trilemma.errors import CheckpointError, ConfigError
from trilemma.methods import LSGM, VAE
from trilemma.networks import MixedScore, NCSNpp
from trilemma.pipeline import load
from trilemma.samplers import Ancestral

NAME = "gen_g1_cifar_like"


@pytest.fixture
def files(tmp_path):
    """A state dict as the authors save it, and its arguments."""
    state = {f"module.{k}": v for k, v in below(golden(NAME), "state/").items()}
    torch.save(state, tmp_path / "netG_7.pth")
    (tmp_path / "args.json").write_text(json.dumps(golden_config(NAME)["config"]))
    return tmp_path, state


def test_a_converted_file_follows_the_recorded_trajectory(files):
    folder, _ = files
    config = str(folder / "args.json")
    convert_ddgan(folder / "netG_7.pth", config, folder / "m.safetensors")
    pipeline, file = load(folder / "m.safetensors"), below(golden("sampling"), "T4/")
    assert (pipeline.event_shape, pipeline.num_steps) == ((3, 16, 16), 4)
    draws = []
    for n in range(4):
        draws += [file["z"][n]] + ([file["noise"][n]] if n < 3 else [])
    grid = pipeline.method.grid()
    u = Ancestral().run(pipeline.method.denoiser(), file["x_T"][:, None], grid, ReplayRng(*draws))
    torch.testing.assert_close(u[:, 0], file["sample"], rtol=0, atol=2e-5)


def test_averages_are_taken_from_a_training_checkpoint(files):
    """content.pth holds raw weights; the averages lie in the optimiser's state, by position."""
    folder, state = files
    averages = {i: {"ema": value + 1} for i, value in enumerate(state.values())}
    del averages[3]  # a parameter that never got a gradient has none
    content = {
        "netG_dict": state,
        "optimizerG": {"state": averages},
        "args": argparse.Namespace(nz=12),
        "epoch": 3,
    }
    torch.save(content, folder / "content.pth")
    config = str(folder / "args.json")
    raw = convert_ddgan(folder / "netG_7.pth", config, folder / "a.safetensors")
    averaged = convert_ddgan(folder / "content.pth", config, folder / "b.safetensors")
    first, second = raw.method.state_dict(), averaged.method.state_dict()
    moved = [float((second[k] - v).mean()) for k, v in first.items()]
    assert sum(abs(x - 1) < 1e-5 for x in moved) == len(moved) - 1
    assert sum(abs(x) < 1e-5 for x in moved) == 1


def test_nothing_in_a_file_is_executed(tmp_path):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "boom"),))

    torch.save({"netG_dict": Boom()}, tmp_path / "netG.pth")
    with pytest.raises(CheckpointError, match="cannot read weights"):
        read_torch(tmp_path / "netG.pth")
    assert not (tmp_path / "boom").exists()


def foreign(kind):
    """The beginnings of other files."""
    if kind == "csv":
        return b"a,b,c\n1,2,3\n"
    if kind == "png":
        buffer = io.BytesIO()
        Image.new("L", (8, 8), 7).save(buffer, "png")
        return buffer.getvalue()
    return random.Random(int(kind)).randbytes(300)


@pytest.mark.parametrize("kind", ["csv", "png", "1", "2", "3"])
def test_foreign_bytes_are_refused_in_one_line(kind, tmp_path, capsys):
    (tmp_path / "in.pth").write_bytes(foreign(kind))
    call = [str(tmp_path / "in.pth"), "-o", str(tmp_path / "x.safetensors")]
    for what in (["lsgm"], ["ddgan", "--config", "cifar10"], ["cld", "--config", "cifar10"]):
        assert main(["convert", *what, *call]) != 0
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert "cannot read weights from" in lines[0]
        assert not (tmp_path / "x.safetensors").exists()


def test_short_foreign_bytes_are_refused(tmp_path):
    """Short ones reach opcodes that find an empty stack, or a memo without their key."""
    draw, file = random.Random(0), tmp_path / "in.pth"
    for _ in range(300):
        file.write_bytes(draw.randbytes(draw.randrange(30)))
        with pytest.raises(CheckpointError, match="cannot read weights"):
            read_torch(file)


def test_published_arguments_equal_the_listings():
    from oracles import listing

    table = listing("ddgan_args")
    for ours, theirs in (
        ("cifar10", "cifar10"),
        ("celebahq256", "celebahq256"),
        ("lsun-church", "lsun_church256"),
    ):
        expected = table[f"ddgan_netG_{theirs}"]
        for name, value in OFFICIAL_DDGAN[ours].items():
            assert expected[name] == value, (ours, name)


# ----------------------------------------------------------- latent score-based models

FLAGS = {
    **OFFICIAL_LSGM["celebahq256-qualitative"],
    "dataset": "imagenet_16",
    "num_channels_enc": 8,
    "num_channels_dec": 4,
    "num_groups_per_scale": 2,
    "num_latent_per_group": 2,
    "num_cell_per_cond_enc": 1,
    "num_cell_per_cond_dec": 1,
    "num_nf": 1,
    "num_channels_dae": 8,
    "num_scales_dae": 2,
    "num_cell_per_scale_dae": 1,
    "embedding_dim": 8,
}


@pytest.fixture
def latent(tmp_path):
    """A training checkpoint of the second stage as the authors save it, by tiny networks."""
    torch.manual_seed(0)
    autoencoder = NVAE(**describe_autoencoder(FLAGS))
    prior = MixedScore(NCSNpp(**describe_prior(FLAGS, 4)), 4, logit=-1.0)
    vae, dae = export_state(autoencoder), export_state(prior)
    norms = {torch.Size([8, 27]): torch.zeros(1, 8)}
    stored = {
        "epoch": 7,
        "global_step": 99,
        "args": argparse.Namespace(**FLAGS, save="somewhere", cont_training=False),
        "grad_scalar": {"scale": 1024.0},
        "best_score_fid": 1e10,
        "vae_state_dict": {f"module.{key}": value for key, value in vae.items()},
        "vae_sn_calculator": {"sr_u": norms, "sr_v": norms},
        "dae_state_dict": dae,
        "dae_optimizer": {
            "state": {i: {"step": 99, "ema": value + 1} for i, value in enumerate(dae.values())},
            "param_groups": [{"lr": 1e-4, "params": list(range(len(dae)))}],
        },
    }
    torch.save(stored, tmp_path / "checkpoint.pt")
    return tmp_path, stored


def test_a_second_stage_becomes_a_model_that_samples(latent):
    folder, stored = latent
    made = convert_lsgm(folder / "checkpoint.pt", None, folder / "m.safetensors")
    pipeline = load(folder / "m.safetensors")
    method = pipeline.method
    assert isinstance(method, LSGM)
    assert made.event_shape == pipeline.event_shape == (3, 16, 16)
    assert (method.prior.process.beta_max, method.prior.t_min) == (20.0, 0.01)
    assert method.prior.parametrisation.mixed_score
    assert method.sampling_t_min == 1e-5
    autoencoder = export_state(method.autoencoder)
    for key, value in stored["vae_state_dict"].items():
        assert torch.equal(autoencoder[key.removeprefix("module.")], value), key
    for key, value in export_state(method.prior.network).items():
        assert torch.equal(value, stored["dae_state_dict"][key] + 1), key
    assert pipeline.card["weights"].endswith("moving averages of the prior, after 99 steps")
    assert pipeline.card["source"].startswith("Vahdat")
    images = pipeline.sample(2, num_steps=2)
    assert images.shape == (2, 3, 16, 16)
    assert float(images.abs().max()) <= 1
    assert pipeline.reconstruct(images).shape == images.shape


def test_averages_that_were_chosen_are_taken_as_they_are(latent):
    folder, stored = latent
    del stored["dae_optimizer"]
    torch.save(stored, folder / "checkpoint_fid.pt")
    (folder / "flags.json").write_text(json.dumps(FLAGS))
    config = str(folder / "flags.json")
    pipeline = convert_lsgm(folder / "checkpoint_fid.pt", config, folder / "m.safetensors")
    for key, value in export_state(pipeline.method.prior.network).items():
        assert torch.equal(value, stored["dae_state_dict"][key]), key
    assert pipeline.card["weights"] == "autoencoder as stored, the prior as stored, after 99 steps"
    assert pipeline.sample(1, sampler="ode").shape == (1, 3, 16, 16)
    assert pipeline.last_nfe < 100


def test_a_first_stage_becomes_an_autoencoder_with_a_normal_prior(latent):
    folder, stored = latent
    kept = ("epoch", "global_step", "args", "vae_state_dict")
    torch.save({key: stored[key] for key in kept}, folder / "vae.pt")
    pipeline = convert_lsgm(folder / "vae.pt", None, folder / "m.safetensors")
    assert isinstance(pipeline.method, VAE)
    assert pipeline.sample(2).shape == (2, 3, 16, 16)
    assert pipeline.card["weights"] == "autoencoder as stored, after 99 steps"
    assert "sampling" not in pipeline.card


@pytest.mark.parametrize(
    ("spoil", "config", "words"),
    [
        (lambda c: c.pop("vae_state_dict"), None, "no vae_state_dict"),
        (lambda c: c.pop("args"), None, "no official flags 'args'.*give --config"),
        (lambda c: c["dae_optimizer"]["state"].pop(0), None, "averages .* tensors"),
        (lambda c: c["dae_optimizer"].pop("state"), None, "averages 0 tensors"),
        (lambda c: c["dae_state_dict"].pop("mixing_logit"), None, "averages|mixing_logit"),
        (lambda c: c["vae_state_dict"].pop("module.prior_ftr0"), None, "missing.*prior_ftr0"),
        (lambda c: setattr(c["args"], "num_channels_dae", 12), None, "shape"),
        (lambda c: setattr(c["args"], "num_latent_per_group", 3), None, "shape"),
        (lambda c: setattr(c["args"], "num_nf", 2), None, "does not fit"),
        (lambda c: delattr(c["args"], "num_channels_enc"), None, "'num_channels_enc' is missing"),
        (lambda c: setattr(c["args"], "dataset", "svhn"), None, "dataset='svhn'"),
        (lambda c: None, "cifar10", "did you mean 'cifar10-"),
    ],
)
def test_latent_models_that_cannot_be_converted(latent, spoil, config, words):
    folder, stored = latent
    spoil(stored)
    torch.save(stored, folder / "checkpoint.pt")
    with pytest.raises((CheckpointError, ConfigError), match=words) as caught:
        convert_lsgm(folder / "checkpoint.pt", config, folder / "m.safetensors")
    assert "\n" not in str(caught.value)
    assert not (folder / "m.safetensors").exists()


def test_a_latent_model_on_the_command_line(latent, capsys):
    folder, _ = latent
    call = ["convert", "lsgm", str(folder / "checkpoint.pt"), "-o", str(folder / "m.safetensors")]
    assert main(call) == 0
    assert "(3, 16, 16)" in " ".join(capsys.readouterr().out.split())
    assert isinstance(load(folder / "m.safetensors").method, LSGM)
    assert main(["convert", "cld", *call[2:]]) == 2
    assert "give --config" in capsys.readouterr().err
