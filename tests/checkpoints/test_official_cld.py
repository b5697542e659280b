"""Official score networks: recorded outputs, key maps that are exact, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from oracles import below
from safetensors.torch import load_file

from trilemma.checkpoints.convert import convert_cld
from trilemma.checkpoints.links import ncsnpp_links
from trilemma.checkpoints.official_cld import (
    OFFICIAL_CLD,
    build_network,
    describe,
    describe_method,
    ema_state,
    export_state,
    load_network,
    network_links,
)
from trilemma.cli import main
from trilemma.config import build_method, load_recipe, resolve
from trilemma.errors import CheckpointError, ConfigError
from trilemma.methods import CLDSGM, DDPM
from trilemma.pipeline import load

GOLDEN = Path(__file__).parents[1] / "golden" / "cld"
CONFIGS = json.loads((GOLDEN / "e_configs.json").read_text())
POINTS = {name: {"sde": "cld", "name": name} for name in ("mlp", "resnet")}
SMALL_IMAGE = {**CONFIGS["cifar_style"], "n_resblocks": 1, "attn_resolutions": "4", "image_size": 8}
LISTINGS = {
    "cld_cifar10": (OFFICIAL_CLD["cifar10"], 107_593_859),
    "cld_celebahq256_paper": (OFFICIAL_CLD["celebahq256-paper"], 65_466_371),
    "cld_celebahq256_post_paper": (OFFICIAL_CLD["celebahq256"], 103_073_795),
    "cld_toy_mlp": (POINTS["mlp"], 50_562),
    "cld_toy_resnet": (POINTS["resnet"], 84_996),
}


def listing(name):
    return json.loads((GOLDEN / "state_dicts" / f"{name}.json").read_text())


def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def recorded(name):
    """A golden network of file e: its tensors, its official state and its flags."""
    file = golden(f"e_ncsnpp_{name}")
    return file, below(file, "sd/"), CONFIGS[name]


def meta(config):
    """The network of some flags, without memory for its weights."""
    with torch.device("meta"):
        return build_network(config)


# --------------------------------------------------------------- recorded outputs


@pytest.mark.parametrize("name", CONFIGS)
def test_output_and_gradient_of_the_recorded_networks(name):
    file, state, config = recorded(name)
    network = load_network(state, config)
    assert not network.training
    u = file["input"].requires_grad_()
    output = network(u, file["t"])
    torch.testing.assert_close(output, file["output"], rtol=0, atol=2e-5)
    (gradient,) = torch.autograd.grad(output.square().sum() / 2, u)
    torch.testing.assert_close(gradient, file["grad_input"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_recorded_layer(name):
    """The output of each entry of the official list of layers, by the number in its names."""
    file, state, config = recorded(name)
    network = load_network(state, config)
    modules, seen = dict(network.named_modules()), {}
    for index, path in owners(network).items():
        modules[path].register_forward_hook(
            lambda module, args, output, index=index: seen.__setitem__(index, output)
        )
    network(file["input"], file["t"])
    assert set(seen) == {int(key) for key in below(file, "act/")}
    for index, output in seen.items():
        expected = file[f"act/{index}"]
        output = output[-1] if isinstance(output, tuple) else output  # (pyramid, features)
        torch.testing.assert_close(output, expected, rtol=0, atol=2e-5, msg=str(index))


def owners(network):
    """Our module behind each entry of the official list: what is left of its tensors' names."""
    found = {}
    for link in ncsnpp_links(network):
        for name in link.theirs:
            _, index, *inside = name.split(".")
            path = ".".join(link.ours.split(".")[: -len(inside)])
            assert found.setdefault(int(index), path) == path
    return found


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("setting", ["cifar", "celeba_post"])
@pytest.mark.parametrize("name", POINTS)
def test_recorded_outputs_of_point_networks(name, setting, objective):
    """Width and depth, which are no flags, follow from the tensors."""
    file = below(golden("b_perturb_loss"), f"{setting}/{name}/")
    network = load_network(below(file, "net/"), POINTS[name])
    output = network(file[f"{objective}/u_t"].float(), file[f"{objective}/t"].float())
    torch.testing.assert_close(output, file[f"{objective}/net_out"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
def test_recorded_outputs_of_the_small_image_network(objective):
    file = below(golden("b_perturb_loss"), "image/")
    network = load_network(below(file, "net/"), SMALL_IMAGE)
    output = network(file[f"{objective}/u_t"].float(), file[f"{objective}/t"].float())
    torch.testing.assert_close(output, file[f"{objective}/net_out"], rtol=1e-5, atol=2e-5)


# ----------------------------------------------------------------------- key maps


@pytest.mark.parametrize("name", LISTINGS)
def test_key_listings_are_reproduced_exactly(name):
    """Every official name with its shape; every tensor of ours, buffers included, once."""
    config, num_parameters = LISTINGS[name]
    network = meta(config)
    official = listing(name)
    ours = {f"module.{key}": list(value.shape) for key, value in export_state(network).items()}
    assert ours == {key: shape for key, (shape, _) in official.items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    links = network_links(network)
    assert sorted(link.ours for link in links) == sorted(network.state_dict())


@pytest.mark.parametrize("name", LISTINGS)
def test_averages_get_the_listed_names(name):
    """Average k belongs to the k-th trained parameter, which is not the k-th key."""
    official, order = listing(name), listing(f"{name}_ema_order")
    with torch.device("meta"):
        model = {key: torch.empty(shape) for key, (shape, _) in official.items()}
        shadows = [torch.empty(official[key][0], dtype=torch.float64) for key in order]
    averaged = ema_state({"model": model, "ema": {"shadow_params": shadows}})
    assert list(averaged) == [key.removeprefix("module.") for key in model]
    for key, shadow in zip(order, shadows, strict=True):
        assert averaged[key.removeprefix("module.")] is shadow
    kept = {key for key, value in averaged.items() if value.dtype == torch.float32}
    assert kept == ({"all_modules.0.W"} if name == "cld_cifar10" else set())


@pytest.mark.parametrize("name", CONFIGS)
def test_exporting_inverts_loading(name):
    _, state, config = recorded(name)
    exported = export_state(load_network(state, config))
    assert set(exported) == set(state)
    assert all(torch.equal(exported[key], value) for key, value in state.items())


def test_the_distributed_prefix_is_ignored():
    file, state, config = recorded("cifar_style")
    network = load_network({f"module.{key}": value for key, value in state.items()}, config)
    torch.testing.assert_close(network(file["input"], file["t"]), file["output"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("recipe", "preset"),
    [(name, name.removeprefix("cld-")) for name in ("cld-cifar10", "cld-celebahq256")]
    + [("cld-celebahq256-paper", "celebahq256-paper")],
)
def test_published_flags_and_recipes_agree(recipe, preset):
    """Two descriptions of one method: the flags that a converter reads, the recipe that trains."""
    flags = resolve({"method": describe_method(OFFICIAL_CLD[preset])})["method"]
    ours = resolve(load_recipe(recipe))["method"]
    arguments, process = ours["init_args"], ours["init_args"]["process"]["init_args"]
    if process["beta_max"] is None:
        process["beta_max"] = process["beta_min"]
    assert arguments["weight"] is None
    arguments["weight"] = {"class_path": "UniformWeight", "init_args": {}}
    assert flags == ours


# ------------------------------------------------------------------------ methods


def test_flags_of_langevin_diffusion_become_its_arguments():
    flags = {"beta0": 0.1, "beta1": 6.9, "m_inv": 2.0, "gamma": 0.3, "numerical_eps": 1e-6}
    flags |= {"loss_eps": 1e-3, "weighting": "likelihood", "cld_objective": "dsm"}
    method = build_method(
        resolve({"method": describe_method({**POINTS["mlp"], **flags})})["method"]
    )
    process = method.process
    assert (process.beta_min, process.beta_max) == (0.1, 7.0)
    assert (process.mass, process.init_velocity_scale, process.jitter) == (0.5, 0.3, 1e-6)
    assert process.is_critical
    assert not method.parametrisation.hybrid
    assert not method.parametrisation.mixed_score
    assert type(method.weight).__name__ == "Likelihood"
    assert method.t_min == 1e-3


@pytest.mark.parametrize("mixed_score", [True, False])
def test_vpsde_becomes_noise_prediction(mixed_score):
    """s = -x - alpha / sigma with the mixed score, -alpha / sigma without."""
    _, state, config = recorded("vpsde_style")
    flags = {"beta0": 0.1, "beta1": 19.9, "loss_eps": 1e-5, "mixed_score": mixed_score}
    entry = resolve({"method": describe_method({**config, **flags})})["method"]
    method = build_method(entry)
    method.network = load_network(state, config)
    factors = below(golden("a_factors"), "vpsde/")
    t = factors["t"][20]
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alpha = method.network(x, t.float()[None])
        expected = float(factors["noise_multiplier"][20]) * alpha - (x if mixed_score else 0)
        score = method.denoiser().score(x[:, None], t)[:, 0]
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("mixed", [0, 1])
@pytest.mark.parametrize("setting", ["cifar", "celeba_post"])
def test_the_velocity_score_of_a_converted_method_is_the_recorded_one(setting, mixed, objective):
    file = below(golden("b_perturb_loss"), f"{setting}/mlp/")
    flags = {
        "cifar": {"beta0": 4.0, "beta1": 0.0, "numerical_eps": 1e-9},
        "celeba_post": {"beta0": 0.1, "beta1": 6.9, "numerical_eps": 1e-6},
    }[setting] | {"m_inv": 4.0, "gamma": 0.04, "loss_eps": 1e-5}
    flags |= {"cld_objective": objective, "mixed_score": bool(mixed)}
    entry = resolve({"method": describe_method({**POINTS["mlp"], **flags, "width": 16})})
    method = build_method(entry["method"])
    method.network = load_network(below(file, "net/"), POINTS["mlp"])
    file = below(file, f"{objective}/")
    for row, t in enumerate(file["t"]):
        u = file["u_t"][row : row + 1].float().unflatten(1, (2, 2))
        with torch.no_grad():
            score = method.denoiser().score(u, t)[:, 1]
        expected = file[f"mixed{mixed}/score"][row : row + 1]
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------- refusals


@pytest.fixture
def official():
    _, state, config = recorded("cifar_style")
    return state, config


def test_a_missing_tensor_is_refused(official):
    state, config = official
    del state["all_modules.0.W"]
    with pytest.raises(CheckpointError, match=r"1 tensors missing.*all_modules\.0\.W"):
        load_network(state, config)


def test_a_tensor_too_many_is_refused(official):
    state, config = official
    state["all_modules.99.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 left over.*all_modules\.99"):
        load_network(state, config)


def test_a_tensor_with_and_without_the_prefix_is_refused(official):
    state, config = official
    state["module.all_modules.0.W"] = torch.zeros(8)
    with pytest.raises(CheckpointError, match=r"all_modules\.0\.W.*twice"):
        load_network(state, config)


def test_an_entry_that_is_no_tensor_is_refused(official):
    state, config = official
    state["all_modules.0.W"] = [1.0] * 8
    with pytest.raises(CheckpointError, match=r"all_modules\.0\.W.*list"):
        load_network(state, config)


@pytest.mark.parametrize("name", ["all_modules.0.W", "all_modules.4.Conv_0.weight"])
def test_a_tensor_of_another_shape_is_refused(official, name):
    state, config = official
    state[name] = torch.zeros(*[n + 1 for n in state[name].shape])
    with pytest.raises(CheckpointError, match=f"{name}.*shape"):
        load_network(state, config)


def test_other_flags_than_those_of_the_weights_are_refused(official):
    state, config = official
    for change in (
        {"n_channels": 16},
        {"n_resblocks": 3},
        {"attn_resolutions": "16"},
        {"sde": "vpsde"},
        {"embedding_type": "positional"},
        {"progressive_input": "none"},
        {"progressive": "output_skip"},
    ):
        with pytest.raises(CheckpointError):
            load_network(state, {**config, **change})


def test_point_networks_are_strict_too():
    file = below(golden("b_perturb_loss"), "cifar/resnet/net/")
    wide = {**file, "layers.1.weight": torch.zeros(16, 16)}
    with pytest.raises(CheckpointError, match=r"layers\.1\.weight.*shape"):
        load_network(wide, POINTS["resnet"])
    del file["layers.2.bias"]
    with pytest.raises(CheckpointError, match=r"layers\.2\.bias"):
        load_network(file, POINTS["resnet"])
    with pytest.raises(CheckpointError, match="missing"):
        load_network({}, POINTS["mlp"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nonlinearity": "gelu"}, "nonlinearity='gelu'.*Allowed: .*'swish'"),
        ({"resblock_type": "ddpm"}, "resblock_type='ddpm'.*never ran"),
        ({"progressive": "residual"}, "progressive='residual'.*never ran"),
        ({"progressive_input": "skip"}, "progressive_input='skip'.*Allowed: 'input_skip'"),
        ({"embedding_type": "learned"}, "embedding_type"),
        ({"sde": "vesde"}, "did you mean 'vpsde'"),
        ({"name": "unet"}, "name='unet'"),
        ({"n_channels": None}, "'n_channels' is missing"),
        ({"ch_mult": "1,two"}, "ch_mult='1,two'"),
        ({"ch_mult": 1.5}, "ch_mult=1.5"),
    ],
)
def test_unsupported_flags_are_named(change, words):
    with pytest.raises(CheckpointError, match=words):
        describe({**CONFIGS["cifar_style"], **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta_type": "cosine"}, "beta_type='cosine'"),
        ({"center_image": False}, "center_image"),
        ({"weighting": "snr"}, "weighting='snr'"),
        ({"cld_objective": "ism"}, "cld_objective='ism'"),
        ({"gamma": None}, "'gamma' is missing"),
        ({"numerical_eps": None}, "'numerical_eps' is missing"),
        ({"beta0": "four"}, "beta0='four'"),
        ({"m_inv": 0}, "m_inv=0"),
        ({"name": "unet"}, "name='unet'"),
    ],
)
def test_unsupported_methods_are_named(change, words):
    with pytest.raises(CheckpointError, match=words):
        describe_method({**OFFICIAL_CLD["cifar10"], **change})


def checkpoint():
    """A training checkpoint as the authors save it, with averages that can be told apart."""
    _, state, _ = recorded("cifar_style")
    model = {f"module.{key}": value for key, value in state.items()}
    shadows = [value + 1 for key, value in state.items() if key != "all_modules.0.W"]
    return {"model": model, "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadows}}


def test_averages_are_recovered_and_frequencies_kept():
    _, state, _ = recorded("cifar_style")
    for key, value in ema_state(checkpoint()).items():
        assert torch.equal(value, state[key] + (key != "all_modules.0.W")), key


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.pop("ema"), "no averaged weights"),
        (lambda c: c.pop("model"), "no averaged weights"),
        (lambda c: c["ema"].pop("shadow_params"), "no averaged weights"),
        (lambda c: c["ema"]["shadow_params"].pop(), "averages 2.. tensors, its network trains 2.."),
        (lambda c: c["ema"]["shadow_params"].insert(0, torch.zeros(8)), "averages 2.. tensors"),
        (lambda c: c["ema"]["shadow_params"].reverse(), "average of 'all_modules.1.*shape"),
        (lambda c: c["ema"]["shadow_params"].__setitem__(3, None), "NoneType"),
    ],
)
def test_averages_that_do_not_fit_are_refused(spoil, words):
    stored = checkpoint()
    spoil(stored)
    with pytest.raises(CheckpointError, match=words):
        ema_state(stored)


# --------------------------------------------------------------------- conversion

SMALL = {**SMALL_IMAGE, "beta0": 4.0, "beta1": 0.0, "m_inv": 4.0, "gamma": 0.04} | {
    "numerical_eps": 1e-9,
    "loss_eps": 1e-5,
    "mixed_score": True,
    "weighting": "reweightedv2",
}


@pytest.fixture
def files(tmp_path):
    """A checkpoint as the authors save it whose averages are the recorded weights."""
    state = below(golden("b_perturb_loss"), "image/net/")
    trained = {key: value for key, value in state.items() if key != "all_modules.0.W"}
    network = torch.nn.ParameterList(value.clone() for value in trained.values())
    optimizer = torch.optim.Adam(network, lr=2e-4)
    network[0].grad = torch.ones_like(network[0])
    optimizer.step()
    stored = {
        "model": {
            f"module.{key}": value if key == "all_modules.0.W" else value + 1
            for key, value in state.items()
        },
        "ema": {
            "decay": 0.9999,
            "num_updates": 800_000,
            "shadow_params": list(trained.values()),
        },
        "optimizer": optimizer.state_dict(),
        "step": 800_000,
    }
    torch.save(stored, tmp_path / "checkpoint_800000.pth")
    (tmp_path / "flags.json").write_text(json.dumps(SMALL))
    return tmp_path


def test_a_converted_checkpoint_is_the_averaged_network(files):
    made = convert_cld(
        files / "checkpoint_800000.pth", str(files / "flags.json"), files / "m.safetensors"
    )
    pipeline = load(files / "m.safetensors")
    assert made.event_shape == pipeline.event_shape == (3, 8, 8)
    assert pipeline.card["weights"] == "moving averages after 800000 steps"
    assert "Langevin" in pipeline.card["summary"]
    assert pipeline.card["source"].startswith("Dockhorn")
    method = pipeline.method
    assert isinstance(method, CLDSGM)
    assert (method.process.beta_min, method.process.beta_max) == (4.0, 4.0)
    assert (method.process.mass, method.process.jitter) == (0.25, 1e-9)
    assert method.parametrisation.mixed_score
    file = below(golden("b_perturb_loss"), "image/hsm/")
    output = method.network(file["u_t"].float(), file["t"].float())
    torch.testing.assert_close(output, file["net_out"], rtol=1e-5, atol=2e-5)


def test_a_plain_state_dict_is_taken_as_it_is(files):
    state = below(golden("b_perturb_loss"), "image/net/")
    torch.save(state, files / "plain.pth")
    pipeline = convert_cld(files / "plain.pth", str(files / "flags.json"), files / "m.safetensors")
    assert pipeline.card["weights"] == "as stored"
    exported = export_state(pipeline.method.network)
    assert all(torch.equal(exported[key], value) for key, value in state.items())


def test_vpsde_and_points_are_converted(tmp_path):
    _, state, config = recorded("vpsde_style")
    torch.save(state, tmp_path / "vp.pth")
    flags = {**SMALL, **config, "beta0": 0.1, "beta1": 19.9, "mixed_score": False}
    (tmp_path / "vp.json").write_text(json.dumps(flags))
    pipeline = convert_cld(
        tmp_path / "vp.pth", str(tmp_path / "vp.json"), tmp_path / "a.safetensors"
    )
    assert isinstance(pipeline.method, DDPM)
    assert (pipeline.method.process.beta_min, pipeline.method.process.beta_max) == (0.1, 20.0)
    torch.save(below(golden("b_perturb_loss"), "cifar/resnet/net/"), tmp_path / "points.pth")
    flags = {**SMALL, **POINTS["resnet"], "mixed_score": False}
    (tmp_path / "points.json").write_text(json.dumps(flags))
    pipeline = convert_cld(
        tmp_path / "points.pth", str(tmp_path / "points.json"), tmp_path / "b.safetensors"
    )
    assert pipeline.event_shape == (2,)
    assert pipeline.sample(3, num_steps=2).shape == (3, 2)


@pytest.mark.parametrize(("name", "layers"), [("paper", 2), ("post_paper", 4)])
def test_the_number_of_tensors_tells_the_networks_for_faces_apart(
    tmp_path, monkeypatch, name, layers
):
    """At the published depth, a fraction of the width and a quarter of the resolution."""
    narrow = {"n_channels": 4, "image_size": 64, "attn_resolutions": "4"}
    for preset, flags in list(OFFICIAL_CLD.items()):
        monkeypatch.setitem(OFFICIAL_CLD, preset, {**flags, **narrow})
    preset = {"paper": "celebahq256-paper", "post_paper": "celebahq256"}[name]
    state = export_state(build_network(OFFICIAL_CLD[preset]))
    assert set(state) == {key.removeprefix("module.") for key in listing(f"cld_celebahq256_{name}")}
    torch.save(state, tmp_path / "faces.pth")
    pipeline = convert_cld(tmp_path / "faces.pth", "celebahq256", tmp_path / "m.safetensors")
    assert len(pipeline.method.network.down[0].blocks) == layers
    assert pipeline.method.process.beta_min == {"paper": 4.0, "post_paper": 0.1}[name]
    assert pipeline.card["summary"].endswith(preset)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "cifar"}, "did you mean 'cifar10'"),
        ({"config": "none.json"}, "cannot read official arguments"),
        ({"out": "m.pth"}, "ends in .safetensors"),
        ({"checkpoint": "none.pth"}, "cannot read weights"),
        ({"checkpoint": "list.pth"}, "holds a list"),
        ({"config": "cifar10"}, "does not fit|shape"),
        ({"checkpoint": "bare.pth"}, "no averaged weights"),
    ],
)
def test_conversions_that_cannot_be_made(files, monkeypatch, change, words):
    monkeypatch.chdir(files)
    monkeypatch.setitem(OFFICIAL_CLD["cifar10"], "n_channels", 4)
    torch.save([1], "list.pth")
    torch.save({"model": below(golden("b_perturb_loss"), "image/net/")}, "bare.pth")
    given = {"checkpoint": "checkpoint_800000.pth", "config": "flags.json", "out": "m.safetensors"}
    with pytest.raises((CheckpointError, ConfigError), match=words):
        convert_cld(**{**given, **change})
    assert not (files / "m.safetensors").exists()


def test_conversion_on_the_command_line(files, capsys):
    arguments = ["convert", "cld", str(files / "checkpoint_800000.pth")]
    arguments += ["--config", str(files / "flags.json"), "-o", str(files / "m.safetensors")]
    assert main(arguments) == 0
    assert "(3, 8, 8)" in " ".join(capsys.readouterr().out.split())
    assert isinstance(load(files / "m.safetensors").method, CLDSGM)
    assert main([*arguments[:4], "cifar100", *arguments[5:]]) == 2
    assert "did you mean 'cifar10'" in capsys.readouterr().err
