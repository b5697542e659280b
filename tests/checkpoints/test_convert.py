"""Files of the authors become model files that draw the same pictures."""

import argparse
import json
import os

import pytest
import torch
from oracles import ReplayRng, below, golden, golden_config

from trilemma.checkpoints.convert import OFFICIAL_DDGAN, convert_ddgan, read_torch
from trilemma.errors import CheckpointError
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
