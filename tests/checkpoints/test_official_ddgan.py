"""The key map of the official weights: total, exact, invertible, and strict about mistakes."""

import pytest
import torch
from oracles import below, golden, golden_config, listing

from trilemma.checkpoints.official_ddgan import (
    build_discriminator,
    build_generator,
    discriminator_links,
    export_state,
    generator_links,
    load_discriminator,
    load_generator,
)
from trilemma.errors import CheckpointError

GENERATORS = {
    "ddgan_netG_cifar10": 48_432_515,
    "ddgan_netG_stackedmnist_like": 48_366_723,
    "ddgan_netG_celebahq256": 39_726_979,
    "ddgan_netG_lsun_church256": 39_726_979,
}
DISCRIMINATORS = {"ddgan_netD_small": 12_741_633, "ddgan_netD_large": 27_737_217}


def arguments(name):
    """Official arguments of a listing."""
    found = listing("ddgan_args")[name]
    return found if name in GENERATORS else {**found, "cls": name.rpartition("_")[2]}


def build(name):
    """The network of a listing, without memory for its weights, and its links."""
    with torch.device("meta"):
        if name in GENERATORS:
            network = build_generator(arguments(name))
            return network, generator_links(network)
        network = build_discriminator(arguments(name))
        return network, discriminator_links(network)


@pytest.mark.parametrize("name", [*GENERATORS, *DISCRIMINATORS])
def test_parameter_counts(name):
    network, _ = build(name)
    expected = {**GENERATORS, **DISCRIMINATORS}[name]
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("name", [*GENERATORS, *DISCRIMINATORS])
def test_key_listing_is_reproduced_exactly(name):
    """Every official name with its shape, each used once; and every tensor of ours is linked."""
    network, links = build(name)
    expected = {k.removeprefix("module."): shape for k, (shape, _) in listing(name).items()}
    theirs = [official for link in links for official in link.theirs]
    assert len(theirs) == len(set(theirs))
    assert set(theirs) == set(expected)
    ours = [link.ours for link in links]
    assert len(ours) == len(set(ours))
    state = network.state_dict()
    assert set(ours) == set(state)
    for link in links:
        for official, part in link.split(state[link.ours]):
            assert list(part.shape) == expected[official], official


@pytest.mark.parametrize("name", ["ddgan_netG_cifar10", "ddgan_netD_small"])
def test_listing_dtype_and_prefix(name):
    assert all(key.startswith("module.") for key in listing(name))
    kinds = {dtype.removeprefix("torch.") for _, dtype in listing(name).values()}
    assert kinds == {"float32"}


@pytest.fixture
def official():
    file, config = golden("gen_g1_cifar_like"), golden_config("gen_g1_cifar_like")["config"]
    return below(file, "state/"), config


def test_the_distributed_prefix_is_ignored(official):
    state, config = official
    plain = export_state(load_generator(state, config))
    prefixed = load_generator({f"module.{k}": v for k, v in state.items()}, config)
    assert all(torch.equal(v, plain[k]) for k, v in export_state(prefixed).items())


def test_a_missing_tensor_is_refused(official):
    state, config = official
    del state["all_modules.3.Conv_0.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors missing.*all_modules\.3\.Conv_0\.weight"):
        load_generator(state, config)


def test_a_tensor_too_many_is_refused(official):
    state, config = official
    state["all_modules.99.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 left over.*all_modules\.99"):
        load_generator(state, config)


@pytest.mark.parametrize(
    "name",
    [
        "all_modules.2.weight",
        "all_modules.3.Conv_0.weight",
        "all_modules.3.Dense_0.bias",
        "z_transform.1.weight",
    ],
)
def test_a_tensor_of_another_shape_is_refused(official, name):
    state, config = official
    state[name] = torch.zeros(*[n + 1 for n in state[name].shape])
    with pytest.raises(CheckpointError, match="shape"):
        load_generator(state, config)


def test_a_transposed_tensor_is_refused(official):
    state, config = official
    name = "all_modules.3.Dense_0.weight"
    assert state[name].shape[0] != state[name].shape[1]
    state[name] = state[name].T.contiguous()
    with pytest.raises(CheckpointError, match="shape"):
        load_generator(state, config)


def test_a_reshaped_tensor_of_the_same_size_is_refused(official):
    """[out, in, 3, 3] and [out, in, 9] hold the same numbers; one is the official shape."""
    state, config = official
    name = "all_modules.3.Conv_0.weight"
    state[name] = state[name].flatten(2)
    with pytest.raises(CheckpointError, match="shape"):
        load_generator(state, config)


def test_a_missing_argument_is_named(official):
    state, config = official
    del config["nz"]
    with pytest.raises(CheckpointError, match="'nz'"):
        load_generator(state, {k: v for k, v in config.items() if k != "nz"})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"progressive": "residual"}, "progressive"),
        ({"resblock_type": "ddpm", "resamp_with_conv": True}, "resamp_with_conv"),
    ],
)
def test_networks_that_never_ran_officially_are_refused(official, change, word):
    _, config = official
    with pytest.raises(CheckpointError, match=word):
        build_generator({**config, **change})


def test_other_arguments_than_the_weights_are_refused(official):
    state, config = official
    with pytest.raises(CheckpointError):
        load_generator(state, {**config, "num_channels_dae": 32})
    with pytest.raises(CheckpointError):
        load_generator(state, {**config, "n_mlp": config["n_mlp"] + 1})
    with pytest.raises(CheckpointError):
        load_generator(state, {**config, "attn_resolutions": [16]})


def test_the_kind_of_discriminator_follows_from_its_tensors():
    for name, blocks in (("disc_small", 4), ("disc_large", 6)):
        config = {"ngf": golden_config(name)["config"]["ngf"], "nc": 6}
        config["t_emb_dim"] = golden_config(name)["config"]["t_emb_dim"]
        network = load_discriminator(below(golden(name), "state/"), config)
        assert len(network.blocks) == blocks
        assert not network.training


@pytest.mark.parametrize(("image_size", "blocks"), [(32, 4), (64, 6), (256, 6)])
def test_the_kind_of_discriminator_follows_from_the_image_size(image_size, blocks):
    with torch.device("meta"):
        assert len(build_discriminator({"image_size": image_size}).blocks) == blocks
