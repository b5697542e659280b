"""Recipes: every one parses, resolves, builds and trains when shrunk; mistakes are one line."""

import copy
import json
import sys
from functools import cache

import pytest
import torch
import yaml
from tiny import shrunk, trained_networks

from trilemma import autoencoders, networks
from trilemma.config import (
    build_method,
    build_recipe,
    dump_yaml,
    load_recipe,
    override,
    recipe_names,
    resolve,
    sampling_config,
    set_data,
)
from trilemma.errors import ConfigError
from trilemma.methods import DDGAN
from trilemma.networks import PointGenerator
from trilemma.rng import BatchRng

RECIPES = list(recipe_names())
GANS = [name for name in RECIPES if name.startswith(("ddgan", "gan"))]
PARTLY = [*GANS, "lsgm-mnist-ddgan", "lsgm-emoji64-pretrained", "lsgm-mnist-pretrained"]
"""Recipes of which a model file leaves networks out."""
FIRST = [name for name in RECIPES if name.startswith("vae")]
SIZES = {
    "cld-cifar10": (107_593_859,),
    "cld-celebahq256": (103_073_795,),
    "cld-celebahq256-paper": (65_466_371,),
    "cld-toy": (50_690,),
    "ddgan-cifar10": (48_432_515, 12_741_633),
    "ddgan-celebahq256": (39_726_979, 27_737_217),
    "ddgan-lsun-church": (39_726_979, 27_737_217),
    "ddgan-stacked-mnist": (48_366_723, 12_741_633),
    "lsgm-celebahq256": (51_296_572, 408_367_680),
    "lsgm-celebahq256-qualitative-prior": (680_827_984,),
    "lsgm-cifar10-balanced": (100_867_740, 375_561_064),
    "lsgm-cifar10-fid": (100_867_740, 375_561_064),
    "lsgm-cifar10-nll": (130_622_772, 375_561_064),
    "lsgm-mnist-nvae": (3_005_822, 63_774_544),
    "lsgm-omniglot": (5_384_190, 97_804_152),
    "vae-celebahq256-qualitative": (17_789_540,),
}


@pytest.fixture
def points():
    return load_recipe("ddgan-25gaussians")


def fails(config, words, build=False):
    """Resolving, or building, raises a ConfigError of one line that holds these words."""
    with pytest.raises(ConfigError, match=words) as caught:
        if build:
            build_recipe(config)
        else:
            resolve(config)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# ---------------------------------------------------------------- bundled recipes


def test_recipes_are_found_with_a_summary():
    assert set(SIZES) <= set(RECIPES)
    assert all(len(text) > 10 for text in recipe_names().values())


@pytest.mark.parametrize("name", RECIPES)
def test_resolving_is_idempotent_and_survives_yaml(name):
    resolved = resolve(load_recipe(name))
    assert resolve(resolved) == resolved
    assert resolve(yaml.safe_load(dump_yaml(resolved))) == resolved
    assert list(resolved) == ["method", "data", "trainer"]


@pytest.mark.parametrize("name", RECIPES)
def test_resolving_fills_defaults_in_and_keeps_what_was_given(name):
    given, resolved = load_recipe(name), resolve(load_recipe(name))

    def covers(small, large, where):
        for key, value in small.items():
            assert key in large, f"{where}.{key}"
            if isinstance(value, dict):
                covers(value, large[key], f"{where}.{key}")
            elif isinstance(value, list):
                assert list(large[key]) == value, f"{where}.{key}"
            else:
                assert large[key] == value, f"{where}.{key}"

    covers(given, resolved, name)
    method = resolved["method"]["init_args"]
    assert "t_min" in method.get("prior", {"init_args": method})["init_args"] or name in FIRST
    assert "seed" in resolved["trainer"]


@pytest.mark.parametrize("name", RECIPES)
def test_resolving_leaves_its_argument_alone(name):
    config = load_recipe(name)
    before = copy.deepcopy(config)
    resolve(config)
    assert config == before


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name):
    """At full size, without memory for the weights."""
    counts = [size(entry) for entry in trained_networks(resolve(load_recipe(name))).values()]
    assert tuple(counts) == SIZES.get(name, tuple(counts))
    assert all(count > 1000 for count in counts)


def size(entry):
    """Parameters of the network that an entry describes."""
    return _size(json.dumps(entry))


