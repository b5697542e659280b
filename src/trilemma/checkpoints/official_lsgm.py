"""Read the weights that the authors of latent score-based models published.

A file of their second stage holds the state dicts of the autoencoder, ``vae_state_dict``, and of
the prior's network, ``dae_state_dict``, beside the official flags ``args``. While training, the
averages of the prior lie in the state of its optimiser, by the index of the parameter; in the
files chosen for quality or likelihood the state dict is averaged already. The autoencoder has no
average. ``load`` builds either network from a state dict and flags; ``OFFICIAL_LSGM`` holds those
of the published models, so does every file.

What the official training and sampling code does otherwise is not imitated: its mask of inactive
channels got lost on resuming (here it is a buffer), its coupled weight decay reopened closed
channels (``mixing_logit`` is never decayed here), its update in place broke algorithm 3 (here both
gradients come from one pass), and variances near t = 0 lost their digits in float32 (float64 here).
What belongs to trained weights travels with them: the Gaussian part of the mixed score assumes that
the variances of data and of the process's start sum to one (``data_var``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trilemma.autoencoders import NVAE
from trilemma.checkpoints.links import (
    Arguments,
    StateDict,
    export,
    fill,
    ncsnpp_links,
    pyramids,
    without_prefix,
)
from trilemma.checkpoints.nvae_links import nvae_aliases, nvae_links
from trilemma.errors import CheckpointError, nearest
from trilemma.methods.weighting import (
    Importance,
    Likelihood,
    Proposal,
    Rescaled,
    Reweighted,
    UniformTimes,
    UniformWeight,
    Weight,
)
from trilemma.networks import MixedScore, NCSNpp
from trilemma.processes import VE, VP, GeometricVP, LinearSDE, SubVP
from trilemma.typing import Times

__all__ = [
    "OFFICIAL_LSGM",
    "build_process",
    "describe_autoencoder",
    "describe_first_stage",
    "describe_method",
    "describe_prior",
    "describe_process",
    "ema_state",
    "export_state",
    "fill_autoencoder",
    "fill_prior",
    "load",
    "load_autoencoder",
    "load_prior",
    "time_weights",
]

_SIDES = {
    "mnist": 32,
    "omniglot": 32,
    "cifar10": 32,
    "imagenet_16": 16,
    "imagenet_32": 32,
    "celeba_64": 64,
    "celeba_256": 256,
    "ffhq": 256,
    "lsun_bedroom_128": 128,
    "lsun_church_256": 256,
}
_DEEP = {3: (1, 1, 1), 4: (1, 2, 2, 2), 5: (1, 1, 2, 2, 2)}
_WIDTHS = dict.fromkeys(("celeba_256", "ffhq", "lsun_church_256"), _DEEP)
_LIKELIHOODS = {
    "bin": "bernoulli",
    "dml": "logistic_mixture",
    "dl": "logistic",
    "normal": "normal",
}
_FREQUENCIES, _BLEND, _START = "temb_fun.w", "mixing_logit", "prior_ftr0"
_EARLIEST = 1e-9
"""Training time that stands for the published 0: losses agree to 1e-11 for a geometric variance."""
_CELLS = {"res_mbconv": "inverted", "res_bnswish": "residual"}
_WEIGHTS: dict[str, Callable[[], Weight]] = {
    "ll": Likelihood,
    "drop_all": UniformWeight,
    "drop_sigma2t": Reweighted,
}
_MODES = {
    f"{name}_{times}": (weight, times == "iw")
    for name, weight in _WEIGHTS.items()
    for times in ("uniform", "iw")
} | {"rescale_iw": (Rescaled, False)}
"""Weight of the prior's loss in an official mode, and whether times follow it."""

