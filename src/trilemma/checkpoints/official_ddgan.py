"""Read the weights that the authors of denoising diffusion GANs published.

Their files hold plain state dicts without configuration; ``trilemma.checkpoints.links`` says how
names and layouts correspond.

``args`` are the training arguments of the official command line, as a mapping or as the
``argparse.Namespace`` that a training checkpoint holds. An argument that is absent or None has the
default of that command line; ``ch_mult``, the widths of the levels, has none. Values may be text:
``attn_resolutions`` has no type there, so that a given one always is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trilemma.checkpoints.links import (
    Arguments,
    Link,
    OfficialArguments,
    StateDict,
    export,
    fill,
    ncsnpp_links,
    pair,
    pyramids,
    without_prefix,
)
from trilemma.errors import CheckpointError
from trilemma.networks.discriminator import Discriminator
from trilemma.networks.ncsnpp import NCSNpp

__all__ = [
    "Link",
    "OfficialArguments",
    "build_discriminator",
    "build_generator",
    "describe",
    "describe_method",
    "discriminator_links",
    "export_state",
    "fill_generator",
    "generator_links",
    "load_discriminator",
    "load_generator",
]

_BLOCKS = ("biggan", "biggan_oneadagn", "ddpm")
_UNUSED_FREQUENCIES = "all_modules.0.W"
"""Fourier frequencies, which stand in the list even where no time embedding uses them."""


def build_generator(args: OfficialArguments) -> NCSNpp:
    """Build the generator that the official arguments describe, with fresh weights.

    Raises:
        CheckpointError: if an argument is missing or describes a network that never ran.
    """
    return NCSNpp(**describe(args))


def describe(args: OfficialArguments) -> dict[str, Any]:
    """Return the arguments of ``NCSNpp`` that the official arguments stand for.

    Without ``conditional`` there is no time embedding, whatever ``embedding_type`` says; the latter
    still decides how the official layers are numbered.

    Raises:
        CheckpointError: if an argument is missing, cannot have its value or describes a network
            that never ran.
    """
    get = _checked(args)
    embedding, block = _embedding(get), get.choice("resblock_type", _BLOCKS, "biggan")
    if block == "ddpm" and get.flag("resamp_with_conv", True):
        raise CheckpointError("resblock_type='ddpm' needs resamp_with_conv=False, as officially")
    return {
        "image_size": get.whole("image_size", 32),
        "in_channels": get.whole("num_channels", 3),
        "channels": get.whole("num_channels_dae", 128),
        "channel_mult": get.wholes("ch_mult"),
        "num_res_blocks": get.whole("num_res_blocks", 2),
        "attention_resolutions": get.wholes("attn_resolutions", (16,)),
        "dropout": get.number("dropout", 0.0),
        "block": block,
        "resample": "fir" if get.flag("fir", True) else "mean",
        "fir_kernel": get.wholes("fir_kernel", (1, 3, 3, 1)),
        "skip_rescale": get.flag("skip_rescale", True),
        **pyramids(get, coming_in="residual"),
        "time_embedding": embedding if get.flag("conditional", True) else "none",
        "fourier_scale": get.number("fourier_scale", 16.0),
        "code_dim": get.whole("nz", 100),
        "style_dim": get.whole("z_emb_dim", 256),
        "num_mapping_layers": get.whole("n_mlp", 3) + 1,
        "rescale_input": not get.flag("centered", True),
        "tanh": not get.flag("not_use_tanh", False),
    }


def describe_method(args: OfficialArguments) -> dict[str, Any]:
    """Return the configuration entry of the ``DDGAN`` that the official arguments stand for.

    Raises:
        CheckpointError: as ``describe`` does.
    """
    get = _checked(args)
    rates = {"beta_min": get.number("beta_min", 0.1), "beta_max": get.number("beta_max", 20.0)}
    return {
        "class_path": "DDGAN",
        "init_args": {
            "generator": {"class_path": "NCSNpp", "init_args": describe(args)},
            "process": {"class_path": "VP", "init_args": rates},
            "num_steps": get.whole("num_timesteps", 4),
        },
    }


def build_discriminator(args: OfficialArguments) -> Discriminator:
    """Build the discriminator that the official arguments describe, with fresh weights.

    ``args`` hold ``ngf``, ``t_emb_dim`` and either ``nc`` (channels of a pair) or
    ``num_channels``; the size, "small" or "large", follows from ``image_size`` (small up to 32)
    unless ``cls`` names it.

    Raises:
        CheckpointError: if an argument cannot have its value, or for the geometric schedule.
    """
    get = _checked(args)
    pair_channels = get.whole("nc", 2 * get.whole("num_channels", 3))
    if pair_channels % 2:
        raise CheckpointError(f"official argument nc={pair_channels} must be even: two images")
    size = "small" if get.whole("image_size", 32) <= 32 else "large"
    is_large = get.choice("cls", ("small", "large"), size) == "large"
    build = Discriminator.large if is_large else Discriminator.small
    return build(pair_channels // 2, get.whole("ngf", 64), get.whole("t_emb_dim", 256))


def load_generator(state_dict: StateDict, args: OfficialArguments) -> NCSNpp:
    """Return the official generator, to be called as (u_t, t, code) with integer steps t.

    Args:
        state_dict: official tensors, with or without the prefix ``module.``.
        args: official arguments, as a mapping or a namespace.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape, or the arguments
            describe no network that ran.
    """
    return fill_generator(build_generator(args), state_dict, args)


def fill_generator(network: NCSNpp, state_dict: StateDict, args: OfficialArguments) -> NCSNpp:
    """Fill a generator with the official tensors, and put it in eval mode.

    Raises:
        CheckpointError: as ``load_generator`` does.
    """
    unused, first = _dead(network, state_dict), 0
    if network.time is None and _embedding(_checked(args)) == "fourier":
        unused, first = unused | {_UNUSED_FREQUENCIES}, 1
    return fill(network, generator_links(network, first), state_dict, unused=unused)


def load_discriminator(state_dict: StateDict, args: OfficialArguments) -> Discriminator:
    """Return an official discriminator, to be called as (u_s, t, u_t) with integer steps t.

    The number of blocks in the state dict decides between "small" and "large".

    Args:
        state_dict: official tensors, with or without the prefix ``module.``.
        args: official arguments, as a mapping or a namespace.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape, or for the geometric
            schedule.
    """
    is_large = any(name.startswith("conv5.") for name in without_prefix(state_dict))
    network = build_discriminator({**_checked(args).args, "cls": "large" if is_large else "small"})
    return fill(network, discriminator_links(network), state_dict)


def export_state(network: NCSNpp | Discriminator) -> dict[str, Tensor]:
    """Return the weights under their official names and layouts; the inverse of loading.

    Official tensors that are never used are not kept: a network without time is numbered as with
    ``embedding_type="positional"``.
    """
    if isinstance(network, NCSNpp):
        return export(network, generator_links(network))
    return export(network, discriminator_links(network))


def generator_links(network: NCSNpp, first: int = 0) -> list[Link]:
    """Pair all our tensors with official names.

    Args:
        network: our generator.
        first: official number of its first layer: 1 after unused Fourier frequencies, else 0.
    """
    links = ncsnpp_links(network, first=first)
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


def _checked(args: OfficialArguments) -> Arguments:
    """Look-up of official arguments, once it is clear that their schedule is supported.

    Raises:
        CheckpointError: for the geometric schedule.
    """
    get = Arguments(args)
    if get.flag("use_geometric", False):
        raise CheckpointError(
            "use_geometric=True is not supported: no published model uses it; only "
            "use_geometric=False, the schedule of beta_min and beta_max, can be read"
        )
    return get


def _dead(network: NCSNpp, state_dict: StateDict) -> set[str]:
    """Official tensors that exist and are never used: time layers of an unconditional network."""
    if network.time is not None:
        return set()
    return {name for name in without_prefix(state_dict) if ".Dense_0." in name}


def _embedding(get: Arguments) -> str:
    """The time embedding, which numbers the layers even where it is not used."""
    return get.choice("embedding_type", ("positional", "fourier"), "positional")