@cache
def _size(text):
    entry = json.loads(text)
    arguments = entry["init_args"]
    if entry["class_path"] == "MixedScore":
        return size(arguments["network"]) + arguments["channels"]
    if arguments.get("categories") == []:  # those of the data
        arguments["categories"] = [0, 2]
    package = networks if hasattr(networks, entry["class_path"]) else autoencoders
    with torch.device("meta"):
        network = getattr(package, entry["class_path"])(**arguments)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_two_steps_when_shrunk(name, tmp_path):
    method, data, trainer = build_recipe(shrunk(name, tmp_path))
    assert method.event_shape == tuple(data.event_shape)
    assert trainer.num_steps == 2
    before = {k: v.clone() for k, v in method.state_dict().items()}
    assert trainer.fit(method, data, tmp_path / "run")
    after = method.state_dict()
    assert all(torch.isfinite(v).all() for v in after.values())
    for network in trained_networks(load_recipe(name)):
        ours = [k for k in after if k.startswith(f"{network}.")]
        assert any(not torch.equal(after[k], before[k]) for k in ours)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in PARTLY])
def test_sampling_needs_the_whole_score_model(name, tmp_path):
    config = resolve(shrunk(name, tmp_path))["method"]
    assert sampling_config(config) == config


@pytest.mark.parametrize("name", GANS)
def test_sampling_needs_the_generator_alone(name, tmp_path):
    config = resolve(shrunk(name, tmp_path))["method"]
    smaller = sampling_config(config)
    assert smaller["init_args"]["discriminator"] is None
    assert config["init_args"]["discriminator"] is not None
    method = build_method(smaller)
    assert isinstance(method, DDGAN)
    assert method.discriminator is None


def test_a_built_method_computes(tmp_path):
    """What comes out of a recipe is what its constructors make."""
    config = resolve(shrunk("ddgan-25gaussians", tmp_path))
    arguments = config["method"]["init_args"]
    torch.manual_seed(0)
    built = build_method(config["method"])
    torch.manual_seed(0)
    direct = PointGenerator(**arguments["generator"]["init_args"])
    state = built.generator.state_dict()
    assert all(torch.equal(state[k], v) for k, v in direct.state_dict().items())
    assert (built.default_steps, built.r1_weight, built.r1_every) == (
        arguments["num_steps"],
        arguments["r1_weight"],
        arguments["r1_every"],
    )
    loss = built.loss(torch.zeros(4, 2), None, "generator", BatchRng(0, 4), 0)
    assert torch.isfinite(loss.total)


# ------------------------------------------------------------------- loading files


def test_unknown_recipes_name_the_nearest():
    with pytest.raises(ConfigError, match=r"'ddgan-cifar'.*did you mean 'ddgan-cifar10'"):
        load_recipe("ddgan-cifar")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: [", "not YAML"),
        ("3", "exactly the entries"),
        ("", "exactly the entries"),
        ("method: 1\ndata: 2\n", "exactly the entries"),
        ("method: 1\ndata: 2\ntrainer: 3\nmore: 4", "exactly the entries"),
        ("method: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_recipe(path)


def test_missing_files(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "mine.yaml")


def test_own_files_are_read(tmp_path, points):
    path = tmp_path / "mine.yml"
    path.write_text(dump_yaml(points))
    assert load_recipe(str(path)) == points


# ----------------------------------------------------------------------- overriding


@pytest.mark.parametrize(
    ("key", "text", "find"),
    [
        ("trainer.batch_size", "32", lambda c: c["trainer"]["batch_size"] == 32),
        ("method.num_steps", "2", lambda c: c["method"]["init_args"]["num_steps"] == 2),
        (
            "method.generator.width",
            "7",
            lambda c: c["method"]["init_args"]["generator"]["init_args"]["width"] == 7,
        ),
        (
            "method.process.beta_max",
            "10.0",
            lambda c: c["method"]["init_args"]["process"]["init_args"]["beta_max"] == 10,
        ),
        (
            "trainer.optimizers.generator.lr",
            "0.5",
            lambda c: c["trainer"]["optimizers"]["generator"]["lr"] == 0.5,
        ),
        (
            "trainer.optimizers.generator.lr",
            "1e-4",
            lambda c: c["trainer"]["optimizers"]["generator"]["lr"] == 1e-4,
        ),
        (
            "trainer.optimizers.generator.adam_betas",
            "[0.1, 0.2]",
            lambda c: list(c["trainer"]["optimizers"]["generator"]["adam_betas"]) == [0.1, 0.2],
        ),
        ("data.seed", "5", lambda c: c["data"]["init_args"]["seed"] == 5),
        ("trainer.ema_warmup", "true", lambda c: c["trainer"]["ema_warmup"] is True),
        ("trainer.trackers", "[]", lambda c: c["trainer"]["trackers"] == []),
        ("trainer.precision", "bf16", lambda c: c["trainer"]["precision"] == "bf16"),
    ],
)
def test_overrides(points, key, text, find):
    override(points, key, text)
    assert find(resolve(points))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("method.generator.widht", r"--method\.generator\.widht.*did you mean 'width'"),
        ("method.generater.width", "did you mean 'generator'"),
        ("trainer.batchsize", "did you mean 'batch_size'"),
        ("trainer.optimizers.generator.learning_rate", "no argument 'learning_rate'"),
        ("trainer.optimizers.generater.lr", "did you mean 'generator'"),
        ("data.nmae", "did you mean 'name'"),
        ("model.width", "Allowed: 'data', 'method', 'trainer'"),
        ("method.process.beta_mx", "did you mean 'beta_max'"),
        ("method.num_steps.more", "no entry 'num_steps'"),
        ("verbose", "verbose"),
        ("trainer.optimizers.score", "score"),
    ],
)
def test_overrides_of_unknown_entries(points, key, words):
    with pytest.raises(ConfigError, match=words) as caught:
        override(points, key, "1")
        resolve(points)
    assert "\n" not in str(caught.value)


