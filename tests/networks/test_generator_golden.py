"""Generators and discriminators against the numbers of the reference implementation."""

import math

import pytest
import torch
from oracles import below, golden, golden_config

from trilemma.checkpoints.official_ddgan import (
    discriminator_links,
    export_state,
    generator_links,
    load_discriminator,
    load_generator,
)
from trilemma.networks.layers import FIR

GENERATORS = [
    "gen_g1_cifar_like",
    "gen_g2_pyramids_cat",
    "gen_g3_nofir_noattn",
    "gen_g4_ddpm_block",
    "gen_g5_oneadagn",
    "gen_g6_fourier_3level",
]
DISCRIMINATORS = ["disc_small", "disc_large"]


def load(name):
    file, config = golden(name), golden_config(name)["config"]
    read = load_generator if name.startswith("gen") else load_discriminator
    return read(below(file, "state/"), config), file


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_outputs_and_gradients(name):
    network, file = load(name)
    x, z = file["in/x"].requires_grad_(), file["in/z"].requires_grad_()
    torch.testing.assert_close(network.mapping(z), file["mid/zemb"], rtol=0, atol=2e-5)
    y = network(x, file["in/t"], z)
    torch.testing.assert_close(y, file["out/y"], rtol=0, atol=2e-5)
    gradients = torch.autograd.grad((file["grad/weight"] * y).sum(), (x, z))
    torch.testing.assert_close(gradients[0], file["grad/x"], rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(gradients[1], file["grad/z"], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_layers_one_by_one(name):
    """Mean, standard deviation and largest value of the output of every recorded layer."""
    network, file = load(name)
    modules = dict(network.named_modules())
    official = {}
    for link in generator_links(network):
        parts = [part.split(".") for part in link.theirs]
        if parts[0][0] == "all_modules":
            ours = link.ours.split(".")
            official.setdefault(int(parts[0][1]), []).append((ours, parts[0][2:]))
    seen = {}
    hooks = []
    for index, links in official.items():
        ours, theirs = links[0]
        depth = len(ours) - len(theirs)
        path = ".".join(ours[:depth]) if len(theirs) > 1 else ".".join(ours[:-1])
        while path and path not in modules:
            path = path.rpartition(".")[0]
        hooks.append(
            modules[path].register_forward_hook(
                lambda module, args, out, index=index: seen.__setitem__(index, out)
            )
        )
    network(file["in/x"], file["in/t"], file["in/z"])
    for hook in hooks:
        hook.remove()
    compared = 0
    for key, value in file.items():
        if not key.startswith("mid/all_modules."):
            continue
        index = int(key.split(".")[1].removesuffix("/stats"))
        if not torch.is_tensor(seen.get(index)) or seen[index].dim() != 4:
            continue  # embeddings, and layers without weights, are not hooked
        y = seen[index].detach()
        stats = torch.stack([y.mean(), y.std(), y.abs().max()])
        torch.testing.assert_close(stats, value, rtol=1e-4, atol=2e-5, msg=lambda m, k=key: k + m)
        compared += 1
    assert compared > 5


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator_logits_and_penalty(name):
    network, file = load(name)
    network.requires_grad_(True)
    u_s = file["in/x_tm1"].requires_grad_()
    logits = network(u_s, file["in/t"], file["in/x_t"])
    torch.testing.assert_close(logits, file["out/logits"], rtol=0, atol=2e-5)
    (gradient,) = torch.autograd.grad(logits.sum(), u_s, create_graph=True)
    torch.testing.assert_close(gradient, file["grad/x_tm1"], rtol=1e-4, atol=5e-5)
    penalty = gradient.flatten(1).square().sum(1).mean()
    torch.testing.assert_close(penalty[None], file["out/r1_unscaled"], rtol=1e-4, atol=1e-6)

    (0.5 * penalty).backward()
    norms = below(file, "r1_param_grad_norm/")
    parameters = dict(network.named_parameters())
    compared = 0
    for link in discriminator_links(network):
        gradient = parameters[link.ours].grad
        norm = torch.zeros(()) if gradient is None else gradient.norm()
        (official,) = link.theirs
        if official in norms:
            expected = norms.pop(official)
            torch.testing.assert_close(norm[None], expected.view(1), rtol=1e-3, atol=1e-6)
            compared += 1
    assert not norms
    assert compared > 20


@pytest.mark.parametrize("name", GENERATORS + DISCRIMINATORS)
def test_export_inverts_loading(name):
    network, file = load(name)
    official = below(file, "state/")
    if name == "gen_g5_oneadagn":  # its time layers exist in the file and are never used
        official = {k: v for k, v in official.items() if ".Dense_0." not in k}
    exported = export_state(network)
    assert set(exported) == set(official)
    for key, value in official.items():
        assert torch.equal(exported[key], value), key


@pytest.mark.parametrize("name", ["gen_g1_cifar_like", "gen_g3_nofir_noattn", "disc_small"])
def test_channels_last_gives_the_same_numbers(name):
    network, file = load(name)
    is_generator = name.startswith("gen")
    inputs = (
        (file["in/x"], file["in/t"], file["in/z"])
        if is_generator
        else (file["in/x_tm1"], file["in/t"], file["in/x_t"])
    )
    plain = network(*inputs)
    network = network.to(memory_format=torch.channels_last)
    inputs = [
        x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs
    ]
    torch.testing.assert_close(network(*inputs), plain, rtol=0, atol=2e-5)


def test_the_fir_of_a_loaded_network_is_the_published_one():
    network, _ = load("gen_g1_cifar_like")
    kernels = [m.kernel for m in network.modules() if isinstance(m, FIR)]
    assert kernels
    expected = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    assert all(torch.allclose(kernel, expected) for kernel in kernels)
    assert math.isclose(float(kernels[0].sum()), 1.0, rel_tol=1e-6)
