"""Official arguments are read as the types that they have, or refused by name."""

import argparse
import inspect
import json
import math

import pytest
import torch
from oracles import below, golden, golden_config, listing, unchecked

from trilemma.checkpoints import official_cld, official_ddgan, official_lsgm
from trilemma.checkpoints.links import Arguments, without_prefix
from trilemma.checkpoints.official_cld import OFFICIAL_CLD
from trilemma.checkpoints.official_lsgm import OFFICIAL_LSGM
from trilemma.cli import main
from trilemma.errors import CheckpointError
from trilemma.pipeline import load

NAME = "gen_g1_cifar_like"


# ---------------------------------------------------------------------- one argument


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        *[("flag", value, True) for value in (True, 1, "True", "true", "TRUE", "1", " true ")],
        *[("flag", value, False) for value in (False, 0, "False", "false", "0")],
        *[("whole", value, 24) for value in (24, 24.0, "24", " 24", "24.0", "2.4e1")],
        ("whole", 0, 0),
        *[("number", value, 20.0) for value in (20, 20.0, "20", "2e1", "+20.0")],
        ("number", "-6", -6.0),
        *[("wholes", value, [8]) for value in (8, 8.0, "8", "8,", "[8]", "(8,)", [8], (8,), ["8"])],
        *[("wholes", value, [1, 2, 2]) for value in ("1 2 2", "1,2,2", "1, 2, 2", "[1, 2, 2]")],
        *[("wholes", value, []) for value in ("", "[]", [], ())],
    ],
)
def test_values_are_read_by_type(kind, value, expected):
    found = getattr(Arguments({"it": value}), kind)("it")
    assert found == expected
    assert type(found) is type(expected)
    for part in found if kind == "wholes" else []:
        assert type(part) is int


NO_NUMBERS = ["", "four", "nan", "inf", math.nan, math.inf, True, "True", [4], {"a": 4}, 10**400]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[("flag", value) for value in (2, -1, 1.5, "", "yes", "None", [True], ["True"], {})],
        *[("whole", value) for value in [*NO_NUMBERS, 2.5, "2.5", -1, "-1"]],
        *[("number", value) for value in NO_NUMBERS],
        *[("wholes", value) for value in ("1,two", "1 2.5", "1;2", [1, "two"], [[1]], [True], 1.5)],
        *[("wholes", value) for value in ({"1": 2}, {1, 2}, True, -1, [1, -1], "nan")],
    ],
)
def test_values_of_other_types_are_refused_by_name(kind, value):
    with pytest.raises(CheckpointError, match=r"argument it=.* must be (a|true|whole)") as caught:
        getattr(Arguments({"it": value}), kind)("it")
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["whole", "number"])
def test_zero_is_not_positive(kind):
    read = getattr(Arguments({"it": "0"}), kind)
    assert read("it") == 0
    with pytest.raises(CheckpointError, match="it='0' must be"):
        read("it", positive=True)


def test_names_are_among_those_allowed():
    get = Arguments({"it": "summ", "other": 5})
    with pytest.raises(CheckpointError, match=r"it='summ'.*too long; did you mean 'sum'\\?"):
        get.choice("it", ("sum", "cat"), reason="too long")
    with pytest.raises(CheckpointError, match=r"other='5'.*Allowed: 'cat', 'sum'"):
        get.choice("other", ("sum", "cat"))


@pytest.mark.parametrize("args", [{}, {"it": None}, argparse.Namespace(it=None)])
def test_absent_values_have_the_default_or_are_missing(args):
    get = Arguments(args)
    assert (get.flag("it", True), get.whole("it", 3), get.number("it", 0.5)) == (True, 3, 0.5)
    assert (get.wholes("it", (1, 2)), get.choice("it", ("a",), "a")) == ([1, 2], "a")
    for read in (get.flag, get.whole, get.number, get.wholes):
        with pytest.raises(CheckpointError, match="'it' is missing"):
            read("it")


# ------------------------------------------------------------------------- importers


def as_text(args):
    """What a shell makes of arguments: every value is text."""
    return {name: str(value) for name, value in args.items()}


@pytest.mark.parametrize("name", ["cifar10", "celebahq256", "lsun_church256", "stackedmnist_like"])
def test_text_describes_the_same_diffusion_gan(name):
    args = listing("ddgan_args")[f"ddgan_netG_{name}"]
    found = official_ddgan.describe_method(as_text(args))
    assert found == official_ddgan.describe_method(args)
    generator = found["init_args"]["generator"]["init_args"]
    assert generator["channel_mult"] == args["ch_mult"]
    assert (generator["tanh"], generator["rescale_input"]) == (True, False)


