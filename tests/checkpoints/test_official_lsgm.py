"""Official latent score-based models: recorded outputs, key maps that are exact, and refusals."""

import hashlib
import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import below
from safetensors import safe_open

from trilemma.autoencoders import NVAE
from trilemma.checkpoints.links import ncsnpp_links
from trilemma.checkpoints.nvae_links import nvae_links
from trilemma.checkpoints.official_lsgm import (
    OFFICIAL_LSGM,
    build_process,
    describe_autoencoder,
    describe_first_stage,
    describe_method,
    describe_prior,
    ema_state,
    export_state,
    load,
    time_weights,
)
from trilemma.config import build_method, load_recipe, resolve
from trilemma.errors import CheckpointError
from trilemma.methods import LSGM
from trilemma.networks import MixedScore, NCSNpp
from trilemma.parametrisation import Predict
from trilemma.rng import BatchRng

GOLDEN = Path(__file__).parents[1] / "golden" / "lsgm"
SCORES = ("a", "b", "c", "d")
LISTINGS = {
    "mnist": (3_005_822, "02e0c77723d10f92", 63_774_544, "3162f2b33663926c"),
    "omniglot": (5_384_190, "c987f3c01671a62d", 97_804_152, "5ebefdf8fff73f69"),
    "cifar10-fid": (100_867_740, "737fc1b1346322d1", 375_561_064, "843550bf22cd8b83"),
    "cifar10-nll": (130_622_772, "02c25391e9cdfc8e", 375_561_064, "843550bf22cd8b83"),
    "celebahq256": (51_296_572, "6fe88e1a31a82ba3", 408_367_680, "096f29fd7e74e355"),
    "celebahq256-qualitative": (17_789_540, "682a2ec83cb39a84", 680_827_984, "bde0add40899c57d"),
}
"""Parameters of autoencoder and prior, each with a digest of the published state dict's sorted
lines "key shape dtype"."""


@cache
def _golden(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])


def recorded(letter):
    """A golden score network: its tensors, its official state and its flags."""
    file, config = _golden(f"score_net_{letter}")
    return file, below(file, "state/"), dict(config)


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# --------------------------------------------------------------- recorded outputs


