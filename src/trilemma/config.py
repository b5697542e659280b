"""Recipes and configurations: a constructor's arguments are its configuration.

A recipe is a YAML mapping with three entries, ``method``, ``data`` and ``trainer``. Every object
is written as ``{class_path: Name, init_args: {...}}``, where Name is one of this package's own
classes and the arguments are those of its constructor; jsonargparse checks their types. The
resolved mapping, defaults filled in, is stored beside every run and inside every model file, so
building an object from a file only ever calls constructors that are listed here.
"""

from __future__ import annotations

import inspect
import re
import typing
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import nn

from trilemma import autoencoders, data, methods, networks, processes
from trilemma.data import Data
from trilemma.errors import ConfigError, TrilemmaError, nearest
from trilemma.methods import KLSchedule, Method, Proposal, Weight
from trilemma.samplers import Sampler
from trilemma.sampling import sampler_class
from trilemma.training import Adam, Trainer

__all__ = [
    "build_data",
    "build_method",
    "build_recipe",
    "build_sampler",
    "dump_yaml",
    "load_recipe",
    "override",
    "recipe_names",
    "resolve",
    "sampling_config",
    "set_data",
]

Config = dict[str, Any]
BUILDABLE = (processes.LinearSDE, nn.Module, Data, Weight, Proposal, KLSchedule)
SECTIONS = ("method", "data", "trainer")


@cache
def _classes() -> dict[str, type]:
    """Every class that a configuration may name."""
    found = {}
    for package in (processes, networks, autoencoders, methods, data):
        for name in package.__all__:
            value = getattr(package, name)
            is_buildable = inspect.isclass(value) and issubclass(value, BUILDABLE)
            if is_buildable and not inspect.isabstract(value):
                found[name] = value
    return found