def test_an_override_that_is_not_yaml(points):
    with pytest.raises(ConfigError, match="not a YAML value"):
        override(points, "trainer.batch_size", "[1")


def test_overriding_a_network_that_the_recipe_leaves_to_its_default():
    """A recipe without ``process`` gets VP by default; its arguments can be set all the same, or
    the error says what to do."""
    config = load_recipe("ddgan-25gaussians")
    del config["method"]["init_args"]["process"]
    with pytest.raises(ConfigError, match="process"):
        override(config, "method.process.beta_max", "10.0")


def test_data_are_set_by_one_word(points):
    set_data(points, "ring8")
    assert points["data"]["init_args"]["name"] == "ring8"
    config = load_recipe("ddgan-mnist")
    set_data(config, "some/folder")
    assert config["data"]["init_args"]["path"] == "some/folder"
    stacked = load_recipe("ddgan-stacked-mnist-small")
    for named in ("some/folder", "stacked:some/folder"):  # as for evaluate
        set_data(stacked, named)
        assert stacked["data"]["init_args"]["path"] == "some/folder"


# ------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("method", "init_args", "num_stpes"), 4, "did you mean 'num_steps'"),
        (("method", "init_args", "generator", "init_args", "wdth"), 4, "did you mean 'width'"),
        (("method", "init_args", "process", "init_args", "beta"), 4, "beta"),
        (("data", "init_args", "nam"), "x", "did you mean 'name'"),
        (("trainer", "batchsize"), 4, "did you mean 'batch_size'"),
        (("trainer", "optimizers", "generator", "lrate"), 4, "no argument 'lrate'"),
        (("method", "class_path"), "DDGAM", "did you mean 'DDGAN'"),
        (("method", "init_args", "generator", "class_path"), "PointGenerater", "PointGenerator"),
        (("extra",), {}, "no section 'extra'"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_names_at_every_level(points, path, value, words):
    node = points
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    fails(points, words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("method", "init_args", "num_steps"), "four", "num_steps"),
        (("method", "init_args", "num_steps"), 2.5, "num_steps"),
        (("method", "init_args", "r1_weight"), "strong", "r1_weight"),
        (("method", "init_args", "generator"), 3, "generator"),
        (("method", "init_args", "generator"), "PointGenerator()", "generator"),
        (("method", "init_args", "generator", "init_args", "width"), [1], "width"),
        (("data", "init_args", "num_points"), "many", "num_points"),
        (("trainer", "batch_size"), "large", "batch_size"),
        (("trainer", "precision"), "fp8", "precision"),
        (("trainer", "optimizers", "generator", "lr"), "slow", "lr"),
        (("trainer", "optimizers", "generator", "adam_betas"), [0.5], "adam_betas"),
        (("trainer", "optimizers"), 3, "optimizers"),
        (("trainer", "optimizers", "generator"), 3, "generator"),
        (("trainer", "optimizers", "generator"), None, "generator"),
        (("trainer", "trackers"), "tensorboard", "trackers"),
        (("trainer",), [1], "trainer"),
        (("trainer",), None, "trainer"),
        (("method",), None, "method"),
        (("method",), "DDGAM", "method"),
        (("method",), [1], "method"),
        (("method", "init_args"), [1], "init_args|DDGAN"),
        (("method", "class_path"), 3, "3"),
        (("method", "class_path"), ["DDGAN"], "DDGAN"),
        (("method", "more"), 3, "more"),
        (("data", "class_path"), "DDGAN", "data"),
        (("data", "class_path"), "VP", "data|VP"),
        (("method", "init_args", "generator", "class_path"), "VP", "generator|VP"),
        (("method", "init_args", "process", "class_path"), "Toy", "process|Toy"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else str(value)[:12],
)
def test_wrong_types_and_kinds(points, path, value, words):
    node = points
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    fails(points, words, build=True)


@pytest.mark.parametrize("where", ["method", "generator", "process", "data", "nested"])
@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.nn.Linear",
        "subprocess.Popen",
        "trilemma.config.build_recipe",
        "builtins.eval",
    ],
)
def test_foreign_classes_are_refused_before_they_are_imported(points, where, name):
    arguments = points["method"]["init_args"]
    foreign = {"class_path": name, "init_args": {}}
    if where == "nested":
        arguments["generator"]["init_args"]["width"] = foreign
    elif where in ("generator", "process"):
        arguments[where] = foreign
    else:
        points[where] = foreign
    fails(points, "no class")
    fails(points, "no class", build=True)


