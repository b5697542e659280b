"""Training."""

from trilemma.training.ema import EMA
from trilemma.training.optim import Adam
from trilemma.training.trainer import Progress, Trainer

__all__ = ["EMA", "Adam", "Progress", "Trainer"]