_COMMON: dict[str, Any] = {
    "use_se": True,
    "num_x_bits": 8,
    "log_sig_q_scale": 5.0,
    "num_nf": 0,
    "progressive_input_vae": "none",
    "embedding_dim": 128,
    "embedding_type": "positional",
    "embedding_scale": 1000.0,
    "num_cell_per_scale_dae": 8,
    "dropout": 0.2,
    "progressive": "none",
    "progressive_input": "none",
    "progressive_combine": "sum",
    "sde_type": "vpsde",
    "sigma2_0": 0.0,
    "beta_start": 0.1,
    "beta_end": 20.0,
    "time_eps": 0.01,
}
_GEOMETRIC = {
    "sde_type": "geometric_sde",
    "sigma2_0": 3e-5,
    "sigma2_min": 3e-5,
    "sigma2_max": 0.999,
    "time_eps": 0.0,
}
_BINARY = {
    "arch_instance": "res_mbconv",
    "decoder_dist": "bin",
    "num_latent_scales": 1,
    "num_latent_per_group": 20,
    "num_channels_enc": 64,
    "num_channels_dec": 64,
    "num_channels_dae": 256,
    "fir": False,
    "iw_sample_p": "ll_iw",
    "mixing_logit_init": -6.0,
}
_CIFAR10 = {
    "dataset": "cifar10",
    "ode_eps": 1e-6,
    "arch_instance": "res_bnswish",
    "decoder_dist": "dml",
    "num_latent_scales": 1,
    "channel_mult": [1, 2],
    "num_preprocess_blocks": 1,
    "num_postprocess_blocks": 1,
    "num_channels_dae": 512,
    "num_scales_dae": 3,
    "fir": True,
    "mixing_logit_init": -3.0,
}
_CIFAR10_FID = {
    **_CIFAR10,
    "num_channels_enc": 128,
    "num_channels_dec": 128,
    "num_preprocess_cells": 2,
    "num_postprocess_cells": 2,
    "num_groups_per_scale": 20,
    "num_latent_per_group": 9,
    "num_cell_per_cond_enc": 2,
    "num_cell_per_cond_dec": 2,
    "iw_sample_p": "drop_all_iw",
}
_CIFAR10_NLL = {
    **_CIFAR10,
    **_GEOMETRIC,
    "num_channels_enc": 256,
    "num_channels_dec": 256,
    "num_preprocess_cells": 3,
    "num_postprocess_cells": 3,
    "num_groups_per_scale": 4,
    "num_latent_per_group": 45,
    "num_cell_per_cond_enc": 3,
    "num_cell_per_cond_dec": 3,
    "num_nf": 2,
    "iw_sample_p": "ll_uniform",
}
_CELEBA = {
    "dataset": "celeba_256",
    "arch_instance": "res_mbconv",
    "decoder_dist": "dml",
    "num_x_bits": 5,
    "num_nf": 2,
    "progressive_input_vae": "input_skip",
    "num_latent_per_group": 20,
    "num_channels_enc": 64,
    "num_channels_dec": 64,
    "num_preprocess_blocks": 1,
    "num_postprocess_blocks": 1,
    "num_preprocess_cells": 2,
    "num_postprocess_cells": 2,
    "num_cell_per_cond_enc": 2,
    "num_cell_per_cond_dec": 2,
    "fir": True,
    "iw_sample_p": "drop_sigma2t_iw",
    "mixing_logit_init": -6.0,
}
OFFICIAL_LSGM: dict[str, dict[str, Any]] = {
    "mnist": {
        **_COMMON,
        **_BINARY,
        "dataset": "mnist",
        "channel_mult": [1, 2, 2],
        "num_preprocess_blocks": 2,
        "num_postprocess_blocks": 2,
        "num_preprocess_cells": 3,
        "num_postprocess_cells": 3,
        "num_groups_per_scale": 2,
        "num_cell_per_cond_enc": 1,
        "num_cell_per_cond_dec": 1,
        "num_scales_dae": 2,
    },
    "omniglot": {
        **_COMMON,
        **_BINARY,
        "dataset": "omniglot",
        "channel_mult": [1, 2],
        "num_preprocess_blocks": 1,
        "num_postprocess_blocks": 1,
        "num_preprocess_cells": 2,
        "num_postprocess_cells": 2,
        "num_groups_per_scale": 3,
        "num_cell_per_cond_enc": 3,
        "num_cell_per_cond_dec": 3,
        "num_scales_dae": 3,
    },
    "cifar10-fid": {**_COMMON, **_CIFAR10_FID},
    "cifar10-balanced": {**_COMMON, **_CIFAR10_FID},
    "cifar10-nll": {**_COMMON, **_CIFAR10_NLL},
    "celebahq256": {
        **_COMMON,
        **_CELEBA,
        "channel_mult": [1, 1, 2, 4],
        "num_latent_scales": 3,
        "num_groups_per_scale": 8,
        "num_channels_dae": 256,
        "num_scales_dae": 4,
    },
    "celebahq256-qualitative": {
        **_COMMON,
        **_CELEBA,
        "channel_mult": [1, 1, 2],
        "num_latent_scales": 2,
        "num_groups_per_scale": 10,
        "num_channels_dae": 320,
        "num_scales_dae": 5,
    },
}
"""Flags of the published models."""


