"""Read the weights that the authors of denoising diffusion GANs published.

Their files hold plain state dicts without configuration; the names number the layers of the U-Net
in the order of execution. ``generator_links`` walks our network in that order and pairs every
parameter with its official name, so the map is derived, total and invertible. Two layouts differ:
channel mixes are stored [in, out] there and [out, in] here, and the three mixes of an attention's
query, key and value are one matrix here.

``args`` are the training arguments of the official command line, as a mapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trilemma.errors import CheckpointError
from trilemma.networks.discriminator import Discriminator
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
    "Link",
    "build_discriminator",
    "build_generator",
    "describe",
    "discriminator_links",
    "export_state",
    "generator_links",
    "load_discriminator",
    "load_generator",
]

Network = TypeVar("Network", bound=nn.Module)
StateDict = Mapping[str, Tensor]


def build_generator(args: Mapping[str, Any]) -> NCSNpp:
    """Build the generator that the official arguments describe, with fresh weights.

    Raises:
        CheckpointError: if an argument is missing or describes a network that never ran.
    """
    return NCSNpp(**describe(args))


def describe(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``NCSNpp`` that the official arguments stand for.

    Raises:
        CheckpointError: if an argument is missing or describes a network that never ran.
    """
    get = _Arguments(args)
    if get("progressive", "none") == "residual":
        raise CheckpointError("progressive='residual' never ran officially; no weights exist")
    if get("resblock_type", "biggan") == "ddpm" and get("resamp_with_conv", True):
        raise CheckpointError("resblock_type='ddpm' needs resamp_with_conv=False, as officially")
    return {
        "image_size": get("image_size"),
        "in_channels": get("num_channels", 3),
        "channels": get("num_channels_dae"),
        "channel_mult": list(get("ch_mult")),
        "num_res_blocks": get("num_res_blocks", 2),
        "attention_resolutions": list(get("attn_resolutions", (16,))),
        "dropout": get("dropout", 0.0),
        "block": get("resblock_type", "biggan"),
        "resample": "fir" if get("fir", True) else "mean",
        "fir_kernel": list(get("fir_kernel", (1, 3, 3, 1))),
        "skip_rescale": get("skip_rescale", True),
        "input_pyramid": get("progressive_input", "residual"),
        "combine": get("progressive_combine", "sum"),
        "output_pyramid": get("progressive", "none"),
        "time_embedding": (
            get("embedding_type", "positional") if get("conditional", True) else "none"
        ),
        "fourier_scale": get("fourier_scale", 16.0),
        "code_dim": get("nz"),
        "style_dim": get("z_emb_dim"),
        "num_mapping_layers": get("n_mlp") + 1,
        "rescale_input": not get("centered", True),
        "tanh": not get("not_use_tanh", False),
    }


def build_discriminator(args: Mapping[str, Any]) -> Discriminator:
    """Build the discriminator that the official arguments describe, with fresh weights.

    ``args`` hold ``ngf``, ``t_emb_dim`` and either ``nc`` (channels of a pair) or
    ``num_channels``; the size, "small" or "large", follows from ``image_size`` (small up to 32)
    unless ``cls`` names it.
    """
    get = _Arguments(args)
    channels = get("nc") // 2 if "nc" in args else get("num_channels", 3)
    name = args.get("cls", "small" if get("image_size", 32) <= 32 else "large")
    build = Discriminator.large if "large" in str(name) else Discriminator.small
    return build(channels, get("ngf", 64), get("t_emb_dim", 256))


def load_generator(state_dict: StateDict, args: Mapping[str, Any]) -> NCSNpp:
    """Return the official generator, to be called as (u_t, t, code) with integer steps t.

    Args:
        state_dict: official tensors, with or without the prefix ``module.``.
        args: official arguments.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    network = build_generator(args)
    return _load(network, generator_links(network), state_dict)


def load_discriminator(state_dict: StateDict, args: Mapping[str, Any]) -> Discriminator:
    """Return an official discriminator, to be called as (u_s, t, u_t) with integer steps t.

    The number of blocks in the state dict decides between "small" and "large".

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    is_large = any(name.removeprefix("module.").startswith("conv5.") for name in state_dict)
    network = build_discriminator({**args, "cls": "large" if is_large else "small"})
    return _load(network, discriminator_links(network), state_dict)


