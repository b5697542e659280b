"""Read the weights that the authors of critically-damped Langevin diffusion published.

Their files hold the state dict of the network while it was trained, and averages as a bare list in
the order of the network's parameters; ``ema_state`` puts the names back. No file says which
settings it was trained with: ``config`` are the official flags, as a mapping, and ``OFFICIAL_CLD``
holds those of the published models. ``trilemma.checkpoints.links`` says how names and layouts
correspond.

The networks are called as (u, t), where u joins position and velocity along the channels
(``sde=cld``) or is the image alone (``sde=vpsde``) and t is the forward time in (0, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    pyramids,
    without_prefix,
)
from trilemma.errors import CheckpointError
from trilemma.networks import NCSNpp, PointResNet, PointScore

__all__ = [
    "OFFICIAL_CLD",
    "build_network",
    "completed",
    "describe",
    "describe_method",
    "ema_state",
    "export_state",
    "load_network",
    "network_links",
]

Network = NCSNpp | PointScore | PointResNet
_NETWORKS: dict[str, type[Network]] = {
    "ncsnpp": NCSNpp,
    "mlp": PointScore,
    "resnet": PointResNet,
}
_WEIGHTS = {
    "reweightedv2": "UniformWeight",
    "reweightedv1": "Reweighted",
    "likelihood": "Likelihood",
}
_ACTIVATIONS = {"swish": "silu", "relu": "relu", "elu": "elu", "lrelu": "leaky_relu"}
_BLOCKS = {"cld": 2, "vpsde": 1}
_OBJECTIVES = {"hsm": "hybrid", "dsm": "denoising"}

_COMMON: dict[str, Any] = {
    "sde": "cld",
    "beta_type": "linear",
    "m_inv": 4.0,
    "gamma": 0.04,
    "cld_objective": "hsm",
    "weighting": "reweightedv2",
    "mixed_score": True,
    "name": "ncsnpp",
    "n_channels": 128,
    "attn_resolutions": "16",
    "resamp_with_conv": True,
    "fir_kernel": "1,3,3,1",
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_combine": "sum",
    "fourier_scale": 16,
    "dropout": 0.1,
    "nonlinearity": "swish",
    "is_image": True,
    "center_image": True,
    "image_channels": 3,
}
_CIFAR10 = {
    "beta0": 4.0,
    "beta1": 0.0,
    "numerical_eps": 1e-9,
    "loss_eps": 1e-5,
    "image_size": 32,
    "ch_mult": "1,2,2,2",
    "n_resblocks": 8,
    "use_fir": True,
    "progressive_input": "residual",
    "embedding_type": "fourier",
}
_CELEBA = {
    "numerical_eps": 1e-6,
    "image_size": 256,
    "ch_mult": "1,1,2,2,2,2,2",
    "use_fir": False,
    "progressive_input": "none",
    "embedding_type": "positional",
}
_PAPER = {"beta0": 4.0, "beta1": 0.0, "loss_eps": 1e-5, "n_resblocks": 2}
_POST_PAPER = {"beta0": 0.1, "beta1": 6.9, "loss_eps": 1e-3, "n_resblocks": 4}
OFFICIAL_CLD: dict[str, dict[str, Any]] = {
    "cifar10": {**_COMMON, **_CIFAR10},
    "celebahq256": {**_COMMON, **_CELEBA, **_POST_PAPER},
    "celebahq256-paper": {**_COMMON, **_CELEBA, **_PAPER},
}
"""Flags of the published models: those of the paper, and the authors' later settings for faces."""


def build_network(config: Mapping[str, Any]) -> Network:
    """Build the network that the official flags describe, with fresh weights.

    Raises:
        CheckpointError: if a flag is missing or describes a network that is not supported.
    """
    arguments = describe(config)
    return _NETWORKS[_name(Arguments(config))](**arguments)


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of our network that the official flags stand for.

    These are arguments of ``NCSNpp`` for the name "ncsnpp", of ``PointScore`` for "mlp" and of
    ``PointResNet`` for "resnet". Width and depth of the latter two are no official flags; the
    entries ``width`` and ``num_layers`` override the published ones.

    Raises:
        CheckpointError: if a flag is missing, cannot have its value or describes a network that is
            not supported.
    """
    get = Arguments(config)
    name, blocks = _name(get), _BLOCKS[get.choice("sde", _BLOCKS)]
    if name == "ncsnpp":
        return _describe_ncsnpp(get, blocks)
    dim = get.whole("data_dim", 2)
    width, num_layers = (64, 20) if name == "resnet" else (128, 5)
    sizes = {
        "inputs": blocks * dim,
        "outputs": dim,
        "width": get.whole("width", width),
        "num_layers": get.whole("num_layers", num_layers),
    }
    return sizes if name == "resnet" else {**sizes, "log_time": False}


def describe_method(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration entry of the method that the official flags stand for.

    ``CLDSGM`` for ``sde=cld``; ``DDPM`` on VP for ``sde=vpsde``, whose score -alpha / sigma_t of
    the network's output alpha makes that output our noise.

    Raises:
        CheckpointError: if a flag is missing, cannot have its value or describes what is not
            supported.
    """
    get, arguments = Arguments(config), describe(config)
    name = _name(get)
    weight = _WEIGHTS[get.choice("weighting", _WEIGHTS, "reweightedv2")]
    get.choice("beta_type", ("linear",), "linear")
    if name == "ncsnpp" and not get.flag("center_image", True):
        raise CheckpointError("center_image=False is not supported: images in [-1, 1] are needed")
    beta0, beta1 = get.number("beta0"), get.number("beta1")
    rates = {"beta_min": beta0, "beta_max": beta0 + beta1}
    common = {
        "network": {"class_path": _NETWORKS[name].__name__, "init_args": arguments},
        "mixed_score": get.flag("mixed_score", False),
        "weight": {"class_path": weight},
        "t_min": get.number("loss_eps"),
    }
    if get.choice("sde", _BLOCKS) == "vpsde":
        process = {"class_path": "VP", "init_args": rates}
        return {"class_path": "DDPM", "init_args": {**common, "process": process}}
    langevin = {
        **rates,
        "mass": 1 / get.number("m_inv", positive=True),
        "init_velocity_scale": get.number("gamma"),
        "jitter": get.number("numerical_eps"),
    }
    objective = _OBJECTIVES[get.choice("cld_objective", _OBJECTIVES, "hsm")]
    process = {"class_path": "CLD", "init_args": langevin}
    return {
        "class_path": "CLDSGM",
        "init_args": {**common, "process": process, "objective": objective},
    }