def load(state: StateDict, config: Mapping[str, Any]) -> NVAE | MixedScore:
    """Return the official network that a state dict belongs to, in eval mode.

    The autoencoder is an ``NVAE``. The prior's network gives the raw prediction eps' as
    ``net(u, t)``, and the mixed one as ``gaussian + net(u, t, gaussian=gaussian)`` with gaussian =
    sigma u / (alpha^2 data_var + sigma^2); for VP without an initial variance that is sigma u.

    Args:
        state: official tensors, with or without the prefix ``module.``.
        config: official flags, by their names on the command line; see ``OFFICIAL_LSGM``.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape, or a flag does.
    """
    names = set(without_prefix(state))
    if _BLEND in names:
        return load_prior(state, config)
    if _START in names:
        return load_autoencoder(state, config)
    raise CheckpointError(
        "neither an autoencoder (a tensor 'prior_ftr0') nor a prior's network ('mixing_logit'): "
        "give vae_state_dict or dae_state_dict of the official file"
    )


def load_autoencoder(state: StateDict, config: Mapping[str, Any]) -> NVAE:
    """Return the official autoencoder in eval mode."""
    network = NVAE(**describe_autoencoder(config))
    return fill_autoencoder(network.to(_dtype(state)), state)


def load_prior(state: StateDict, config: Mapping[str, Any]) -> MixedScore:
    """Return the official network of the prior, with its blend, in eval mode."""
    channels = _blend(without_prefix(state)).numel()
    inner = NCSNpp(**describe_prior(config, channels))
    return fill_prior(MixedScore(inner, channels).to(_dtype(state)), state)


def fill_autoencoder(network: NVAE, state: StateDict) -> NVAE:
    """Fill an autoencoder with the official tensors, and put it in eval mode."""
    return fill(network, nvae_links(network), state, unused=nvae_aliases(network))


def fill_prior(network: MixedScore, state: StateDict) -> MixedScore:
    """Fill a prior's network and its blend with the official tensors; eval mode.

    Official evaluation has no mask of inactive channels, so all are active here.
    """
    official = without_prefix(state)
    logit = _blend(official)
    del official[_BLEND]
    if logit.shape != network.mixing_logit.shape:
        raise CheckpointError(
            f"{_BLEND} has {logit.numel()} channels, the flags describe "
            f"{network.mixing_logit.numel()}: groups times latents per group"
        )
    if _FREQUENCIES in official:
        official[_FREQUENCIES] = official[_FREQUENCIES].reshape(-1)  # a row there
    fill(_unet(network), ncsnpp_links(_unet(network), _FREQUENCIES), official)
    network.mixing_logit.data.copy_(logit)
    return network.eval()


def _blend(official: StateDict) -> Tensor:
    """The official blend [1, c, 1, 1]."""
    logit = official.get(_BLEND)
    if logit is None or logit.dim() != 4 or logit.numel() != logit.shape[1]:
        found = "is missing" if logit is None else f"has shape {list(logit.shape)}"
        raise CheckpointError(f"tensor {_BLEND!r} {found}; [1, c, 1, 1] is needed")
    return logit


