r"""Autoencoders that others trained: any ``diffusers`` folder, frozen, as a latent space.

``AutoencoderKL`` has a normal posterior; its mean and deviation are multiplied by the folder's
scaling factor, which brings latents to about unit variance, and divided again before decoding.
``AutoencoderTiny`` gives one latent and no spread; a fixed, small one stands in, so that the
latents have a density. Neither has a law of the pixels: a Laplace law of fixed scale around the
decoded image makes reconstructions comparable and nothing more. Train a prior on it with
``LSGM(..., train_autoencoder=False)``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.autoencoders.base import Autoencoder, Normal
from trilemma.autoencoders.likelihoods import Laplace, Likelihood, full_precision
from trilemma.errors import CheckpointError, ConfigError, nearest
from trilemma.typing import Event

__all__ = ["PretrainedAutoencoder"]

KINDS = ("AutoencoderKL", "AutoencoderTiny")


class PretrainedAutoencoder(Autoencoder):
    """A frozen autoencoder in the format of ``diffusers``.

    Args:
        folder: folder with ``config.json`` and a safetensors file, or a Hub name; None where
            ``architecture`` is given and weights come later, as from a model file.
        image_size: side of the images in pixels, divisible by the autoencoder's factor.
        architecture: content of ``config.json``; read from the folder by default.
        latent_std: standard deviation of latents without one, > 0.
        pixel_scale: scale of the Laplace law of the pixels, > 0.

    Raises:
        ConfigError: without the extra ``diffusers``, or for a size or kind that does not fit.
        CheckpointError: if the folder cannot be read.
    """

    def __init__(
        self,
        folder: str | None,
        image_size: int,
        *,
        architecture: dict[str, Any] | None = None,
        latent_std: float = 0.05,
        pixel_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if not (latent_std > 0 and pixel_scale > 0):
            raise ConfigError(f"latent_std={latent_std} and pixel_scale={pixel_scale} must be > 0")
        if folder is None and architecture is None:
            raise ConfigError("an architecture is needed where there is no folder")
        described = read_architecture(folder) if architecture is None else architecture
        kind = _kind(described)
        self.network: Any = (
            kind.from_config(described) if folder is None else _load(kind, folder)
        ).requires_grad_(False)
        config = self.network.config
        is_tiny = described["_class_name"] == "AutoencoderTiny"
        widths = config.encoder_block_out_channels if is_tiny else config.block_out_channels
        factor = 2 ** (len(widths) - 1)
        if image_size % factor:
            raise ConfigError(f"image_size={image_size} must be divisible by {factor}")
        self.is_tiny = is_tiny
        self.scale = float(config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)
        self.latent_std, self.pixel_scale = latent_std, pixel_scale
        self.event_shape = (config.in_channels, image_size, image_size)
        side = image_size // factor
        self.latent_shape = (config.latent_channels, side, side)

    @staticmethod
    def portable(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return constructor arguments that need no folder, for a file that holds the weights."""
        if arguments.get("folder") is None:
            return dict(arguments)
        architecture = arguments.get("architecture") or read_architecture(arguments["folder"])
        return {**arguments, "folder": None, "architecture": architecture}

    def train(self, mode: bool = True) -> PretrainedAutoencoder:
        """Stay in eval mode: the autoencoder is frozen."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> PretrainedAutoencoder:
        """Stay without gradients: the autoencoder is frozen."""
        return super().requires_grad_(False)

    def encode(self, x: Event) -> Normal:
        """Scaled mean and log standard deviation."""
        if self.is_tiny:
            mean = self.network.encode(x).latents
            log_std = torch.full_like(mean, math.log(self.latent_std))
        else:
            law = self.network.encode(x).latent_dist
            mean, log_std = law.mean, law.logvar / 2
        mean, log_std = full_precision(mean), full_precision(log_std)
        return Normal((mean - self.shift) * self.scale, log_std + math.log(self.scale))

    def decode(self, z: Tensor, others: Sequence[Tensor] = ()) -> Likelihood:
        """A Laplace law of fixed scale around the decoded image."""
        image = self.network.decode(z / self.scale + self.shift).sample
        return Laplace(torch.cat([image, torch.full_like(image, math.log(self.pixel_scale))], 1))


def read_architecture(folder: str | None) -> dict[str, Any]:
    """Read ``config.json`` of a local folder, or of a Hub name.

    Raises:
        CheckpointError: if there is none, or it is not JSON.
    """
    path = Path(str(folder)) / "config.json"
    try:
        if not path.parent.is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(folder), "config.json"))
        found = json.loads(path.read_text())
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(
            f"cannot read config.json of the autoencoder {folder}: {str(error).splitlines()[0]}"
        ) from error
    return {key: value for key, value in found.items() if key != "_name_or_path"}


def _kind(described: Mapping[str, Any]) -> Any:
    """The class of ``diffusers`` that an architecture names."""
    name = described.get("_class_name", "")
    if name not in KINDS:
        raise ConfigError(f"autoencoder {name!r} is not supported; {nearest(name, KINDS)}")
    try:
        import diffusers
    except ImportError as error:
        raise ConfigError(
            "pretrained autoencoders need diffusers: pip install 'trilemma[diffusers]'"
        ) from error
    return getattr(diffusers, name)


def _load(kind: Any, folder: str) -> Any:
    """Weights from a safetensors file; pickles are refused."""
    try:
        return kind.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot load the autoencoder {folder}: {str(error).splitlines()[0]}"
        ) from error