def exact_frequencies(network):
    """In float64 those of the positional embedding, which are kept in float32."""
    embed = network.time.embed
    if hasattr(embed, "dim"):
        half = torch.arange(embed.dim // 2, dtype=torch.float64)
        embed.frequencies = torch.exp(-math.log(10_000) * half / (len(half) - 1))


@pytest.mark.parametrize("letter", SCORES)
def test_recorded_outputs(letter):
    file, state, config = recorded(letter)
    network = load(state, config)
    x, t = file["x"], file["t"]
    assert not network.training
    with torch.no_grad():
        close(network.network(x, t), file["raw_out_f64"].float(), 1e-5)
        close(network.network(x * file["is_active"], t), file["raw_out_masked"], 1e-5)
        close(network.network(x, torch.tensor(0.25)), file["raw_out_scalar_t"], 1e-5)
        close(network(x, t), file["raw_out_f64"].float(), 1e-5)
        close(network(x, torch.tensor(0.25)), file["raw_out_scalar_t"], 1e-5)


@pytest.mark.parametrize("letter", SCORES)
def test_recorded_outputs_in_double_precision(letter):
    """1e-9 but for positional embeddings, whose network has its own rounding of 1000 t."""
    file, state, config = recorded(letter)
    network = load({key: value.double() for key, value in state.items()}, config).network
    assert all(value.dtype == torch.float64 for value in network.parameters())
    exact_frequencies(network)
    with torch.no_grad():
        close(network(file["x"].double(), file["t"].double()), file["raw_out_f64"], 1e-9)


@pytest.mark.parametrize("letter", SCORES)
def test_the_recorded_blend(letter):
    """(1 - alpha) sigma u + alpha eps' is the Gaussian part plus what our network returns."""
    file, state, config = recorded(letter)
    network, x, t = load(state, config), file["x"], file["t"]
    process = build_process({"sde_type": "vpsde", "beta_start": 0.1, "beta_end": 20.0})
    readout = Predict("eps", mixed_score=True).readout(process, t.double())
    gaussian = readout.gaussian[:, 0, 0].float()[:, None, None, None] * x
    documented = process.marginal(t.double()).cov.sqrt().float()[..., None] * x  # sigma u
    close(documented, gaussian, 1e-6)
    with torch.no_grad():
        close(documented + network(x, t, gaussian=documented), file["mixed_out_vpsde"], 1e-5)


@pytest.mark.parametrize("letter", SCORES)
def test_a_closed_channel_is_neither_seen_nor_shaped(letter):
    file, state, config = recorded(letter)
    network, x, t = load(state, config), file["x"], file["t"]
    active = file["is_active"].flatten().bool()
    assert not bool(active.all())
    network.close(~active)
    with torch.no_grad():
        output = network(x, t, gaussian=torch.zeros_like(x))
        close(network(x, t), file["raw_out_masked"], 1e-5)
    expected = network.share * file["raw_out_masked"]
    close(output, expected, 1e-5)
    assert float(output[:, ~active].abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["vae_bernoulli", "vae_rgb"])
def test_an_autoencoder_is_recognised(name):
    file, config = _golden(name)
    state = below(file, "state/")
    network = load({f"module.{key}": value for key, value in state.items()}, config)
    assert isinstance(network, NVAE)
    assert not network.training
    with torch.no_grad():
        assert torch.isfinite(network.encode(file["x_symmetric"]).mean).all()


# ----------------------------------------------------------------------- key maps


def digest(state):
    lines = sorted(f"{key} {list(v.shape)} {str(v.dtype)[6:]}" for key, v in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@cache
def on_meta(preset):
    """Both networks of a preset, without memory for their weights."""
    flags = OFFICIAL_LSGM[preset]
    with torch.device("meta"):
        autoencoder = NVAE(**describe_autoencoder(flags))
        channels = autoencoder.latent_shape[0]
        prior = MixedScore(NCSNpp(**describe_prior(flags, channels)), channels)
    assert prior.event_shape == autoencoder.latent_shape
    return autoencoder, prior


@pytest.mark.parametrize("preset", LISTINGS)
def test_key_listings_are_reproduced_exactly(preset):
    """Every official name with its shape; every tensor of ours once."""
    autoencoder, prior = on_meta(preset)
    counts = [sum(p.numel() for p in network.parameters()) for network in (autoencoder, prior)]
    found = (counts[0], digest(export_state(autoencoder)), counts[1], digest(export_state(prior)))
    assert found == LISTINGS[preset]
    assert [link.ours for link in nvae_links(autoencoder)] == list(autoencoder.state_dict())
    links = ncsnpp_links(prior.network)
    assert sorted(link.ours for link in links) == sorted(prior.network.state_dict())
    names = [name for link in links for name in link.theirs]
    assert len(names) == len(set(names))


def test_every_preset_is_listed():
    assert set(OFFICIAL_LSGM) - set(LISTINGS) == {"cifar10-balanced"}
    assert OFFICIAL_LSGM["cifar10-balanced"] == OFFICIAL_LSGM["cifar10-fid"]


@pytest.mark.parametrize(
    "name", [*(f"score_net_{letter}" for letter in SCORES), "vae_bernoulli", "vae_rgb"]
)
def test_exporting_inverts_loading(name):
    """Second names of convolutions without weight normalisation included."""
    file, config = _golden(name)
    state = below(file, "state/")
    exported = export_state(load(state, config))
    second = {key for key in exported if key.endswith(".weight_normalized")}
    assert set(exported) - second == set(state) - second
    assert all(torch.equal(exported[key], value) for key, value in state.items())
    for key in second:
        assert exported[key] is exported[key.removesuffix("_normalized")]
    assert len(second) == {"vae_bernoulli": 18}.get(name, 0)
    again = export_state(load(exported, config))
    assert all(torch.equal(again[key], value) for key, value in exported.items())


# ----------------------------------------------------------------------- averages


def test_averages_get_the_listed_names():
    """Parameter i is the i-th key of the state dict; the blend comes first."""
    listing = json.loads((GOLDEN / "state_dicts" / "lsgm_mnist.json").read_text())
    order = listing["dae_parameter_order"]
    assert order[0] == "mixing_logit"
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, (shape, _) in listing["dae"].items()}
        moments = {
            i: {"ema": torch.empty(listing["dae"][key][0], dtype=torch.float64)}
            for i, key in enumerate(order)
        }
    averaged = ema_state({"dae_state_dict": state, "dae_optimizer": {"state": moments}})
    assert list(averaged) == list(state)
    assert all(averaged[key] is moments[i]["ema"] for i, key in enumerate(order))
    exported = export_state(on_meta("mnist")[1])
    assert {key: value.shape for key, value in exported.items()} == {
        key: value.shape for key, value in averaged.items()
    }


def checkpoint(letter, counts_all=True):
    """A training checkpoint with averages that can be told apart; frequencies have none."""
    _, state, _ = recorded(letter)
    state = dict(sorted(state.items(), key=lambda item: item[0] != "mixing_logit"))
    numbered = [key for key in state if counts_all or key != "temb_fun.w"]
    moments = {
        i: {"ema": state[key] + 1, "exp_avg": torch.zeros(1)}
        for i, key in enumerate(numbered)
        if key != "temb_fun.w"
    }
    return {"dae_state_dict": state, "dae_optimizer": {"state": moments}}


@pytest.mark.parametrize("counts_all", [True, False])
@pytest.mark.parametrize("letter", SCORES)
def test_averages_are_recovered_and_frequencies_kept(letter, counts_all):
    stored = checkpoint(letter, counts_all)
    averaged = ema_state(stored)
    for key, value in stored["dae_state_dict"].items():
        assert torch.equal(averaged[key], value + (key != "temb_fun.w")), key
    assert ("temb_fun.w" in averaged) == (letter == "d")


def test_a_file_without_an_optimiser_holds_averages():
    stored = checkpoint("c")
    del stored["dae_optimizer"]
    averaged = ema_state(stored)
    assert all(averaged[key] is value for key, value in stored["dae_state_dict"].items())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.pop("dae_state_dict"), "no dae_state_dict"),
        (lambda c: c["dae_optimizer"].pop("state"), "averages 0 tensors, its network trains"),
        (lambda c: c["dae_optimizer"]["state"].pop(3), "averages .* tensors, its network trains"),
        (lambda c: c["dae_optimizer"]["state"][3].pop("ema"), "no average of"),
        (lambda c: c["dae_optimizer"]["state"][3].update(ema=torch.zeros(1)), "no average of"),
        (lambda c: c["dae_optimizer"]["state"][0].update(ema=[1.0]), "average of 'mixing_logit'"),
    ],
)
def test_averages_that_do_not_fit_are_refused(spoil, words):
    stored = checkpoint("c")
    spoil(stored)
    with pytest.raises(CheckpointError, match=words):
        ema_state(stored)


