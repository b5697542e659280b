"""Pair our tensors with those of state dicts that others published.

Official names number the layers of the U-Net in the order of execution. ``ncsnpp_links`` walks our
network in that order and pairs every parameter with its official name, so the map is derived,
total and invertible. Two layouts differ: channel mixes are stored [in, out] there and [out, in]
here, and the three mixes of an attention's query, key and value are one matrix here.

``Arguments`` reads what the weights were trained with. Each argument is asked for by its type, so
text from a shell or a hand-written file means what it says ("False" is false, "8" is 8), and what
cannot be read is refused by name.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trilemma.errors import CheckpointError, nearest
from trilemma.networks.layers import FIR, AdaptiveGroupNorm, Attention, FourierEmbedding
from trilemma.networks.ncsnpp import (
    Level,
    NCSNpp,
    PlainResample,
    ResBlock,
    ResidualInput,
    SkipInput,
)

__all__ = [
    "Arguments",
    "Link",
    "OfficialArguments",
    "StateDict",
    "export",
    "fill",
    "ncsnpp_links",
    "pair",
    "pyramids",
    "without_prefix",
]

Network = TypeVar("Network", bound=nn.Module)
Value = TypeVar("Value")
StateDict = Mapping[str, Tensor]
OfficialArguments = Mapping[str, Any] | argparse.Namespace


@dataclass(frozen=True)
class Link:
    """Where one of our tensors lives in an official state dict.

    Args:
        ours: our parameter name.
        theirs: official names whose tensors, stacked along the outputs, make ours.
        is_mix: whether official matrices are [in, out] channel mixes.
    """

    ours: str
    theirs: tuple[str, ...]
    is_mix: bool = False

    def join(self, official: StateDict, shape: torch.Size) -> Tensor:
        """Return our tensor from the official ones."""
        parts = [official[name] for name in self.theirs]
        # Shapes that the official tensors must have, from an empty tensor of ours.
        for name, like in self.split(torch.empty(shape, device="meta")):
            if official[name].shape != like.shape:
                raise CheckpointError(
                    f"tensor {name!r} has shape {list(official[name].shape)}, where "
                    f"{list(like.shape)} is needed for {self.ours!r}: the arguments describe "
                    "another network"
                )
        if self.is_mix:
            parts = [part.T for part in parts]
        joined = torch.cat(parts)
        if joined.numel() != shape.numel() or joined.shape[0] != shape[0]:
            found = list(official[self.theirs[0]].shape)
            raise CheckpointError(
                f"tensor {self.theirs[0]!r} has shape {found}, which does not fit {self.ours!r} of "
                f"shape {list(shape)}: the arguments describe another network"
            )
        return joined.reshape(shape)

    def split(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield official names and tensors from ours."""
        for name, part in zip(self.theirs, tensor.chunk(len(self.theirs)), strict=True):
            yield name, part.flatten(1).T.contiguous() if self.is_mix else part