def _unet(network: MixedScore) -> NCSNpp:
    assert isinstance(network.network, NCSNpp)
    return network.network


def _dtype(state: StateDict) -> torch.dtype:
    """Dtype of the weights, which is that of any tensor but a count."""
    return next(value.dtype for value in state.values() if value.is_floating_point())


def export_state(network: NVAE | MixedScore) -> dict[str, Tensor]:
    """Return the weights under their official names and layouts; the inverse of loading."""
    if isinstance(network, NVAE):
        found = export(network, nvae_links(network))
        return found | {alias: found[name] for alias, name in nvae_aliases(network).items()}
    found = export(_unet(network), ncsnpp_links(_unet(network), _FREQUENCIES))
    if _FREQUENCIES in found:
        found[_FREQUENCIES] = found[_FREQUENCIES][None]
    return {_BLEND: network.mixing_logit.detach(), **found}


def ema_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged state dict of the prior's network from a file of the second stage.

    The average of parameter i is ``dae_optimizer["state"][i]["ema"]``; parameters are numbered in
    the order of the state dict. The frequencies of a Fourier embedding are not trained and have no
    average. A file without an optimiser holds averages as they are.

    Raises:
        CheckpointError: if there is no prior, or averages do not fit it.
    """
    stored = checkpoint.get("dae_state_dict")
    if not isinstance(stored, Mapping):
        raise CheckpointError("the file has no dae_state_dict: a file of the second stage has one")
    state = without_prefix(stored)
    optimizer = checkpoint.get("dae_optimizer")
    if optimizer is None:
        return state
    moments = optimizer.get("state", {}) if isinstance(optimizer, Mapping) else {}
    trained = [name for name in state if name != _FREQUENCIES]
    if len(moments) != len(trained):
        raise CheckpointError(
            f"the checkpoint averages {len(moments)} tensors, its network trains {len(trained)}"
        )
    counts_all = set(moments) != set(range(len(trained)))
    for i, name in enumerate(state if counts_all else trained):
        if name == _FREQUENCIES:
            continue
        average = moments.get(i, {}).get("ema")
        if not isinstance(average, Tensor) or average.shape != state[name].shape:
            raise CheckpointError(f"there is no average of {name!r} in the optimiser's state")
        state[name] = average
    return state


def describe_autoencoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``NVAE`` that the official flags stand for."""
    get = Arguments(config)
    dataset = get.choice("dataset", _SIDES)
    law = get.choice("decoder_dist", _LIKELIHOODS)
    is_binary = law == "bin"
    pyramid = get.choice("progressive_input_vae", ("none", "input_skip"), "none")
    num_blocks = get.whole("num_preprocess_blocks")
    if num_blocks != get.whole("num_postprocess_blocks"):
        raise CheckpointError("num_preprocess_blocks and num_postprocess_blocks must agree")
    return {
        "image_size": _SIDES[dataset],
        "image_channels": 1 if dataset in ("mnist", "omniglot") else 3,
        "encoder_channels": get.whole("num_channels_enc"),
        "decoder_channels": get.whole("num_channels_dec"),
        "channel_mult": get.wholes("channel_mult", (1, 2)),
        "num_scales": get.whole("num_latent_scales", positive=True),
        "num_groups": get.whole("num_groups_per_scale"),
        "latent_channels": get.whole("num_latent_per_group"),
        "num_pre_blocks": num_blocks,
        "num_pre_cells": get.whole("num_preprocess_cells"),
        "num_post_cells": get.whole("num_postprocess_cells"),
        "encoder_cells": get.whole("num_cell_per_cond_enc"),
        "decoder_cells": get.whole("num_cell_per_cond_dec"),
        "cell": _CELLS[get.choice("arch_instance", _CELLS)],
        "squeeze_excite": get.flag("use_se", False),
        "num_flows": get.whole("num_nf", 0),
        "input_skip": pyramid == "input_skip",
        "log_std_bound": get.number("log_sig_q_scale", 5.0),
        "likelihood": _LIKELIHOODS[law],
        "bits": get.whole("num_x_bits", 8),
        "binarise": is_binary,
        "crop": 2 if is_binary else 0,
    }


