"""The hierarchical autoencoder: recorded numbers of the reference, laws, errors."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import ReplayRng, below
from safetensors.torch import load_file
from torch import nn

from trilemma.autoencoders import NVAE
from trilemma.autoencoders.nvae_layers import (
    AutoregressiveShift,
    Cell,
    Flow,
    MaskedConv,
    NormedConv,
)
from trilemma.checkpoints.links import export, fill
from trilemma.checkpoints.nvae_links import nvae_aliases, nvae_links
from trilemma.errors import CheckpointError, ConfigError
from trilemma.rng import BatchRng

GOLDEN = Path(__file__).parent.parent / "golden" / "lsgm"
RECORDED = {
    "vae_bernoulli": {
        "image_size": 32,
        "image_channels": 1,
        "encoder_channels": 8,
        "decoder_channels": 8,
        "channel_mult": (1, 2, 2),
        "latent_channels": 3,
        "num_pre_blocks": 2,
        "cell": "inverted",
        "likelihood": "bernoulli",
        "binarise": True,
        "crop": 2,
    },
    "vae_rgb": {
        "image_size": 16,
        "encoder_channels": 8,
        "decoder_channels": 8,
        "channel_mult": (1, 1, 2),
        "num_scales": 2,
        "latent_channels": 3,
        "num_flows": 1,
        "input_skip": True,
    },
}
TINY = {
    "image_size": 8,
    "encoder_channels": 4,
    "decoder_channels": 8,
    "channel_mult": (1, 2),
    "latent_channels": 3,
}


@cache
def _golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def load(name, dtype=torch.float32):
    file = _golden(name)
    network = NVAE(**RECORDED[name])
    fill(network, nvae_links(network), below(file, "state/"), unused=nvae_aliases(network))
    noise = below(file, "noise/")
    draws = [noise[f"group{i}"].to(dtype) for i in range(len(noise))]
    return network.to(dtype), file, file["x_symmetric"].to(dtype), draws


def groups_of(network, inferred):
    """Latents and log-densities of every group, in order."""
    zs = [*network.split(inferred.prior.z), *(other.z for other in inferred.others)]
    log_qs = [*network.split(inferred.prior.log_q), *(other.log_q for other in inferred.others)]
    return zs, log_qs


def raw(likelihood):
    """Parameters of a law, cropped or not."""
    return getattr(likelihood, "law", likelihood).parameters


# -------------------------------------------------------------- recorded numbers


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_whole_pass(name, mode):
    network, file, x, draws = load(name)
    network.train(mode == "train")
    with torch.no_grad():
        inferred, likelihood = network(x, ReplayRng(*draws))
    zs, log_qs = groups_of(network, inferred)
    for i, (z, log_q) in enumerate(zip(zs, log_qs, strict=True)):
        torch.testing.assert_close(z, file[f"{mode}/group{i}/eps"], rtol=0, atol=1e-5)
        torch.testing.assert_close(log_q, file[f"{mode}/group{i}/log_q"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        inferred.prior.z, file[f"{mode}/concat_eps_scale0"], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(raw(likelihood), file[f"{mode}/logits"], rtol=0, atol=1e-5)
    recon, log_q_total = -likelihood.log_prob(x), sum(x.flatten(1).sum(1) for x in log_qs)
    torch.testing.assert_close(recon, file[f"{mode}/recon_nll"], rtol=1e-5, atol=0)
    torch.testing.assert_close(log_q_total, file[f"{mode}/log_q_total"], rtol=1e-5, atol=0)
    cross = sum((z.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2 for z in zs)
    nelbo = file[f"{mode}/nelbo_standard_normal_prior"]
    torch.testing.assert_close(recon + log_q_total + cross, nelbo, rtol=1e-5, atol=0)
    if mode == "eval":
        torch.testing.assert_close(likelihood.mean, file["eval/decoder_mean"], rtol=0, atol=1e-5)
    else:
        after = export(network, nvae_links(network))
        expected = below(file, "train/state_after/")
        assert len(expected) > 60
        for key, value in expected.items():
            torch.testing.assert_close(after[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RECORDED)
def test_double_precision(name):
    network, file, x, draws = load(name, torch.float64)
    with torch.no_grad():
        inferred, likelihood = network(x, ReplayRng(*draws))
    expected = below(file, "eval_f64/")
    torch.testing.assert_close(raw(likelihood), expected["logits"], rtol=0, atol=1e-10)
    recon = -likelihood.log_prob(x)
    torch.testing.assert_close(recon, expected["recon_nll"], rtol=1e-9, atol=0)
    zs, log_qs = groups_of(network, inferred)
    log_q_total = sum(log_q.flatten(1).sum(1) for log_q in log_qs)
    torch.testing.assert_close(log_q_total, expected["log_q_total"], rtol=1e-12, atol=0)
    kl = [
        (log_q + z.square() / 2 + math.log(2 * math.pi) / 2).flatten(1).sum(1)
        for z, log_q in zip(zs, log_qs, strict=True)
    ]
    # The reference has log(2 pi) / 2 to ten digits here.
    torch.testing.assert_close(torch.stack(kl, 1), expected["kl_per_group"], rtol=2e-9, atol=0)


@pytest.mark.parametrize("name", RECORDED)
def test_posterior_means_and_spreads(name):
    """Parameters of every posterior, given the recorded latents of the groups before it."""
    network, file, x, _ = load(name)
    seen = []

    def choose(group, law):
        seen.append(law)
        return file[f"eval/group{group}/eps"]

    with torch.no_grad():
        network._infer(x, choose)
    for i, law in enumerate(seen):
        torch.testing.assert_close(law.mean, file[f"eval/group{i}/mu_q"], rtol=0, atol=1e-5)
        torch.testing.assert_close(law.log_std, file[f"eval/group{i}/log_sig_q"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_decoding_given_latents(name):
    network, file, _, _ = load(name)
    sample, number = below(file, "sample/"), len(network.groups)
    others = [sample[f"eps_group{number + i}"] for i in range(len(network.other_shapes))]
    top = sample["concat_top_eps"]
    for i, z in enumerate(network.split(top)):
        assert torch.equal(z, sample[f"eps_group{i}"])
    with torch.no_grad():
        unit = (network.decode(top, others).mean + 1) / 2
        torch.testing.assert_close(unit, sample["image_unit"], rtol=0, atol=1e-5)
        if others:
            cool = (network.decode(top, [0.7 * z for z in others]).mean + 1) / 2
            torch.testing.assert_close(cool, sample["image_unit_vae_temp_0.7"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_export_inverts_loading(name):
    network, file, _, _ = load(name)
    official = below(file, "state/")
    exported = export(network, nvae_links(network))
    assert set(exported) == set(official) - set(nvae_aliases(network))
    for key, value in exported.items():
        assert torch.equal(value, official[key]), key


def test_a_count_of_another_shape_is_refused():
    network, file, _, _ = load("vae_rgb")
    state = below(file, "state/")
    key = next(name for name in state if name.endswith("num_batches_tracked"))
    with pytest.raises(CheckpointError, match="must be one number"):
        fill(network, nvae_links(network), {**state, key: torch.zeros(2)})


# ----------------------------------------------------------------------------- laws

OPTIONS = {
    "plain": {},
    "inverted": {"cell": "inverted"},
    "no cells": {"encoder_cells": 0, "decoder_cells": 0},
    "two scales": {"num_scales": 2, "channel_mult": (1, 2, 2), "input_skip": True},
    "three scales": {"num_scales": 3, "num_pre_blocks": 0, "channel_mult": (1, 1, 2)},
    "flows": {"num_flows": 2},
    "no squeeze": {"squeeze_excite": False},
    "one group": {"num_groups": 1},
    "grey": {"image_channels": 1, "likelihood": "categorical", "bits": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_shapes_of_every_option(options):
    network = NVAE(**{**TINY, **options}).eval()
    x = torch.rand(2, *network.event_shape) * 2 - 1
    x = network.prepare(x, BatchRng(0, 2))
    with torch.no_grad():
        inferred, likelihood = network(x, BatchRng(1, 2))
        again = network.infer(x, BatchRng(1, 2))
        apart = network.decode(again.prior.z, [other.z for other in again.others])
        posterior = network.encode(x)
    assert sum(network.groups) == network.latent_shape[0]
    assert inferred.prior.z.shape == inferred.prior.log_q.shape == (2, *network.latent_shape)
    assert posterior.mean.shape == posterior.log_std.shape == (2, *network.latent_shape)
    assert tuple(tuple(other.z.shape[1:]) for other in inferred.others) == network.other_shapes
    assert len(network.split(inferred.prior.z)) == len(network.groups)
    torch.testing.assert_close(raw(apart), raw(likelihood))
    assert likelihood.log_prob(x).shape == (2,)
    assert likelihood.mean.shape == likelihood.sample(BatchRng(2, 2)).shape == x.shape


def nelbo(network, x, rng):
    inferred, likelihood = network(x, rng)
    zs, log_qs = groups_of(network, inferred)
    kl = sum((q + z.square() / 2).sum() for z, q in zip(zs, log_qs, strict=True))
    return (kl - likelihood.log_prob(x).sum()) / len(x)


@pytest.mark.parametrize("cell", ["residual", "inverted"])
def test_every_parameter_matters(cell):
    options = {**OPTIONS["two scales"], "num_flows": 1, "cell": cell}
    network = NVAE(**{**TINY, **options}).eval()
    nelbo(network, torch.rand(4, 3, 8, 8) * 2 - 1, BatchRng(0, 4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_log_q_is_the_normal_density_of_the_draw():
    network = NVAE(**TINY).eval()
    x = torch.rand(2, 3, 8, 8)
    laws = []
    draws = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    with torch.no_grad():
        inferred = network.infer(x, ReplayRng(*draws))
        zs = network.split(inferred.prior.z)
        network._infer(x, lambda group, law: (laws.append(law), zs[group])[1])
    for law, z, log_q, draw in zip(
        laws, zs, network.split(inferred.prior.log_q), draws, strict=True
    ):
        normal = torch.distributions.Normal(law.mean, law.log_std.exp())
        torch.testing.assert_close(log_q, normal.log_prob(z))
        torch.testing.assert_close(z, law.mean + law.log_std.exp() * draw)


@pytest.mark.parametrize("num_flows", [0, 2])
def test_encode_is_the_pass_without_noise(num_flows):
    network = NVAE(**TINY, num_flows=num_flows).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        posterior = network.encode(x)
        inferred = network.infer(x, ReplayRng(*torch.zeros(2, 2, 3, 4, 4)))
    torch.testing.assert_close(posterior.mean, inferred.prior.z)
    torch.testing.assert_close(posterior.log_prob(posterior.mean), inferred.prior.log_q)


def test_later_groups_know_of_earlier_ones():
    network = NVAE(**TINY).eval()
    x, still = torch.rand(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)
    with torch.no_grad():
        first = network.infer(x, ReplayRng(still, still)).prior.z
        second = network.infer(x, ReplayRng(still + 1, still)).prior.z
    assert not torch.allclose(first[:, 3:], second[:, 3:])


def test_evaluation_does_not_depend_on_the_batch():
    network = NVAE(**TINY, cell="inverted").eval()
    z = torch.randn(3, *network.latent_shape)
    with torch.no_grad():
        whole = raw(network.decode(z))
        parts = torch.cat([raw(network.decode(z[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_channels_last_gives_the_same_numbers(name):
    network, file, x, draws = load(name)
    network = network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        _, likelihood = network(x, ReplayRng(*draws))
    torch.testing.assert_close(raw(likelihood), file["eval/logits"], rtol=0, atol=1e-5)


def test_half_precision_ends_in_single():
    network = NVAE(**TINY).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inferred, likelihood = network(x, BatchRng(0, 2))
    assert inferred.prior.z.dtype == inferred.prior.log_q.dtype == torch.float32
    assert likelihood.log_prob(x).dtype == torch.float32


# --------------------------------------------------------------------------- layers


def test_normed_convolutions_start_with_the_norms_they_have_and_keep_them():
    conv = NormedConv(3, 5)
    norms = conv.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(
        conv.effective_weight().flatten(1).norm(dim=1), norms + 0.01, rtol=1e-3, atol=0
    )
    conv.weight.data *= 7
    torch.testing.assert_close(
        conv.effective_weight().flatten(1).norm(dim=1), norms + 0.01, rtol=1e-3, atol=0
    )


def test_the_reverse_order_mirrors_the_pixels_only():
    straight = MaskedConv(2, 4, 3, sees_itself=False, is_reversed=False).mask
    mirrored = MaskedConv(2, 4, 3, sees_itself=False, is_reversed=True).mask
    assert torch.equal(straight.flip(2, 3), mirrored)
    assert straight[:, :, 1, 1].tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_shifts_look_only_back(is_reversed):
    shift = AutoregressiveShift(2, is_reversed=is_reversed).double()
    nn.init.normal_(shift.project.log_norm)
    jacobian = torch.autograd.functional.jacobian(shift, torch.randn(1, 2, 3, 3).double())
    # Pixels first, then channels: the order in which numbers see each other.
    pixels = torch.arange(9).flip(0) if is_reversed else torch.arange(9)
    order = torch.cat([torch.tensor([pixel, 9 + pixel]) for pixel in pixels])
    matrix = jacobian.reshape(18, 18)[order][:, order]
    assert torch.equal(matrix.triu(1), torch.zeros(18, 18).double())
    assert torch.equal(matrix.diagonal(), torch.ones(18).double())
    assert (matrix.tril(-1) != 0).sum() > 60


def test_flows_keep_volumes_and_can_be_undone():
    flow = nn.Sequential(Flow(2), Flow(2)).double()
    z = torch.randn(1, 2, 3, 3).double()
    jacobian = torch.autograd.functional.jacobian(flow, z).reshape(18, 18)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(()).double())
    y = flow(z)
    with torch.no_grad():
        for shift in (flow[1].second, flow[1].first, flow[0].second, flow[0].first):
            x = y
            for _ in range(18):  # each round settles one more number
                x = y + (x - shift(x))
            y = x
    torch.testing.assert_close(y, z)


@pytest.mark.parametrize("kind", ["residual", "inverted"])
@pytest.mark.parametrize("resample", ["none", "up"])
def test_a_cell_in_evaluation_is_the_cell_of_training_with_fixed_statistics(kind, resample):
    """Merged weights and late doubling change nothing."""
    cell = Cell(8, 8, kind, resample=resample)
    x = torch.randn(64, 8, 4, 4)
    norms = [m for m in cell.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    trained = cell(x)
    for norm in norms:  # training divides by the count, running variances by one less
        count = 64 * 16 * (4 if resample == "up" else 1)
        norm.running_var *= (count - 1) / count
    is_early = resample == "up" and kind == "residual"
    if is_early:  # its first norm comes before the doubling
        norms[0].running_var *= (1023 / 1024) / (4095 / 4096)
    torch.testing.assert_close(cell.eval()(x), trained, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 9}, "image_size=9 must be divisible by 2"),
        ({"image_size": 28, "num_pre_blocks": 3, "channel_mult": (1, 1, 1, 1)}, "divisible by 8"),
        ({"channel_mult": (1,)}, "must hold 2 multipliers"),
        ({"channel_mult": (1, 0)}, "must hold 2 multipliers"),
        ({"num_scales": 2}, "must hold 3 multipliers"),
        ({"cell": "invert"}, "cell='invert'.*did you mean 'inverted'"),
        ({"num_groups": 0}, "num_groups=0 must be at least 1"),
        ({"num_flows": -1}, "num_flows=-1 must be at least 0"),
        ({"encoder_channels": 2}, "encoder_channels=2"),
        ({"log_std_bound": 0.0}, "log_std_bound"),
        ({"crop": 4}, "crop=4 leaves nothing"),
        ({"likelihood": "logistics"}, "did you mean 'logistic'"),
        ({"likelihood": "bernoulli"}, "binarise=True"),
        ({"bits": 9}, "bits=9"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_name_the_argument(options, words):
    with pytest.raises(ConfigError, match=words) as error:
        NVAE(**{**TINY, **options})
    assert "\n" not in str(error.value)


def test_decoding_needs_all_groups():
    network = NVAE(**{**TINY, **OPTIONS["two scales"]})
    z = torch.randn(2, *network.latent_shape)
    with pytest.raises(ConfigError, match="draw the other groups"):
        network.decode(z)
    with pytest.raises(ConfigError, match="are needed"):
        network.decode(z[:, 1:], [torch.randn(2, *shape) for shape in network.other_shapes])