def load_network(state_dict: StateDict, config: Mapping[str, Any]) -> Network:
    """Return the official network in eval mode, to be called as (u, t).

    Args:
        state_dict: official tensors, with or without the prefix ``module.``.
        config: official flags.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    network = build_network(completed(config, state_dict))
    return fill(network, network_links(network), state_dict)


def completed(config: Mapping[str, Any], state_dict: StateDict) -> dict[str, Any]:
    """Return the flags, with the sizes of a point network, which are no flags, from its tensors."""
    flags = Arguments(config).args
    first, ends = {"mlp": ("main.0.weight", 0), "resnet": ("layers.0.weight", 2)}.get(
        str(flags.get("name")), ("", 0)
    )
    official = without_prefix(state_dict)
    if first not in official:
        return dict(flags)
    num_layers = sum(name.endswith(".weight") for name in official) - ends
    return {"width": len(official[first]), "num_layers": num_layers, **flags}


def export_state(network: Network) -> dict[str, Tensor]:
    """Return the weights under their official names and layouts; the inverse of loading."""
    return export(network, network_links(network))


def network_links(network: Network) -> list[Link]:
    """Pair all our tensors with official names."""
    if isinstance(network, NCSNpp):
        return ncsnpp_links(network)
    layers = range(len(network.layers))
    if isinstance(network, PointResNet):
        return [link for i in layers for link in pair(f"layers.{i}", f"layers.{i}")]
    return [link for i in layers for link in pair(f"layers.{i}", f"main.{2 * i}")]


def ema_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights of a training checkpoint, named as in its ``model``.

    Averages are listed in the order of the trained parameters, which is that of the state dict;
    the frequencies of the Fourier embedding are not trained and come from ``model``.

    Args:
        checkpoint: holds ``model``, a state dict, and ``ema`` with the list ``shadow_params``.

    Raises:
        CheckpointError: if there are no averages, or they do not fit the network.
    """
    model, ema = checkpoint.get("model"), checkpoint.get("ema")
    shadows = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(shadows, Sequence):
        raise CheckpointError(
            "the checkpoint has no averaged weights: 'model' and 'ema' with 'shadow_params' are "
            "needed; for other weights save a plain state dict"
        )
    averaged = without_prefix(model)
    names = [name for name in averaged if not re.fullmatch(r"all_modules\.\d+\.W", name)]
    if len(names) != len(shadows):
        raise CheckpointError(
            f"the checkpoint averages {len(shadows)} tensors, its network trains {len(names)}"
        )
    for name, shadow in zip(names, shadows, strict=True):
        if not isinstance(shadow, Tensor) or shadow.shape != averaged[name].shape:
            found = list(shadow.shape) if isinstance(shadow, Tensor) else type(shadow).__name__
            raise CheckpointError(
                f"the average of {name!r} has shape {found}, the tensor "
                f"{list(averaged[name].shape)}"
            )
        averaged[name] = shadow
    return averaged


def _name(get: Arguments) -> str:
    return get.choice("name", _NETWORKS)


def _describe_ncsnpp(get: Arguments, blocks: int) -> dict[str, Any]:
    """Arguments of ``NCSNpp``; flags that the official network never reads are not looked at."""
    activation = _ACTIVATIONS[get.choice("nonlinearity", _ACTIVATIONS, "swish")]
    get.choice("resblock_type", ("biggan",), reason="'ddpm' never ran officially")
    channels, has_filter = get.whole("image_channels", 3), get.flag("use_fir", False)
    return {
        "image_size": get.whole("image_size"),
        "in_channels": blocks * channels,
        "out_channels": channels,
        "channels": get.whole("n_channels"),
        "channel_mult": get.wholes("ch_mult"),
        "num_res_blocks": get.whole("n_resblocks"),
        "attention_resolutions": get.wholes("attn_resolutions"),
        "dropout": get.number("dropout", 0.0),
        "resample": "fir" if has_filter else "mean",
        "fir_kernel": get.wholes("fir_kernel") if has_filter else [1, 3, 3, 1],
        "skip_rescale": get.flag("skip_rescale", False),
        **pyramids(get, None, None),
        "time_embedding": get.choice("embedding_type", ("positional", "fourier")),
        "fourier_scale": get.number("fourier_scale", 16),
        **({} if activation == "silu" else {"activation": activation}),
    }
