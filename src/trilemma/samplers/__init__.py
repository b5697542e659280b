"""Samplers: walks from the prior to data."""

from trilemma.samplers.ancestral import Ancestral
from trilemma.samplers.base import Sampler

__all__ = ["Ancestral", "Sampler"]
