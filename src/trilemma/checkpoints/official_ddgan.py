"""Read the weights that the authors of denoising diffusion GANs published.

Their files hold plain state dicts without configuration; ``trilemma.checkpoints.links`` says how
names and layouts correspond.

``args`` are the training arguments of the official command line, as a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trilemma.checkpoints.links import (
    Arguments,
    Link,
    StateDict,
    export,
    fill,
    ncsnpp_links,
    pair,
)
from trilemma.errors import CheckpointError
from trilemma.networks.discriminator import Discriminator
from trilemma.networks.ncsnpp import NCSNpp

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
    get = Arguments(args)
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
    get = Arguments(args)
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
    unused = _dead(network, state_dict)
    return fill(network, generator_links(network), state_dict, unused=unused)


def load_discriminator(state_dict: StateDict, args: Mapping[str, Any]) -> Discriminator:
    """Return an official discriminator, to be called as (u_s, t, u_t) with integer steps t.

    The number of blocks in the state dict decides between "small" and "large".

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    is_large = any(name.removeprefix("module.").startswith("conv5.") for name in state_dict)
    network = build_discriminator({**args, "cls": "large" if is_large else "small"})
    return fill(network, discriminator_links(network), state_dict)


def export_state(network: NCSNpp | Discriminator) -> dict[str, Tensor]:
    """Return the weights under their official names and layouts; the inverse of loading."""
    if isinstance(network, NCSNpp):
        return export(network, generator_links(network))
    return export(network, discriminator_links(network))


def generator_links(network: NCSNpp) -> list[Link]:
    """Pair all our tensors with official names."""
    links = ncsnpp_links(network)
    if network.mapping is not None:
        for i in range(1, len(network.mapping), 2):
            links += pair(f"mapping.{i}", f"z_transform.{i}")
    return links


def discriminator_links(network: Discriminator) -> list[Link]:
    """Pair all our tensors with official names."""
    links = pair("time1", "t_embed.main.0") + pair("time2", "t_embed.main.2")
    links += pair("stem", "start_conv")
    for i in range(len(network.blocks)):
        ours, theirs = f"blocks.{i}", f"conv{i + 1}"
        links += pair(f"{ours}.conv1", f"{theirs}.conv1.0")
        links += pair(f"{ours}.conv2", f"{theirs}.conv2.0")
        links += pair(f"{ours}.time", f"{theirs}.dense_t1")
        links += [Link(f"{ours}.shortcut.weight", (f"{theirs}.skip.0.weight",))]
    return links + pair("final", "final_conv") + pair("out", "end_linear")


def _dead(network: NCSNpp, state_dict: StateDict) -> set[str]:
    """Official tensors that exist and are never used: time layers of an unconditional network."""
    if network.time is not None:
        return set()
    return {name.removeprefix("module.") for name in state_dict if ".Dense_0." in name}