def recipe_names() -> dict[str, str]:
    """Bundled recipes: name to the first comment line of the file."""
    folder = resources.files("trilemma") / "recipes"
    names = {}
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".yaml"):
            first = file.read_text().splitlines()[0]
            names[file.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return names


def load_recipe(name: str | Path) -> Config:
    """Read a bundled recipe by name, or a YAML file.

    Raises:
        ConfigError: if there is no such recipe, or the file is not a YAML mapping of sections.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"recipe file {path} does not exist")
        text = path.read_text()
    elif str(name) in recipe_names():
        text = (resources.files("trilemma") / "recipes" / f"{name}.yaml").read_text()
    else:
        raise ConfigError(f"no recipe {str(name)!r}; {nearest(str(name), recipe_names())}")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or set(config) != set(SECTIONS):
        raise ConfigError(f"recipe {name} must have exactly the entries {', '.join(SECTIONS)}")
    return config


def override(config: Config, key: str, text: str) -> None:
    """Set one entry in place, named by dots: ``method.generator.channels``.

    ``init_args`` is left out of the name. The value is YAML.

    Raises:
        ConfigError: if an entry on the way, or the last one, is not an argument there.
    """
    *path, last = key.split(".")
    node: Any = config
    for name in path:
        node = _arguments(node)
        if name not in node or not isinstance(node[name], dict):
            raise ConfigError(f"--{key}: no entry {name!r} here; {nearest(name, _nested(node))}")
        node = node[name]
    allowed = _parameters(node["class_path"]) if "class_path" in node else None
    if allowed is None and key.startswith("trainer."):
        allowed = _adam() if len(path) == 3 else list(inspect.signature(Trainer).parameters)
    if allowed is not None and last not in allowed:
        raise ConfigError(f"--{key}: no argument {last!r} here; {nearest(last, allowed)}")
    try:
        _arguments(node)[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{key}: {text!r} is not a YAML value") from error


def set_data(config: Config, where: str) -> None:
    """Point a recipe at other data, in place: a path, a Hub name, or a toy's name.

    Stacked digits may be named as for ``evaluate``, ``stacked:PATH``.
    """
    node = config["data"]
    key = "name" if node["class_path"] == "Toy" else "path"
    if node["class_path"] == "StackedDigits":
        where = where.removeprefix("stacked:")
    _arguments(node)[key] = where


def resolve(config: Mapping[str, Any]) -> Config:
    """Check a recipe and fill in every default.

    Raises:
        ConfigError: naming the entry, what was given and what is allowed.
    """
    parser = _parser(tuple(config))
    parsed = _parse(parser, config)
    return _shorten(yaml.safe_load(parser.dump(parsed, skip_unset=False)))


def build_recipe(config: Mapping[str, Any]) -> tuple[Method, Data, Trainer]:
    """Construct method, data and trainer.

    Raises:
        ConfigError: if the configuration is not valid.
    """
    objects = _instantiate(_parser(SECTIONS), config)
    return objects.method, objects.data, objects.trainer


def build_method(config: Mapping[str, Any]) -> Method:
    """Construct a method from its ``{class_path, init_args}`` entry."""
    return _instantiate(_parser(("method",)), {"method": config}).method


def build_data(config: Mapping[str, Any]) -> Data:
    """Construct a data set from its ``{class_path, init_args}`` entry."""
    return _instantiate(_parser(("data",)), {"data": config}).data


def build_sampler(name: str, settings: Mapping[str, str]) -> Sampler:
    """Construct a sampler from the text of its settings, checked against their types.

    Raises:
        ConfigError: for an unknown name or setting, or a value of the wrong type or range.
    """
    cls = sampler_class(name, settings)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "sampler")
    try:
        return parser.instantiate(parser.parse_object({"sampler": dict(settings)})).sampler
    except Exception as error:
        raise _own_error(error) or ConfigError(f"sampler {name}: {_one_line(error)}") from error


def sampling_config(config: Mapping[str, Any]) -> Config:
    """Return a method's entry without the networks that only training needs."""
    cls = _classes()[config["class_path"]]
    left_out = cls.training_only if issubclass(cls, Method) else ()
    arguments = {
        key: None if key in left_out else sampling_config(value) if _is_entry(value) else value
        for key, value in (config.get("init_args") or {}).items()
    }
    if hasattr(cls, "portable"):  # classes whose arguments name files
        arguments = cls.portable(arguments)
    return {"class_path": config["class_path"], "init_args": arguments}


def dump_yaml(config: Mapping[str, Any]) -> str:
    """Return a configuration as YAML text, in its own order."""
    return yaml.safe_dump(dict(config), sort_keys=False)


def _parser(sections: tuple[str, ...]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    if "method" in sections:
        parser.add_subclass_arguments(Method, "method", required=True)
    if "data" in sections:
        parser.add_subclass_arguments(Data, "data", required=True)
    if "trainer" in sections:
        parser.add_class_arguments(Trainer, "trainer")
    return parser


def _parse(parser: ArgumentParser, config: Mapping[str, Any]) -> Any:
    for section in config:
        if section not in SECTIONS:
            raise ConfigError(f"no section {section!r}; {nearest(section, SECTIONS)}")
    for section in {"method", "data"} & set(config):
        _check_entry(config[section], section, optional=False)
    full = {key: _expand(value, key) for key, value in config.items()}
    _check_trainer(full.get("trainer", {}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parser.parse_object(full)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_one_line(error)) from error


def _instantiate(parser: ArgumentParser, config: Mapping[str, Any]) -> Any:
    parsed = _parse(parser, config)
    try:
        return parser.instantiate(parsed)
    except (TypeError, ValueError) as error:
        raise _own_error(error) or ConfigError(_one_line(error)) from error


def _expand(node: Any, where: str) -> Any:
    """Check class names and argument names of a tree, and give classes their full path."""
    if isinstance(node, list):
        return [_expand(item, where) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "class_path" not in node:
        return {key: _expand(value, f"{where}.{key}") for key, value in node.items()}
    name, given = node["class_path"], node.get("init_args") or {}
    beside = sorted(set(map(str, node)) - {"class_path", "init_args"})
    if beside or not isinstance(given, Mapping):
        wrong = beside[0] if beside else "init_args"
        raise ConfigError(f"{where}: {wrong!r}: give class_path and a mapping init_args only")
    if not isinstance(name, str) or name not in _classes():
        raise ConfigError(f"{where}: no class {name!r}; {nearest(str(name), _classes())}")
    allowed = _parameters(name)
    for key in map(str, given):
        if key not in allowed:
            raise ConfigError(f"{where}: {name} has no argument {key!r}; {nearest(key, allowed)}")
    cls = _classes()[name]
    for key in _class_parameters(cls) & set(given):
        _check_entry(given[key], f"{where}.{key}")
    arguments = {k: _expand(v, f"{where}.{k}") for k, v in given.items()}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def _is_entry(value: Any) -> bool:
    """Whether a value stands for an object."""
    return isinstance(value, Mapping) and "class_path" in value


def _check_entry(value: Any, where: str, *, optional: bool = True) -> None:
    """Refuse text where an object belongs: the parser would import what it names."""
    if not _is_entry(value) and not (optional and value is None):
        raise ConfigError(f"{where}: an object is written {{class_path: Name, init_args: {{...}}}}")


@cache
def _class_parameters(cls: type) -> set[str]:
    """Parameters of a constructor that take an object of one of our classes."""
    hints = typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
    return {
        name
        for name, hint in hints.items()
        for kind in (hint, *typing.get_args(hint))
        if inspect.isclass(kind) and issubclass(kind, BUILDABLE)
    }


def _shorten(node: Any) -> Any:
    """Give classes their short names again."""
    if isinstance(node, list):
        return [_shorten(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "class_path" in node:
        arguments = _shorten(node.get("init_args") or {})
        return {"class_path": node["class_path"].rsplit(".", 1)[-1], "init_args": arguments}
    return {key: _shorten(value) for key, value in node.items()}


def _check_trainer(trainer: Any) -> None:
    if not isinstance(trainer, Mapping):
        raise ConfigError("trainer: a mapping of arguments is needed")
    allowed = list(inspect.signature(Trainer).parameters)
    for key in trainer:
        if key not in allowed:
            raise ConfigError(f"trainer: no argument {key!r}; {nearest(key, allowed)}")
    optimizers = trainer.get("optimizers") or {}
    if not isinstance(optimizers, Mapping):
        raise ConfigError("trainer.optimizers: a mapping of phase to optimizer is needed")
    for phase, optimizer in optimizers.items():
        if not isinstance(optimizer, Mapping):
            raise ConfigError(f"trainer.optimizers.{phase}: a mapping of arguments is needed")
        for key in optimizer:
            if key not in _adam():
                raise ConfigError(
                    f"trainer.optimizers.{phase}: no argument {key!r}; {nearest(key, _adam())}"
                )


def _adam() -> list[str]:
    return list(inspect.signature(Adam).parameters)


def _parameters(name: str) -> list[str]:
    return [p for p in inspect.signature(_classes()[name]).parameters if p != "self"]


def _arguments(node: Any) -> Any:
    """The mapping of arguments inside a node."""
    return node.setdefault("init_args", {}) if "class_path" in node else node


def _nested(node: Mapping[str, Any]) -> Iterator[str]:
    return (key for key, value in node.items() if isinstance(value, dict))


def _own_error(error: BaseException | None) -> TrilemmaError | None:
    """The package's own error that a parser's error wraps, if there is one."""
    while error is not None and not isinstance(error, TrilemmaError):
        error = error.__cause__ or error.__context__
    return error


KINDS = {"float": "a finite number", "int": "a whole number", "bool": "true or false"}


def _one_line(error: Exception) -> str:
    """The telling lines of a parser's error, joined."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    noise: tuple[str, ...] = (
        "Subtypes:",
        "Errors:",
        "Does not validate",
        "Expected a <class 'NoneType'>",
    )
    noise += ("Given value type", "Problem with given class_path")
    kept = [line for line in lines if line and not line.startswith(noise)]
    text = re.split(r" Given value: (?:\{|Namespace)", " ".join(kept))[0]
    wanted = r"Expected a <class '(\w+)'>"
    return re.sub(wanted, lambda found: f"{KINDS.get(found[1], found[1])} is needed", text)