# -------------------------------------------------------------- times and weights

SDES = _golden("importance_sampling")[1]


@pytest.mark.parametrize("name", SDES)
def test_recorded_times_and_weights(name):
    """Every mode: t, the weight of the prior's loss, and that of the likelihood."""
    file = _golden("importance_sampling")[0]
    modes = {key.split("/")[2] for key in file if key.startswith(f"{name}/f64/")}
    assert len(modes) == (6 if "geometric" in name else 7)
    assert "rescale_iw" in modes
    for mode in modes:
        expected = below(file, f"{name}/f64/{mode}/")
        t, own, wanted = time_weights(SDES[name], mode, file["rho"].double())
        torch.testing.assert_close(t, expected["t"], rtol=2e-9, atol=1e-13, msg=mode)
        for ours, key in ((own, "obj_weight_t_p"), (wanted, "obj_weight_t_q")):
            theirs = expected[key].expand_as(ours)
            torch.testing.assert_close(ours, theirs, rtol=2e-11, atol=0, msg=f"{mode} {key}")


@pytest.mark.parametrize("mode", ["ll_uniform", "rescale_iw", "drop_all_iw"])
def test_times_and_weights_are_float64(mode):
    rho = torch.tensor([0.1, 0.7])
    found, expected = (time_weights(SDES["vpsde_default"], mode, r) for r in (rho, rho.double()))
    for given, wanted in zip(found, expected, strict=True):
        assert given.dtype == torch.float64
        assert torch.equal(given, wanted)


