"""Methods: training algorithms with their networks."""

from trilemma.methods.base import Loss, Method
from trilemma.methods.cld import CLDSGM
from trilemma.methods.ddgan import DDGAN
from trilemma.methods.ddpm import DDPM
from trilemma.methods.edm import EDM
from trilemma.methods.kl import KLSchedule
from trilemma.methods.lsgm import LSGM
from trilemma.methods.vae import VAE
from trilemma.methods.weighting import (
    EDMWeight,
    Importance,
    Likelihood,
    LogNormal,
    Proposal,
    Rescaled,
    Reweighted,
    UniformTimes,
    UniformWeight,
    Weight,
)

__all__ = [
    "CLDSGM",
    "DDGAN",
    "DDPM",
    "EDM",
    "LSGM",
    "VAE",
    "EDMWeight",
    "Importance",
    "KLSchedule",
    "Likelihood",
    "LogNormal",
    "Loss",
    "Method",
    "Proposal",
    "Rescaled",
    "Reweighted",
    "UniformTimes",
    "UniformWeight",
    "Weight",
]