def fill(
    network: Network, links: list[Link], state_dict: StateDict, *, unused: Collection[str] = ()
) -> Network:
    """Fill a network, using each official tensor exactly once, and put it in eval mode.

    Args:
        network: network to fill.
        links: where each of its tensors comes from.
        state_dict: official tensors, with or without the prefix ``module.``.
        unused: official names, without the prefix, that may be present and are never used.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    official = without_prefix(state_dict)
    expected = [name for link in links for name in link.theirs]
    missing = [name for name in expected if name not in official]
    extra = sorted(set(official) - set(expected) - set(unused))
    if missing or extra:
        raise CheckpointError(
            f"the state dict does not fit its arguments: {len(missing)} tensors missing "
            f"{missing[:3]}, {len(extra)} left over {extra[:3]}"
        )
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    network.load_state_dict({x.ours: x.join(official, shapes[x.ours]) for x in links})
    return network.eval()


def export(network: nn.Module, links: Iterable[Link]) -> dict[str, Tensor]:
    """Return the weights under their official names and layouts; the inverse of ``fill``."""
    state = network.state_dict()
    return {name: part for link in links for name, part in link.split(state[link.ours])}


def without_prefix(state_dict: StateDict) -> dict[str, Tensor]:
    """Return the tensors without the prefix ``module.`` of training on several processes.

    Raises:
        CheckpointError: if they are no mapping, or an entry is no tensor or stands there with and
            without the prefix.
    """
    official: dict[str, Tensor] = {}
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(
            f"a {type(state_dict).__name__} is no state dict: a mapping is needed"
        )
    for key, value in state_dict.items():
        name = str(key).removeprefix("module.")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"entry {name!r} is a {type(value).__name__}, not a tensor")
        if name in official:
            raise CheckpointError(f"tensor {name!r} stands in the state dict twice")
        official[name] = value
    return official


def ncsnpp_links(network: NCSNpp, frequencies: str = "", first: int = 0) -> list[Link]:
    """Pair the tensors of the U-Net; layers are numbered in the order of execution.

    Args:
        network: our network.
        frequencies: official name of the Fourier frequencies where they stand outside the list.
        first: official number of our first layer, >= 0: how many unused ones stand before it.
    """
    names = {id(module): name for name, module in network.named_modules()}
    links, layers = [], list(_in_order(network))
    if frequencies and isinstance(layers[0], FourierEmbedding):
        links.append(Link(f"{names[id(layers.pop(0))]}.frequencies", (frequencies,)))
    for place, module in enumerate(layers):
        for link in _layer_links(module):
            ours = f"{names[id(module)]}.{link.ours}"
            theirs = tuple(f"all_modules.{first + place}.{name}" for name in link.theirs)
            links.append(Link(ours, theirs, link.is_mix))
    return links


def pair(ours: str, theirs: str) -> list[Link]:
    """Links of a weight and a bias."""
    return [Link(_dot(ours, kind), (_dot(theirs, kind),)) for kind in ("weight", "bias")]


def _mix(ours: str, *theirs: str) -> list[Link]:
    """Links of a channel mix: matrices W are [in, out], biases b."""
    matrices = tuple(f"{name}.W" for name in theirs)
    biases = tuple(f"{name}.b" for name in theirs)
    return [Link(f"{ours}.weight", matrices, True), Link(f"{ours}.bias", biases)]


def _dot(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _in_order(network: NCSNpp) -> Iterator[nn.Module]:
    """Yield layers in the order in which the official list numbers them."""
    if network.time is not None:
        if isinstance(network.time.embed, FourierEmbedding):
            yield network.time.embed
        yield network.time.linear1
        yield network.time.linear2
    yield network.stem
    for level in Level.of(network.down):
        for i, block in enumerate(level.blocks):
            yield block
            yield from list(level.attentions)[i : i + 1]
        yield from _present(level.resample, level.pyramid)
    yield from network.middle
    for level in Level.of(network.up):
        yield from level.blocks
        yield from level.attentions
        if level.pyramid is not None:
            yield from (level.pyramid.norm, level.pyramid.conv)
        yield from _present(level.resample)
    if network.head is not None:
        yield from (network.head.norm, network.head.conv)


def _present(*modules: nn.Module | None) -> Iterator[nn.Module]:
    return (module for module in modules if module is not None)


def _layer_links(module: nn.Module) -> list[Link]:
    """Links inside one entry of the official list, relative to it."""
    if isinstance(module, ResBlock):
        return _block_links(module)
    if isinstance(module, Attention):
        mixes = _mix("query_key_value", "NIN_0", "NIN_1", "NIN_2") + _mix("out", "NIN_3")
        return pair("norm", "GroupNorm_0") + mixes
    if isinstance(module, ResidualInput):
        has_filter = isinstance(module.down.resampler, FIR)
        return pair("down.conv", "Conv2d_0" if has_filter else "Conv_0")
    if isinstance(module, SkipInput):
        return pair("project", "Conv_0")
    if isinstance(module, FourierEmbedding):
        return [Link("frequencies", ("W",))]
    return [] if isinstance(module, PlainResample) else pair("", "")


def _block_links(block: ResBlock) -> list[Link]:
    links = pair("conv1", "Conv_0") + pair("conv2", "Conv_1")
    if block.time is not None:
        links += pair("time", "Dense_0")
    for i, norm in enumerate((block.norm1, block.norm2)):
        style = ".style" if isinstance(norm, AdaptiveGroupNorm) else ""
        links += pair(f"norm{i + 1}{style}", f"GroupNorm_{i}{style}")
    if block.shortcut is not None:
        links += _mix("shortcut", "NIN_0") if block.is_ddpm else pair("shortcut", "Conv_2")
    return links


class Arguments:
    """Official arguments by name, each read as the type that it has on its command line.

    They come from a namespace, a published list or a JSON file that a person wrote, where numbers
    and truth values may be text, as in a shell. One that is absent or None has the default.

    Args:
        args: a mapping, or the namespace that a training checkpoint holds.

    Raises:
        CheckpointError: if they are neither; from every method, for an argument that is missing and
            has no default, or has a value that it cannot have.
    """

    def __init__(self, args: OfficialArguments) -> None:
        found = vars(args) if isinstance(args, argparse.Namespace) else args
        if not isinstance(found, Mapping):
            raise CheckpointError(
                f"official arguments are a {type(args).__name__}: a mapping or an "
                "argparse.Namespace is needed"
            )
        self.args = found

    def flag(self, name: str, default: bool | None = None) -> bool:
        """A truth value: true or false, 1 or 0, or their text in any case."""
        return self._read(name, default, _flag, "true or false")

    def whole(self, name: str, default: int | None = None, *, positive: bool = False) -> int:
        """A whole number >= 0, such as 24, 24.0 or "24"; ``positive`` ones are >= 1."""
        least = int(positive)
        return self._read(name, default, partial(_whole, least), f"a whole number >= {least}")

    def wholes(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Whole numbers >= 0: a list, one number, or text such as "1,2,2", "1 2 2" or "[1, 2]"."""
        return self._read(name, default, _wholes, "whole numbers >= 0 such as [1, 2, 2]")

    def number(self, name: str, default: float | None = None, *, positive: bool = False) -> float:
        """A finite number, such as 20, 2e1 or "20"; ``positive`` ones are > 0."""
        least = math.ulp(0.0) if positive else -math.inf
        wanted = "a positive number" if positive else "a finite number"
        return self._read(name, default, partial(_number, least), wanted)

    def choice(
        self, name: str, allowed: Collection[str], default: str | None = None, *, reason: str = ""
    ) -> str:
        """One of some names; ``reason`` says why another one is not among them."""
        value = self._read(name, default, str, "a name")
        if value not in allowed:
            because = f"{reason}; " if reason else ""
            raise CheckpointError(
                f"official argument {name}={value!r} is not supported: {because}"
                f"{nearest(value, allowed)}"
            )
        return value

    def _read(self, name: str, default: Any, parse: Callable[[Any], Value], wanted: str) -> Value:
        """The argument or its default, through ``parse``."""
        value = self.args.get(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"the official argument {name!r} is missing from the config")
        try:
            return parse(value)
        except (LookupError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"official argument {name}={value!r} must be {wanted}") from error


def pyramids(
    get: Arguments, coming_in: str | None = "none", going_out: str | None = "none"
) -> dict[str, str]:
    """Arguments of ``NCSNpp`` about pyramids of images, which all official networks share.

    Args:
        get: official arguments.
        coming_in: default of ``progressive_input``, None for none.
        going_out: default of ``progressive``, None for none.
    """
    never = "'residual' never ran officially"
    return {
        "input_pyramid": get.choice(
            "progressive_input", ("none", "residual", "input_skip"), coming_in
        ),
        "combine": get.choice("progressive_combine", ("sum", "cat"), "sum"),
        "output_pyramid": get.choice(
            "progressive", ("none", "output_skip"), going_out, reason=never
        ),
    }


def _flag(value: Any) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[str(value).strip().lower()]


def _number(least: float, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    if not (math.isfinite(number) and number >= least):
        raise ValueError
    return number


def _whole(least: int, value: Any) -> int:
    number = _number(least, value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _wholes(value: Any) -> list[int]:
    if isinstance(value, str):
        value = value.strip("[]() ").replace(",", " ").split()
    return [_whole(0, part) for part in (value if isinstance(value, list | tuple) else [value])]