FOREIGN = """
import pathlib
from torch import nn

pathlib.Path({marker!r}).touch()


class Net(nn.Identity):
    code_dim, num_classes, event_shape = 2, 0, (2,)
"""


@pytest.mark.parametrize("form", ["text", "json", "yaml", "mapping"])
@pytest.mark.parametrize("where", ["generator", "discriminator", "process", "method", "data"])
def test_no_form_of_a_class_name_imports_foreign_code(points, tmp_path, monkeypatch, where, form):
    """The parser underneath takes a class as bare text and imports it; recipes must not reach that.

    A model file's header is a configuration, so this is what keeps loading from executing code.
    """
    marker = tmp_path / "imported"
    (tmp_path / "foreign_module.py").write_text(FOREIGN.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_module", raising=False)
    value = {
        "text": "foreign_module.Net",
        "json": '{"class_path": "foreign_module.Net"}',
        "yaml": "class_path: foreign_module.Net",
        "mapping": {"class_path": "foreign_module.Net"},
    }[form]
    if where in points:
        points[where] = value
    else:
        points["method"]["init_args"][where] = value
    with pytest.raises(ConfigError, match=where):
        build_recipe(points)
    assert not marker.exists()
    with pytest.raises(ConfigError):
        resolve(points)
    assert not marker.exists()


def test_a_recipe_cannot_read_another_file(points, tmp_path):
    """The parser underneath takes a path for a class as well."""
    path = tmp_path / "generator.yaml"
    path.write_text("class_path: trilemma.networks.PointGenerator\n")
    points["method"]["init_args"]["generator"] = str(path)
    fails(points, "generator", build=True)


def test_keys_beside_the_class_path_are_refused(points):
    for key in ("dict_kwargs", "init_arg", "width"):
        config = copy.deepcopy(points)
        config["method"]["init_args"]["generator"][key] = {"width": 3}
        fails(config, key, build=True)


def test_abstract_classes_cannot_be_named(points):
    for name in ("Method", "LinearSDE", "Data"):
        points["method"]["init_args"]["process"]["class_path"] = name
        fails(points, "no class")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("method", "init_args", "num_steps"), 0, "num_steps"),
        (("method", "init_args", "r1_every"), 0, "r1_every"),
        (("method", "init_args", "process", "init_args", "beta_min"), -1.0, "beta_min"),
        (("method", "init_args", "generator", "init_args", "width"), 0, "width"),
        (("method", "init_args", "generator", "init_args", "code_dim"), -1, "code_dim"),
        (("method", "init_args", "generator", "init_args", "num_layers"), -1, "num_layers"),
        (("data", "init_args", "name"), "grid26", "did you mean 'grid25'"),
        (("trainer", "batch_size"), 0, "batch_size"),
        (("trainer", "num_images"), -5, "num_images"),
        (("trainer", "ema_decay"), 1.5, "ema_decay"),
        (("trainer", "optimizers", "generator", "lr"), -1.0, "lr"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else str(value)[:12],
)
def test_values_out_of_range_are_refused_when_building(points, path, value, words):
    node = points
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    fails(points, words, build=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_size", 0), ("channels", 0), ("channel_mult", []), ("dropout", 2.0), ("block", "x")],
)
def test_network_arguments_out_of_range_are_refused_when_building(tmp_path, name, value):
    config = shrunk("ddgan-mnist", tmp_path)
    config["method"]["init_args"]["generator"]["init_args"][name] = value
    fails(config, name.split("_")[0], build=True)


def test_null_where_a_number_belongs(points):
    points["method"]["init_args"]["num_steps"] = None
    with pytest.raises(ConfigError):
        build_recipe(points)


def test_a_required_argument_that_is_missing_is_named(points):
    del points["method"]["init_args"]["generator"]
    fails(points, "generator", build=True)


def test_a_section_that_is_missing_is_named(points):
    for section in ("method", "data", "trainer"):
        config = {k: v for k, v in points.items() if k != section}
        with pytest.raises(ConfigError, match=section):
            build_recipe(config)
