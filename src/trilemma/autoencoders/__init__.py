"""Autoencoders: encoders and decoders for latent models; see ``trilemma.autoencoders.base``."""

from trilemma.autoencoders.base import Autoencoder, Inferred, Latent, Normal
from trilemma.autoencoders.nvae import NVAE
from trilemma.autoencoders.pretrained import PretrainedAutoencoder
from trilemma.autoencoders.residual import ResidualVAE
from trilemma.autoencoders.table import TableVAE

__all__ = [
    "NVAE",
    "Autoencoder",
    "Inferred",
    "Latent",
    "Normal",
    "PretrainedAutoencoder",
    "ResidualVAE",
    "TableVAE",
]