@pytest.mark.parametrize("name", OFFICIAL_CLD)
def test_text_describes_the_same_langevin_diffusion(name):
    flags = OFFICIAL_CLD[name]
    assert official_cld.describe_method(as_text(flags)) == official_cld.describe_method(flags)


@pytest.mark.parametrize("name", OFFICIAL_LSGM)
def test_text_describes_the_same_latent_model(name):
    flags = OFFICIAL_LSGM[name]
    assert official_lsgm.describe_method(as_text(flags)) == official_lsgm.describe_method(flags)
    uniform = torch.tensor([0.2, 0.9])
    found, expected = (
        official_lsgm.time_weights(each, "ll_uniform", uniform) for each in (as_text(flags), flags)
    )
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.fixture
def files(tmp_path):
    """A generator as its authors save it, and the arguments that it was made with."""
    torch.save(below(golden(NAME), "state/"), tmp_path / "netG.pth")
    return tmp_path, golden_config(NAME)["config"]


def convert(folder, args):
    """The exit status of the command line for one file of arguments."""
    (folder / "args.json").write_text(json.dumps(args))
    call = ["convert", "ddgan", str(folder / "netG.pth"), "--config", str(folder / "args.json")]
    return main([*call, "-o", str(folder / "m.safetensors")])


def test_a_converted_generator_of_text_gives_the_recorded_output(files):
    """With tanh, whose absence moves the output by 1.5, and attention at the level that was."""
    folder, config = files
    text = as_text({**config, "not_use_tanh": False, "centered": True, "fir": True})
    assert text["attn_resolutions"].strip("[]").isdigit()
    assert convert(folder, {**text, "attn_resolutions": text["attn_resolutions"].strip("[]")}) == 0
    method, file = load(folder / "m.safetensors").method, golden(NAME)
    assert method.default_steps == 4
    with torch.no_grad():
        output = method.generator(file["in/x"], file["in/t"], file["in/z"])
    torch.testing.assert_close(output, file["out/y"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", "16 pixels"),
        ("image_size", [16]),
        ("ch_mult", "1;2"),
        ("ch_mult", {"1": 2}),
        ("attn_resolutions", "all"),
        ("n_mlp", "two"),
        ("num_timesteps", 2.5),
        ("num_timesteps", "many"),
        ("beta_min", "low"),
        ("beta_max", "Infinity"),
        ("beta_max", math.inf),
        ("fir_kernel", "1331"),
        ("fir_kernel", 1.5),
        ("z_emb_dim", 24.5),
        ("not_use_tanh", "no"),
        ("centered", "maybe"),
        ("fir", 2),
        ("use_geometric", "?"),
        ("progressive_combine", "product"),
        ("progressive_input", 3),
        ("resblock_type", ["biggan"]),
        ("dropout", "none"),
    ],
)
def test_a_wrong_argument_is_one_line_on_the_command_line(files, capsys, name, value):
    folder, config = files
    assert convert(folder, {**config, name: value}) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert f"{name}=" in lines[0]
    assert not (folder / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"not_use_tanh": "False"}, {"tanh": True}),
        ({"not_use_tanh": "True"}, {"tanh": False}),
        ({"centered": "False"}, {"rescale_input": True}),
        ({"fir": "false"}, {"resample": "mean"}),
        ({"skip_rescale": "0"}, {"skip_rescale": False}),
        ({"conditional": "False"}, {"time_embedding": "none"}),
        ({"use_geometric": "False"}, {}),
        ({"resblock_type": "ddpm", "resamp_with_conv": "False"}, {"block": "ddpm"}),
        ({"attn_resolutions": "8"}, {"attention_resolutions": [8]}),
        ({"attn_resolutions": 8}, {"attention_resolutions": [8]}),
        ({"ch_mult": "1 2"}, {"channel_mult": [1, 2]}),
        ({"fir_kernel": "1,2,1"}, {"fir_kernel": [1, 2, 1]}),
        ({"z_emb_dim": 24.0}, {"style_dim": 24}),
        ({"n_mlp": "2"}, {"num_mapping_layers": 3}),
    ],
)
def test_text_of_a_diffusion_gan_means_what_it_says(change, expected):
    found = official_ddgan.describe({"ch_mult": [1, 2, 2, 2], **change})
    usual = official_ddgan.describe({"ch_mult": [1, 2, 2, 2]})
    assert found == {**usual, **expected}


