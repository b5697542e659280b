"""The key map of the official weights: total, exact, invertible, and strict about mistakes."""

import argparse

import pytest
import torch
from oracles import below, golden, golden_config, listing

from trilemma.checkpoints.official_ddgan import (
    build_discriminator,
    build_generator,
    describe,
    discriminator_links,
    export_state,
    generator_links,
    load_discriminator,
    load_generator,
)
from trilemma.errors import CheckpointError
from trilemma.processes import VP, uniform_grid

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
    """Only the widths of the levels have no official default."""
    state, config = official
    with pytest.raises(CheckpointError, match="'ch_mult'"):
        load_generator(state, {k: v for k, v in config.items() if k != "ch_mult"})


@pytest.mark.parametrize("absent", [{}, dict.fromkeys(["nz", "n_mlp", "image_size"])])
def test_absent_arguments_have_the_official_defaults(absent):
    """The listing of stacked MNIST is that of the defaults, with the widths of CIFAR-10."""
    full = listing("ddgan_args")["ddgan_netG_stackedmnist_like"]
    assert describe({"ch_mult": full["ch_mult"], **absent}) == describe(full)
    assert full["ch_mult"] == [1, 2, 2, 2]


def test_a_generator_of_defaults_has_the_published_size():
    with torch.device("meta"):
        network = build_generator({"ch_mult": [1, 2, 2, 2]})
    assert network.event_shape == (3, 32, 32)
    expected = GENERATORS["ddgan_netG_stackedmnist_like"]
    assert sum(p.numel() for p in network.parameters()) == expected


def test_arguments_may_be_a_namespace(official):
    """As ``content.pth`` holds them, with entries that decide nothing here."""
    state, config = official
    args = argparse.Namespace(**config, exp="run", lr_g=1e-4)
    loaded = export_state(load_generator(state, args))
    assert set(loaded) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    file, config = golden("disc_small"), golden_config("disc_small")["config"]
    sizes = {name: config[name] for name in ("ngf", "t_emb_dim")}
    state = below(file, "state/")
    loaded = export_state(load_discriminator(state, argparse.Namespace(num_channels=3, **sizes)))
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("load", [load_generator, load_discriminator])
def test_the_geometric_schedule_is_refused_before_the_weights_are_read(load):
    """No tensor is given: the complaint is about the schedule, not about missing ones."""
    args = {"ch_mult": [1, 2], "num_channels_dae": 8, "ngf": 4, "use_geometric": True}
    with pytest.raises(CheckpointError, match="use_geometric=True"):
        load({}, args)
    with pytest.raises(CheckpointError, match="missing"):
        load({}, {**args, "use_geometric": False})


def unconditional(state, index):
    """The state dict without its time layers, its layers counted from ``index``."""
    shifted = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        if first == "all_modules":
            if int(rest[0]) < 2:
                continue
            rest = [str(int(rest[0]) - 2 + index), *rest[1:]]
        shifted[".".join([first, *rest])] = value
    return shifted


@pytest.mark.parametrize(("embedding", "index"), [("positional", 0), ("fourier", 1)])
def test_frequencies_stand_in_the_list_even_where_time_is_not_used(official, embedding, index):
    """Fourier frequencies are layer 0 whenever chosen; ``conditional`` decides the two after it."""
    state, config = official
    args = {**config, "conditional": False, "embedding_type": embedding}
    theirs = unconditional(state, index)
    if index:
        theirs["all_modules.0.W"] = torch.randn(config["num_channels_dae"])
    network = load_generator({f"module.{name}": value for name, value in theirs.items()}, args)
    assert network.time is None
    # Stem and last layer: the first and the last official numbers.
    last = max(int(name.split(".")[1]) for name in theirs if name.startswith("all_modules."))
    assert torch.equal(network.stem.weight, state["all_modules.2.weight"])
    assert torch.equal(network.stem.weight, theirs[f"all_modules.{index}.weight"])
    assert torch.equal(network.head.conv.weight, theirs[f"all_modules.{last}.weight"])
    used = {name for link in generator_links(network, index) for name in link.theirs}
    unused = {name for name in theirs if name not in used and ".Dense_0." not in name}
    assert unused == ({"all_modules.0.W"} if index else set())
    # The numbers of the other embedding do not fit.
    other = {**args, "embedding_type": {"positional": "fourier"}.get(embedding, "positional")}
    with pytest.raises(CheckpointError, match="missing"):
        load_generator(theirs, other)
    # What is written again is numbered without the frequencies, and reads as such.
    again = load_generator(export_state(network), {**args, "embedding_type": "positional"})
    assert torch.equal(again.head.conv.weight, network.head.conv.weight)


def test_an_unknown_time_embedding_is_refused_even_where_it_is_not_used(official):
    _, config = official
    with pytest.raises(CheckpointError, match="fourier_linear"):
        describe({**config, "conditional": False, "embedding_type": "fourier_linear"})


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


@pytest.mark.parametrize(
    ("num_steps", "moved"), [(1, 1.1e-4), (2, 1.1e-4), (4, 1.75e-4), (8, 6.47e-4)]
)
def test_the_published_coefficients_need_the_origin_of_the_grid(num_steps, moved):
    """The call that the documentation names; origin 0 is off by as much as it says."""
    stored = below(golden("coefficients"), f"T{num_steps}/posterior/")
    names = ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance")
    grid = uniform_grid(num_steps, 1e-3).flip(0)
    errors = {}
    for origin in (1e-3, 0.0):
        found = VP().posterior(grid[1:], grid[:-1], origin=origin)
        pairs = zip(found, names, strict=True)
        errors[origin] = max(float((x.flatten() - stored[y]).abs().max()) for x, y in pairs)
    assert errors[1e-3] < 3e-7
    assert errors[0.0] == pytest.approx(moved, rel=0.02)