def export_state(network: NCSNpp | Discriminator) -> dict[str, Tensor]:
    """Return the weights under their official names and layouts; the inverse of loading."""
    if isinstance(network, NCSNpp):
        links = generator_links(network)
    else:
        links = discriminator_links(network)
    state = network.state_dict()
    return {name: part for link in links for name, part in link.split(state[link.ours])}


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


def generator_links(network: NCSNpp) -> list[Link]:
    """Pair all our tensors with official names; blocks are numbered in order of execution."""
    names = {id(module): name for name, module in network.named_modules()}
    links = []
    for index, module in enumerate(_in_order(network)):
        for link in _layer_links(module):
            ours = f"{names[id(module)]}.{link.ours}"
            theirs = tuple(f"all_modules.{index}.{name}" for name in link.theirs)
            links.append(Link(ours, theirs, link.is_mix))
    if network.mapping is not None:
        for i in range(1, len(network.mapping), 2):
            links += _pair(f"mapping.{i}", f"z_transform.{i}")
    return links


def discriminator_links(network: Discriminator) -> list[Link]:
    """Pair all our tensors with official names."""
    links = _pair("time1", "t_embed.main.0") + _pair("time2", "t_embed.main.2")
    links += _pair("stem", "start_conv")
    for i in range(len(network.blocks)):
        ours, theirs = f"blocks.{i}", f"conv{i + 1}"
        links += _pair(f"{ours}.conv1", f"{theirs}.conv1.0")
        links += _pair(f"{ours}.conv2", f"{theirs}.conv2.0")
        links += _pair(f"{ours}.time", f"{theirs}.dense_t1")
        links += [Link(f"{ours}.shortcut.weight", (f"{theirs}.skip.0.weight",))]
    return links + _pair("final", "final_conv") + _pair("out", "end_linear")


def _pair(ours: str, theirs: str) -> list[Link]:
    """Links of weight and bias."""
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
        return _pair("norm", "GroupNorm_0") + mixes
    if isinstance(module, ResidualInput):
        has_filter = isinstance(module.down.resampler, FIR)
        return _pair("down.conv", "Conv2d_0" if has_filter else "Conv_0")
    if isinstance(module, SkipInput):
        return _pair("project", "Conv_0")
    if isinstance(module, FourierEmbedding):
        return [Link("frequencies", ("W",))]
    return [] if isinstance(module, PlainResample) else _pair("", "")


def _block_links(block: ResBlock) -> list[Link]:
    links = _pair("conv1", "Conv_0") + _pair("conv2", "Conv_1")
    if block.time is not None:
        links += _pair("time", "Dense_0")
    for i, norm in enumerate((block.norm1, block.norm2)):
        style = ".style" if isinstance(norm, AdaptiveGroupNorm) else ""
        links += _pair(f"norm{i + 1}{style}", f"GroupNorm_{i}{style}")
    if block.shortcut is not None:
        links += _mix("shortcut", "NIN_0") if block.is_ddpm else _pair("shortcut", "Conv_2")
    return links


def _load(network: Network, links: list[Link], state_dict: StateDict) -> Network:
    """Fill a network, using each official tensor exactly once."""
    official = {name.removeprefix("module."): value for name, value in state_dict.items()}
    expected = [name for link in links for name in link.theirs]
    missing = [name for name in expected if name not in official]
    extra = sorted(set(official) - set(expected) - _dead(network, official))
    if missing or extra:
        raise CheckpointError(
            f"the state dict does not fit its arguments: {len(missing)} tensors missing "
            f"{missing[:3]}, {len(extra)} left over {extra[:3]}"
        )
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    network.load_state_dict({x.ours: x.join(official, shapes[x.ours]) for x in links})
    return network.eval()


def _dead(network: nn.Module, official: StateDict) -> set[str]:
    """Official tensors that exist and are never used: time layers of an unconditional network."""
    if isinstance(network, NCSNpp) and network.time is None:
        return {name for name in official if ".Dense_0." in name}
    return set()


class _Arguments:
    """Look an argument up, with a clear error where it is missing and has no default."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.args = args

    def __call__(self, name: str, default: Any = None) -> Any:
        value = self.args.get(name, default)
        if value is None:
            raise CheckpointError(f"the official argument {name!r} is missing from the config")
        return value
