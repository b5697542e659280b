"""Generative models with quality, coverage and speed: denoising diffusion GANs and their kin."""

from importlib.metadata import version as _version

from trilemma.pipeline import Pipeline, load

__all__ = ["Pipeline", "__version__", "load"]

__version__ = _version("trilemma")