def test_discriminators_are_read_by_type_too():
    sizes = golden_config("disc_small")["config"]
    given = {"ngf": str(sizes["ngf"]), "nc": "6", "t_emb_dim": float(sizes["t_emb_dim"])}
    state = below(golden("disc_small"), "state/")
    network = official_ddgan.load_discriminator(state, given)
    exported = official_ddgan.export_state(network)
    assert all(torch.equal(exported[key], value) for key, value in state.items())
    for change in (
        {"ngf": "wide"},
        {"nc": 5},
        {"t_emb_dim": None, "num_channels": [3], "nc": None},
    ):
        with pytest.raises(CheckpointError, match=r"argument (ngf='wide'|nc=5|num_channels=\[3\])"):
            official_ddgan.load_discriminator(state, {**given, **change})


@pytest.mark.parametrize("given", [None, 3, "args.json", [("ngf", 4)]])
def test_arguments_and_weights_are_mappings(given):
    kind = type(given).__name__
    with pytest.raises(CheckpointError, match=f"arguments are a {kind}: a mapping or"):
        unchecked(Arguments, given)
    with pytest.raises(CheckpointError, match=f"a {kind} is no state dict"):
        inspect.unwrap(without_prefix)(given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_fir": "off"}, "use_fir='off' must be true or false"),
        ({"mixed_score": 2}, "mixed_score=2 must be"),
        ({"center_image": "False"}, "center_image=False is not supported"),
        ({"n_channels": "wide"}, "n_channels='wide' must be a whole"),
        ({"n_resblocks": 1.5}, "n_resblocks=1.5 must be a whole"),
        ({"image_size": [32]}, r"image_size=\[32\] must be a whole"),
        ({"dropout": "10%"}, "dropout='10%' must be a finite"),
        ({"m_inv": "0"}, "m_inv='0' must be a positive"),
        ({"beta0": math.nan}, "beta0=nan must be a finite"),
        ({"fourier_scale": "sixteen"}, "fourier_scale='sixteen'"),
        ({"progressive_combine": "product"}, "progressive_combine='product'"),
        ({"name": ["mlp"]}, "name=.*is not supported"),
        ({"name": "mlp", "data_dim": "two"}, "data_dim='two'"),
        ({"name": "resnet", "width": 6.5}, "width=6.5"),
    ],
)
def test_a_wrong_flag_of_langevin_diffusion_is_named(change, words):
    flags = {**OFFICIAL_CLD["cifar10"], **change}
    with pytest.raises(CheckpointError, match=words):
        official_cld.describe_method(official_cld.completed(flags, {}))


def test_text_of_langevin_diffusion_means_what_it_says():
    flags = {**OFFICIAL_CLD["cifar10"], "use_fir": "False", "mixed_score": "False", "beta1": "2"}
    found = official_cld.describe_method(flags)["init_args"]
    assert found["network"]["init_args"]["resample"] == "mean"
    assert not found["mixed_score"]
    assert found["process"]["init_args"]["beta_max"] == 6.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_se": "on"}, "use_se='on' must be true or false"),
        ({"fir": 3}, "fir=3 must be"),
        ({"num_channels_enc": "64 wide"}, "num_channels_enc='64 wide'"),
        ({"num_latent_scales": 0}, "num_latent_scales=0 must be a whole number >= 1"),
        ({"num_preprocess_blocks": -1}, "num_preprocess_blocks=-1"),
        ({"num_scales_dae": [2]}, r"num_scales_dae=\[2\]"),
        ({"channel_mult": "1;2"}, "channel_mult='1;2'"),
        ({"embedding_scale": "big"}, "embedding_scale='big'"),
        ({"beta_end": "high"}, "beta_end='high'"),
        ({"sigma2_0": math.inf}, "sigma2_0=inf"),
        ({"sde_type": "vesde", "sigma2_min": -1.0}, "sigma2_min=-1.0 must be a positive"),
        ({"time_eps": {}}, "time_eps={} must be"),
        ({"mixing_logit_init": "None"}, "mixing_logit_init='None'"),
        ({"progressive_input_vae": "residual"}, "progressive_input_vae='residual'"),
        ({"progressive": "residual"}, "progressive='residual'"),
        ({"iw_sample_p": ["ll_iw"]}, "iw_sample_p"),
    ],
)
def test_a_wrong_flag_of_a_latent_model_is_named(change, words):
    with pytest.raises(CheckpointError, match=words):
        official_lsgm.describe_method({**OFFICIAL_LSGM["mnist"], **change})


def test_text_of_a_latent_model_means_what_it_says():
    flags = {**OFFICIAL_LSGM["mnist"], "use_se": "False", "fir": "False", "channel_mult": "1 2 2"}
    found = official_lsgm.describe_method(flags)["init_args"]
    autoencoder = found["autoencoder"]["init_args"]
    network = found["prior"]["init_args"]["network"]["init_args"]["network"]["init_args"]
    assert not autoencoder["squeeze_excite"]
    assert autoencoder["channel_mult"] == [1, 2, 2]
    assert network["resample"] == "mean"
