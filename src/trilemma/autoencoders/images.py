"""The end of every image autoencoder: which law the pixels have, and in which form they come."""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.autoencoders.likelihoods import ImageLikelihood, likelihood_named
from trilemma.errors import ConfigError
from trilemma.rng import Rng
from trilemma.typing import Event

__all__ = ["ImageLaw"]


class ImageLaw:
    """Turns a decoder's output into a law, and images into what the law speaks of.

    Args:
        likelihood: name of the law.
        channels: of the images.
        bits: colour depth, 1 to 8; images are rounded down to it.
        binarise: draw every pixel black or white, with its brightness as the probability.
        crop: border of the images, in pixels, that the likelihood leaves out.

    Raises:
        ConfigError: for an unknown law, a depth outside 1 to 8, or a law of binary data alone.
    """

    def __init__(
        self,
        likelihood: str,
        channels: int,
        *,
        bits: int = 8,
        binarise: bool = False,
        crop: int = 0,
    ) -> None:
        self.kind = likelihood_named(likelihood)
        if not 1 <= bits <= 8 or crop < 0:
            raise ConfigError(f"bits={bits} must lie in 1..8 and crop={crop} be >= 0")
        if likelihood == "bernoulli" and not binarise:
            raise ConfigError("likelihood='bernoulli' speaks of black and white: set binarise=True")
        self.bits, self.binarise, self.crop = bits, binarise, crop
        self.num_parameters = self.kind.num_parameters(channels, bits)

    def prepare(self, x0: Event, rng: Rng) -> Event:
        """Images (b, c, h, w) in [-1, 1] at the colour depth, or black and white."""
        if self.binarise:
            share = torch.special.ndtr(rng.normal(*x0.shape[1:]).double()).to(x0.device)
            return torch.where(share < (x0.double() + 1) / 2, 1.0, -1.0).to(x0)
        if self.bits == 8:
            return x0
        byte = ((x0 + 1) * 127.5).round()
        level = torch.floor(byte / 2 ** (8 - self.bits))
        return 2 * level / (2**self.bits - 1) - 1

    def __call__(self, parameters: Tensor) -> ImageLikelihood:
        """The law that a decoder's output (b, num_parameters, h, w) stands for."""
        law = self.kind(parameters, self.bits)
        return Cropped(law, self.crop) if self.crop else law


class Cropped(ImageLikelihood):
    """A law of the inner part of an image; the border is drawn but not counted.

    Args:
        law: law of the whole image.
        border: rows and columns at every side that do not count.
    """

    def __init__(self, law: ImageLikelihood, border: int) -> None:
        self.law, self.border = law, border
        self.is_discrete = law.is_discrete  # type: ignore[misc]

    def log_probs(self, x: Event) -> Tensor:
        """Log-probabilities of the inner part."""
        inner = slice(self.border, -self.border)
        return self.law.log_probs(x)[..., inner, inner]

    def num_dims(self, x: Event) -> int:
        """Numbers inside the border."""
        return x[0, :, self.border : -self.border, self.border : -self.border].numel()

    @property
    def mean(self) -> Event:
        """Mean of the whole image."""
        return self.law.mean

    def sample(self, rng: Rng) -> Event:
        """Draw the whole image."""
        return self.law.sample(rng)