SUB_VP = {**SDES["sub_vpsde"], "sigma2_0": 0.01}


def test_sub_vp_starts_at_its_variance():
    """(1 - e^-B)^2 + s0 e^-B."""
    process, t = build_process(SUB_VP), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    kept = torch.exp(-(0.1 * t + 19.9 * t.square() / 2))
    variance = process.marginal(t).cov[:, 0, 0]
    torch.testing.assert_close(variance, (1 - kept).square() + 0.01 * kept, rtol=1e-12, atol=0)


def test_sub_vp_with_a_variance_draws_the_times_of_vp():
    """The published formulas of ll_iw, with V = 1 - (1 - s0) e^-B: V_e^(1 - rho) V_1^rho."""
    rho = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    t, own, wanted = time_weights(SUB_VP, "ll_iw", rho)
    ends = torch.tensor([SUB_VP["time_eps"], 1.0], dtype=torch.float64)

    def kept(t):
        return torch.exp(-(0.1 * t + 19.9 * t.square() / 2))

    first, last = 1 - 0.99 * kept(ends)
    full = 1 - 0.99 * kept(t)
    torch.testing.assert_close(full, first ** (1 - rho) * last**rho, rtol=1e-10, atol=0)
    beta, var = 0.1 + 19.9 * t, (1 - kept(t)).square() + 0.01 * kept(t)
    power = beta * (1 - kept(t).square())
    weight = power / (2 * var) * torch.log(last / first) * full / ((1 - full) * beta)
    torch.testing.assert_close(own, weight, rtol=1e-9, atol=0)
    torch.testing.assert_close(wanted, weight, rtol=1e-9, atol=0)


# ------------------------------------------------------------------------ methods


@pytest.mark.parametrize("preset", ["mnist", "cifar10-nll"])
def test_flags_describe_a_method(preset):
    entry = resolve({"method": describe_method(OFFICIAL_LSGM[preset])})["method"]
    with torch.device("meta"):
        method = build_method(entry)
    assert isinstance(method, LSGM)
    assert method.prior.event_shape == method.autoencoder.latent_shape
    assert method.prior.parametrisation.mixed_score
    geometric = OFFICIAL_LSGM[preset]["sde_type"] == "geometric_sde"
    assert method.prior.t_min == (1e-9 if geometric else 0.01)
    assert method.prior.parametrisation.data_var == (1 - 3e-5 if geometric else 1.0)


@pytest.mark.parametrize("preset", OFFICIAL_LSGM)
def test_published_flags_and_recipes_agree(preset):
    """Two descriptions of one model: the flags that a converter reads, the recipes that train."""
    last = {"mnist": "mnist-nvae", "celebahq256-qualitative": "celebahq256-qualitative-prior"}
    flags = resolve({"method": describe_method(OFFICIAL_LSGM[preset])})["method"]["init_args"]
    recipe = resolve(load_recipe(f"lsgm-{last.get(preset, preset)}"))["method"]["init_args"]
    for name in ("autoencoder", "prior", "sampling_t_min"):
        if name == "prior" and recipe[name]["init_args"]["proposal"] is None:
            recipe[name]["init_args"]["proposal"] = {"class_path": "UniformTimes", "init_args": {}}
        assert flags[name] == recipe[name], name
    first = resolve({"method": describe_first_stage(OFFICIAL_LSGM[preset])})["method"]
    stage = "mnist-nvae" if preset == "mnist" else preset
    ours = resolve(load_recipe(f"vae-{stage}"))["method"]
    assert first["init_args"]["autoencoder"] == ours["init_args"]["autoencoder"]


