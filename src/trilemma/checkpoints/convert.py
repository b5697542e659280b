"""Turn the files that a method's authors published into model files of this package.

This is the only place that unpickles, and it does so with ``weights_only=True``: tensors, plain
containers and the one class ``argparse.Namespace``, which some files carry beside the weights.
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.checkpoints import official_cld, official_ddgan, official_lsgm
from trilemma.checkpoints.links import fill
from trilemma.checkpoints.official_cld import OFFICIAL_CLD
from trilemma.checkpoints.official_lsgm import OFFICIAL_LSGM
from trilemma.config import build_method, resolve
from trilemma.errors import CheckpointError, ConfigError, nearest
from trilemma.pipeline import Pipeline, load, save_pipeline

__all__ = [
    "OFFICIAL_CLD",
    "OFFICIAL_DDGAN",
    "OFFICIAL_LSGM",
    "convert_cld",
    "convert_ddgan",
    "convert_lsgm",
    "read_torch",
]

PAPER_TENSORS = 608
"""Tensors of the paper's network for faces; the later one has 936."""

_UNET256 = {"image_size": 256, "num_channels_dae": 64, "ch_mult": [1, 1, 2, 2, 4, 4], "n_mlp": 3}
_CODE = {"nz": 100, "z_emb_dim": 256}
OFFICIAL_DDGAN: dict[str, dict[str, Any]] = {
    "cifar10": {
        "image_size": 32,
        "num_channels_dae": 128,
        "ch_mult": [1, 2, 2, 2],
        "n_mlp": 4,
        "num_timesteps": 4,
        **_CODE,
    },
    "celebahq256": {**_UNET256, **_CODE, "num_timesteps": 2},
    "lsun-church": {**_UNET256, **_CODE, "num_timesteps": 4},
}
"""Arguments of the authors' published commands that differ from their defaults."""