def describe_prior(config: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return the arguments of ``NCSNpp`` that the official flags stand for.

    Args:
        config: official flags.
        channels: of the latents.
    """
    get = Arguments(config)
    dataset, depth = get.choice("dataset", _SIDES), get.whole("num_scales_dae")
    widths = _WIDTHS.get(dataset, {depth: (1,) * depth})
    if depth not in widths:
        raise CheckpointError(f"num_scales_dae={depth} with {dataset}: choose among {list(widths)}")
    halvings = (
        get.whole("num_preprocess_blocks") + get.whole("num_latent_scales", positive=True) - 1
    )
    embedding = get.choice("embedding_type", ("positional", "fourier"), "positional")
    scale = get.number("embedding_scale", 1000.0)
    return {
        "image_size": get.whole("input_size", _SIDES[dataset] >> halvings),
        "in_channels": channels,
        "channels": get.whole("num_channels_dae"),
        "channel_mult": list(widths[depth]),
        "num_res_blocks": get.whole("num_cell_per_scale_dae"),
        "attention_resolutions": [16],
        "dropout": get.number("dropout", 0.0),
        "resample": "fir" if get.flag("fir", False) else "mean",
        **pyramids(get),
        "time_embedding": "positional" if embedding == "positional" else "fourier_linear",
        "time_scale": scale if embedding == "positional" else 1.0,
        "fourier_scale": scale if embedding == "fourier" else 16.0,
        "embed_dim": get.whole("embedding_dim", 128),
    }


def describe_process(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration entry of the process that the official flags stand for."""
    get = Arguments(config)
    kind = get.choice("sde_type", ("vpsde", "geometric_sde", "sub_vpsde", "vesde"), "geometric_sde")
    start = get.number("sigma2_0", 0.0)
    if kind in ("vpsde", "sub_vpsde"):
        rates = {
            "beta_min": get.number("beta_start", 0.1),
            "beta_max": get.number("beta_end", 20.0),
        }
        name = "SubVP" if kind == "sub_vpsde" else "VP"
        return {"class_path": name, "init_args": {**rates, "init_var": start}}
    low = get.number("sigma2_min", 1e-4, positive=True)
    high = get.number("sigma2_max", 0.99, positive=True)
    if kind == "geometric_sde":
        variances = {"var_min": low, "var_max": high, "init_var": start}
        return {"class_path": "GeometricVP", "init_args": variances}
    if start != low:
        raise CheckpointError(f"vesde needs sigma2_0={start} to equal sigma2_min={low}")
    return {
        "class_path": "VE",
        "init_args": {"sigma_min": math.sqrt(low), "sigma_max": math.sqrt(high)},
    }


def build_process(config: Mapping[str, Any]) -> LinearSDE:
    """Return the process that the official flags ``sde_type``, ``sigma2_0``, ... stand for."""
    entry = describe_process(config)
    kinds: dict[str, Any] = {"VP": VP, "GeometricVP": GeometricVP, "SubVP": SubVP, "VE": VE}
    return kinds[entry["class_path"]](**entry["init_args"])


def describe_first_stage(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration entry of the ``VAE`` that the official flags stand for."""
    autoencoder = {"class_path": "NVAE", "init_args": describe_autoencoder(config)}
    return {"class_path": "VAE", "init_args": {"autoencoder": autoencoder}}


def describe_method(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration entry of the ``LSGM`` that the official flags stand for.

    Networks, process, weight and times; lengths, schedules and penalties stand in the recipes.
    """
    get, autoencoder = Arguments(config), describe_autoencoder(config)
    channels = autoencoder["num_groups"] * autoencoder["latent_channels"]
    kind, is_importance = _mode(get.choice("iw_sample_p", _MODES, "ll_uniform"))
    weight, process = type(kind).__name__, describe_process(config)
    if isinstance(kind, Rescaled) and process["class_path"] == "VE":
        raise CheckpointError(
            "iw_sample_p='rescale_iw' has negative weights under vesde: choose another mode"
        )
    data_var = 1.0 - get.number("sigma2_0", 0.0)
    proposal: dict[str, Any] = {"class_path": "UniformTimes"}
    if is_importance:
        arguments = {"weight": {"class_path": weight}, "data_var": data_var}
        proposal = {"class_path": "Importance", "init_args": arguments}
    blend = {
        "network": {"class_path": "NCSNpp", "init_args": describe_prior(config, channels)},
        "channels": channels,
        "logit": get.number("mixing_logit_init", -3.0),
    }
    prior = {
        "process": process,
        "network": {"class_path": "MixedScore", "init_args": blend},
        "mixed_score": True,
        "data_var": data_var,
        "weight": {"class_path": weight},
        "proposal": proposal,
        "t_min": get.number("time_eps", 0.01) or _EARLIEST,
    }
    return {
        "class_path": "LSGM",
        "init_args": {
            "autoencoder": {"class_path": "NVAE", "init_args": autoencoder},
            "prior": {"class_path": "DDPM", "init_args": prior},
            "sampling_t_min": get.number("ode_eps", 1e-5),
        },
    }


def time_weights(
    config: Mapping[str, Any], mode: str, uniform: Times
) -> tuple[Times, Times, Times]:
    r"""Return the official times and weights of the squared error for uniform numbers.

    In this package weight, proposal and process are independent (``trilemma.methods.weighting``);
    officially one mode names a combination. Uniform modes average over [time_eps, 1], importance
    modes integrate; ``rescale_iw`` is uniform in spite of its name. For ``drop_all_iw`` the
    official normaliser holds e^{k/2} where the integral has e^{beta_start k/2}, k = beta_start /
    (beta_end - beta_start); it is followed here, and here alone. So is ``rescale_iw`` under vesde,
    whose weight p = 1 / (2 (1 - sigma^2)) turns negative.

    Args:
        config: official flags of the process, and ``time_eps``.
        mode: official name, such as "ll_iw", "drop_all_uniform" or "drop_sigma2t_iw".
        uniform: uniform numbers rho (b).

    Returns:
        Times, the weight p of the prior's loss, and the weight q that makes the same samples an
        estimate of the cross entropy, each (b), float64.

    Raises:
        CheckpointError: for a mode that is not supported.
    """
    get, process = Arguments(config), build_process(config)
    weight, is_importance = _mode(mode)
    t_min, start = get.number("time_eps", 0.01), get.number("sigma2_0", 0.0)
    proposal: Proposal = UniformTimes()
    drawn_from = process
    if is_importance:
        proposal = Importance(weight, data_var=1.0 - start)
        if isinstance(process, SubVP):  # officially drawn as for VP
            drawn_from = VP(process.beta_min, process.beta_max, init_var=start)
    draw = proposal.draw(drawn_from, uniform, t_min)
    ratio = draw.ratio * ((1 - t_min) if is_importance else 1.0)
    if mode == "drop_all_iw" and isinstance(process, VP):
        k = process.beta_min / (process.beta_max - process.beta_min)
        ratio = ratio * math.exp(k / 2 - process.beta_min * k / 2)
    wanted = Likelihood().matrix(process, draw.t, t_min)[:, 0, 0]
    if isinstance(weight, Rescaled) and isinstance(process, VE):
        own = 0.5 / (1 - process.marginal(draw.t).cov[:, 0, 0])
    else:
        own = weight.matrix(process, draw.t, t_min)[:, 0, 0]
    return draw.t, own * ratio, wanted * ratio


def _mode(mode: str) -> tuple[Weight, bool]:
    """The prior's weight in an official mode, and whether times are drawn in proportion to it."""
    if mode not in _MODES:
        raise CheckpointError(f"iw_sample_p={mode!r} is not supported; {nearest(mode, _MODES)}")
    weight, is_importance = _MODES[mode]
    return weight(), is_importance
