"""Spectral and norm regularisers: singular values, gradients, recorded numbers."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import below
from safetensors.torch import load_file
from torch import nn

from trilemma.autoencoders import NVAE
from trilemma.checkpoints.links import fill, ncsnpp_links
from trilemma.checkpoints.nvae_links import nvae_aliases, nvae_links
from trilemma.errors import ConfigError
from trilemma.networks import NCSNpp
from trilemma.networks.regularise import SpectralNorm, convolution_weights, norm_penalty

GOLDEN = Path(__file__).parent.parent / "golden" / "lsgm"
NARROW = {"encoder_channels": 8, "decoder_channels": 8, "latent_channels": 3}
PRIOR = {"channels": 16, "channel_mult": (1, 1), "num_res_blocks": 1, "attention_resolutions": ()}
MAKE = {
    "bernoulli/vae": lambda: NVAE(
        32,
        1,
        **NARROW,
        channel_mult=(1, 2, 2),
        num_pre_blocks=2,
        cell="inverted",
        likelihood="bernoulli",
        binarise=True,
        crop=2,
    ),
    "rgb/vae": lambda: NVAE(
        16, **NARROW, channel_mult=(1, 1, 2), num_scales=2, num_flows=1, input_skip=True
    ),
    "bernoulli/dae": lambda: NCSNpp(8, 6, **PRIOR, resample="mean"),
    "rgb/dae": lambda: NCSNpp(4, 6, **PRIOR, resample="fir"),
}
RECORDED = {
    "bernoulli/vae": (45.65556250738836, 42.56139898300171),
    "rgb/vae": (56.10675653556993, 33.36503630876541),
    "bernoulli/dae": (27.57330871713834, 25.932207465171814),
    "rgb/dae": (27.341523883780997, 26.028314471244812),
}
"""Sum of singular values after four more iterations, and of the largest scales."""


@cache
def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def start(name):
    """State of a spectral norm that has the recorded vectors."""
    vectors = below(golden("objective_spectral_init"), f"{name}/")
    named = {key.replace("/", "_"): value for key, value in vectors.items()}
    return {**named, "num_calls": torch.tensor(1)}


@pytest.mark.parametrize("name", MAKE)
def test_which_convolutions_count(name):
    spectral = SpectralNorm(MAKE[name]())
    found = {key: tuple(value.shape) for key, value in spectral.state_dict().items()}
    assert found == {key: tuple(value.shape) for key, value in start(name).items()}


def load(name):
    recorded = load_file(GOLDEN / "objective_models.safetensors")
    state, network = below(recorded, f"{name}/"), MAKE[name]()
    if name.endswith("vae"):
        return fill(network, nvae_links(network), state, unused=nvae_aliases(network))
    own = network.state_dict()  # its time embedding may have another width; all else must fit
    for link in ncsnpp_links(network):
        if not re.search(r"all_modules\.[01]\.|Dense_0", link.theirs[0]):
            own[link.ours] = link.join(state, own[link.ours].shape)
    network.load_state_dict(own)
    return network


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", MAKE)
def test_recorded_values(name, dtype, rtol):
    network = load(name).to(dtype)
    spectral = SpectralNorm(network)
    spectral.load_state_dict(start(name))
    spectral.to(dtype)
    singular, scales = RECORDED[name]
    value = spectral(convolution_weights(network))
    assert value.dtype == dtype
    assert float(value.detach()) == pytest.approx(singular, rel=rtol)
    assert float(norm_penalty(network).detach()) == pytest.approx(scales, rel=rtol)


def convolutions(*shapes):
    return nn.Sequential(*(nn.Conv2d(i, o, k) for i, o, k in shapes)).double()


def test_values_and_gradients_are_those_of_the_decomposition():
    network = convolutions((3, 5, 3), (5, 3, 1), (3, 5, 3), (2, 4, 1))
    spectral = SpectralNorm(network).double()
    weights = convolution_weights(network)
    for _ in range(100):
        value = spectral(weights)
    exact = sum(torch.linalg.svdvals(weight.flatten(1))[0] for weight in weights)
    torch.testing.assert_close(value, exact)
    gradients = torch.autograd.grad(value, weights)
    expected = torch.autograd.grad(exact, weights)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def by_hand(matrices, state, iterations):
    """The same iteration without stacks."""
    total, seen = 0.0, {}
    for w in matrices:
        name = f"{w.shape[0]}x{w.shape[1]}"
        row = seen[name] = seen.get(name, -1) + 1
        u, v = state[f"u_{name}"][row], state[f"v_{name}"][row]
        for _ in range(iterations):
            v = w.T @ u
            v = v / v.norm().clamp(min=1e-3)
            u = w @ v
            u = u / u.norm().clamp(min=1e-3)
        total += u @ w @ v
    return total


def test_forty_iterations_first_and_four_later():
    network = convolutions((3, 5, 3), (5, 3, 1), (3, 5, 3))
    spectral = SpectralNorm(network).double()
    matrices = [weight.detach().flatten(1) for weight in convolution_weights(network)]
    for iterations in (40, 4, 4):
        state = {key: value.clone() for key, value in spectral.state_dict().items()}
        value = spectral(convolution_weights(network))
        torch.testing.assert_close(value, by_hand(matrices, state, iterations))
        assert value.requires_grad
    assert int(spectral.num_calls) == 3


def test_a_restored_norm_goes_on_where_it_was():
    network = convolutions((3, 5, 3), (5, 3, 1))
    first, second = SpectralNorm(network).double(), SpectralNorm(network).double()
    first(convolution_weights(network))
    second.load_state_dict(first.state_dict())
    weights = [weight.detach() for weight in convolution_weights(network)]
    assert float(first(weights)) == float(second(weights))


def test_two_calls_before_one_backward():
    network = convolutions((3, 5, 3))
    spectral = SpectralNorm(network).double()
    (spectral(convolution_weights(network)) + spectral(convolution_weights(network))).backward()
    assert network[0].weight.grad is not None


def test_normalised_weights_count_as_they_are_applied():
    network = MAKE["rgb/vae"]()
    stem = convolution_weights(network)[0]
    assert torch.equal(stem, network.stem.effective_weight())
    (gradient,) = torch.autograd.grad(stem.sum(), network.stem.log_norm)
    assert gradient.abs().max() > 0


def test_channel_mixes_of_the_score_network_are_left_out():
    options = {**PRIOR, "channel_mult": (1, 2), "attention_resolutions": (8,)}
    network = NCSNpp(8, 3, **options, block="ddpm")
    shapes = [tuple(weight.shape[2:]) for weight in convolution_weights(network)]
    assert set(shapes) == {(3, 3)}


def test_single_precision_under_autocast():
    network = nn.Conv2d(3, 5, 3).requires_grad_(False)
    spectral = SpectralNorm(network)
    spectral(convolution_weights(network))
    state = {key: value.clone() for key, value in spectral.state_dict().items()}
    plain = spectral(convolution_weights(network))
    spectral.load_state_dict(state)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectral(convolution_weights(network)), plain)


def test_norm_penalty_takes_the_largest_scale_of_each_layer():
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.GroupNorm(1, 2), nn.BatchNorm2d(3, affine=False), nn.LayerNorm(2)
    )
    network[0].weight.data = torch.tensor([1.0, -3.0, 2.0])
    network[1].weight.data = torch.tensor([0.5, -0.25])
    assert float(norm_penalty(network).detach()) == 3.5


def test_a_network_without_such_layers_has_no_penalty():
    network = nn.Linear(2, 2)
    assert float(SpectralNorm(network)(convolution_weights(network))) == 0
    assert float(norm_penalty(network)) == 0


def test_weights_of_another_network_are_refused():
    spectral = SpectralNorm(convolutions((3, 5, 3)))
    with pytest.raises(ConfigError, match="made for"):
        spectral(convolution_weights(convolutions((3, 5, 3), (3, 5, 3))))