def test_rescaled_errors_have_uniform_times():
    """In spite of the name."""
    flags = {**OFFICIAL_LSGM["mnist"], "iw_sample_p": "rescale_iw"}
    prior = describe_method(flags)["init_args"]["prior"]["init_args"]
    assert prior["weight"] == {"class_path": "Rescaled"}
    assert prior["proposal"] == {"class_path": "UniformTimes"}


@pytest.mark.parametrize("mode", ["ll_iw", "rescale_iw"])
def test_a_described_method_computes(mode):
    flags = {
        **OFFICIAL_LSGM["mnist"],
        "iw_sample_p": mode,
        "num_channels_enc": 4,
        "num_channels_dec": 4,
        "num_channels_dae": 8,
        "num_cell_per_scale_dae": 1,
    }
    method = build_method(resolve({"method": describe_method(flags)})["method"])
    loss = method.loss(torch.zeros(2, 1, 32, 32), None, "joint", BatchRng(0, 2), 0)
    assert torch.isfinite(loss.total)


# ----------------------------------------------------------------------- refusals


@pytest.fixture
def official():
    _, state, config = recorded("c")
    return dict(state), config


def test_a_missing_tensor_is_refused(official):
    state, config = official
    del state["all_modules.0.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors missing.*all_modules\.0\.weight"):
        load(state, config)


def test_a_tensor_too_many_is_refused(official):
    state, config = official
    state["all_modules.99.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 left over.*all_modules\.99"):
        load(state, config)


def test_a_tensor_of_another_shape_is_refused(official):
    state, config = official
    state["all_modules.0.weight"] = torch.zeros(3, 4)
    with pytest.raises(CheckpointError, match=r"all_modules\.0\.weight.*shape"):
        load(state, config)


def test_a_blend_of_another_shape_is_refused(official):
    state, config = official
    state["mixing_logit"] = torch.zeros(6)
    with pytest.raises(CheckpointError, match=r"mixing_logit.*shape \[6\]"):
        load(state, config)


def test_a_foreign_state_dict_is_refused():
    with pytest.raises(CheckpointError, match="neither an autoencoder"):
        load({"weight": torch.zeros(1)}, {})


@pytest.mark.parametrize(
    "change", [{"num_channels_dae": 32}, {"num_cell_per_scale_dae": 1}, {"num_scales_dae": 3}]
)
def test_other_flags_than_those_of_the_weights_are_refused(official, change):
    state, config = official
    with pytest.raises(CheckpointError):
        load(state, {**config, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "cifar"}, "dataset='cifar'.*did you mean 'cifar10'"),
        ({"decoder_dist": "laplace"}, "decoder_dist='laplace'"),
        ({"arch_instance": "res_mbconv_attn"}, "arch_instance='res_mbconv_attn'"),
        ({"num_postprocess_blocks": 3}, "must agree"),
        ({"num_channels_enc": None}, "'num_channels_enc' is missing"),
        ({"num_scales_dae": 2, "dataset": "celeba_256"}, "num_scales_dae=2 with celeba_256"),
        ({"embedding_type": "learned"}, "embedding_type='learned'"),
        ({"sde_type": "cld"}, "sde_type='cld'"),
        ({"sde_type": "vesde", "sigma2_0": 0.1}, "vesde needs sigma2_0=0.1"),
        ({"iw_sample_p": "rescale_uniform"}, "did you mean 'rescale_iw'"),
        (
            {
                "iw_sample_p": "rescale_iw",
                "sde_type": "vesde",
                "sigma2_0": 1e-4,
                "sigma2_min": 1e-4,
                "sigma2_max": 400.0,
            },
            "negative weights under vesde",
        ),
        ({"iw_sample_p": "ll"}, "iw_sample_p='ll'"),
    ],
)
def test_unsupported_flags_are_named(change, words):
    with pytest.raises(CheckpointError, match=words):
        describe_method({**OFFICIAL_LSGM["mnist"], **change})
