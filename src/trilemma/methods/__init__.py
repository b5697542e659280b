"""Training methods."""

from trilemma.methods.base import Loss, Method
from trilemma.methods.ddgan import DDGAN

__all__ = ["DDGAN", "Loss", "Method"]