def read_torch(path: Path | str) -> Any:
    """Read a file of ``torch.save`` without executing code from it.

    Raises:
        CheckpointError: if the file is missing, truncated, of another kind, or needs other
            classes.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # of bytes by chance
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"cannot read weights from {path}: {reason}") from error
    except Exception as error:  # foreign bytes, taken for a pickle's, end in almost anything
        raise CheckpointError(
            f"cannot read weights from {path}: it is no file of torch.save, or damaged"
        ) from error


def convert_ddgan(checkpoint: Path | str, config: str, out: Path | str) -> Pipeline:
    """Convert a generator of the authors of denoising diffusion GANs.

    Args:
        checkpoint: ``netG_*.pth`` (averaged weights) or ``content.pth`` (whose averages are
            recovered from the optimiser's state).
        config: "cifar10", "celebahq256", "lsun-church", or a JSON file of official arguments.
        out: model file to write.

    Returns:
        The model, as loaded from the new file.

    Raises:
        ConfigError: for an unknown configuration.
        CheckpointError: if the weights do not fit it.
    """
    _check_name(out)
    args = official_arguments(config, OFFICIAL_DDGAN)
    stored = _read_mapping(checkpoint)
    weights = _averaged(stored) if "netG_dict" in stored else dict(stored)
    entry = resolve({"method": official_ddgan.describe_method(args)})["method"]
    method: Any = build_method(entry)
    official_ddgan.fill_generator(method.generator, weights, args)
    card = {
        "summary": f"generator of the authors of denoising diffusion GANs, {Path(config).stem}",
        "source": "Xiao, Kreis, Vahdat, 2022; the weights keep their authors' licence",
    }
    save_pipeline(out, method, entry, method.generator.event_shape, card=card)
    return load(out)


def convert_cld(checkpoint: Path | str, config: str, out: Path | str) -> Pipeline:
    """Convert a score network of the authors of critically-damped Langevin diffusion.

    Args:
        checkpoint: ``checkpoint_*.pth``, whose averages are taken, or a plain state dict.
        config: "cifar10", "celebahq256" (whether the paper's network or the later one, its tensors
            tell), "celebahq256-paper", or a JSON file of official flags.
        out: model file to write.

    Returns:
        The model, as loaded from the new file: ``CLDSGM``, or ``DDPM`` for ``sde=vpsde``.

    Raises:
        ConfigError: for an unknown configuration.
        CheckpointError: if the weights do not fit it.
    """
    _check_name(out)
    flags = official_arguments(config, OFFICIAL_CLD)
    stored = _read_mapping(checkpoint)
    is_training = "model" in stored or "ema" in stored
    weights = official_cld.ema_state(stored) if is_training else dict(stored)
    if config == "celebahq256" and len(weights) == PAPER_TENSORS:
        config = "celebahq256-paper"
        flags = OFFICIAL_CLD[config]
    entry = official_cld.describe_method(official_cld.completed(flags, weights))
    entry = resolve({"method": entry})["method"]
    method: Any = build_method(entry)
    fill(method.network, official_cld.network_links(method.network), weights)
    card = {
        "summary": "score network of the authors of critically-damped Langevin diffusion, "
        f"{Path(config).stem}",
        "source": "Dockhorn, Vahdat, Kreis, 2022; the weights keep their authors' licence",
        "weights": "moving averages" if is_training else "as stored",
    }
    if isinstance(stored.get("step"), int):
        card["weights"] += f" after {stored['step']} steps"
    save_pipeline(out, method, entry, method.event_shape, card=card)
    return load(out)


def convert_lsgm(checkpoint: Path | str, config: str | None, out: Path | str) -> Pipeline:
    """Convert a latent score-based model of its authors, or its first stage alone.

    Args:
        checkpoint: a file of the second stage, ``checkpoint.pt`` (whose averages of the prior are
            taken from the optimiser's state), ``checkpoint_fid.pt`` or ``checkpoint_nll.pt`` (which
            hold averages); or one of the first stage.
        config: a name in ``OFFICIAL_LSGM``, a JSON file of official flags, or None for the flags
            that the file itself holds.
        out: model file to write.

    Returns:
        The model, as loaded from the new file: ``LSGM``, or ``VAE`` for a file without a prior.

    Raises:
        ConfigError: for an unknown configuration.
        CheckpointError: if parts are missing, or the weights do not fit the flags.
    """
    _check_name(out)
    stored = _read_mapping(checkpoint)
    weights = stored.get("vae_state_dict")
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{checkpoint} has no vae_state_dict: files of both stages have one")
    flags = _stored_flags(stored) if config is None else official_arguments(config, OFFICIAL_LSGM)
    has_prior = "dae_state_dict" in stored
    describe = official_lsgm.describe_method if has_prior else official_lsgm.describe_first_stage
    entry = resolve({"method": describe(flags)})["method"]
    method: Any = build_method(entry)
    official_lsgm.fill_autoencoder(method.autoencoder, weights)
    what, averaged = "first stage of a latent score-based model", ""
    if has_prior:
        official_lsgm.fill_prior(method.prior.network, official_lsgm.ema_state(stored))
        is_training = stored.get("dae_optimizer") is not None
        what = "latent score-based model"
        averaged = ", moving averages of the prior" if is_training else ", the prior as stored"
    card: dict[str, Any] = {
        "summary": f"{what} of its authors, {Path(config).stem if config else flags['dataset']}",
        "source": "Vahdat, Kreis, Kautz, 2021; the weights keep their authors' licence",
        "weights": f"autoencoder as stored{averaged}",
    }
    if flags["dataset"] in ("mnist", "omniglot"):
        card["pad"] = 2  # 28 pixels in 32
    if has_prior:
        card["sampling"] = "published with the probability flow: sampler ode, tolerance 1e-5"
    if isinstance(stored.get("global_step"), int):
        card["weights"] += f", after {stored['global_step']} steps"
    save_pipeline(out, method, entry, method.event_shape, card=card)
    return load(out)


def _stored_flags(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The official flags that a file holds."""
    args = stored.get("args")
    if isinstance(args, argparse.Namespace):
        return vars(args)
    if isinstance(args, Mapping):
        return dict(args)
    raise CheckpointError(
        f"the file holds no official flags 'args': give --config, one of {', '.join(OFFICIAL_LSGM)}"
        " or FILE.json"
    )


def official_arguments(config: str, published: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Official arguments by name, or from a JSON file.

    Raises:
        ConfigError: for an unknown name, or a file that is not a JSON object.
    """
    if config in published:
        return published[config]
    path = Path(config)
    if path.suffix != ".json":
        raise ConfigError(f"--config {config!r}: {nearest(config, published)}, or FILE.json")
    try:
        args = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read official arguments from {path}: {error}") from error
    if not isinstance(args, dict):
        raise ConfigError(f"{path} must hold a JSON object of official arguments")
    return args


def _check_name(out: Path | str) -> None:
    if Path(out).suffix != ".safetensors":
        raise ConfigError(f"-o {out}: a model file ends in .safetensors")


def _read_mapping(checkpoint: Path | str) -> Mapping[str, Any]:
    stored = read_torch(checkpoint)
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{checkpoint} holds a {type(stored).__name__}, not a state dict")
    return stored


def _averaged(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Averaged generator weights of a training checkpoint; raw ones where there is no average."""
    weights = dict(content["netG_dict"])
    state = content.get("optimizerG", {}).get("state", {})
    for position, name in enumerate(content["netG_dict"]):
        if "ema" in state.get(position, {}):
            weights[name] = state[position]["ema"]
    return weights
