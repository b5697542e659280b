"""Optimisers and learning rates, one description per phase.

The learning rate is a pure function of the images seen, so a resumed run needs no scheduler state
and a change of batch size keeps its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trilemma.errors import ConfigError

__all__ = ["LARGEST", "Adam"]

LARGEST = 1e30
"""Largest learning rate: a float32 holds it, and its product with a step."""


@dataclass(frozen=True)
class Adam:
    """Adam, AdamW or Adamax with warm-up and cosine decay.

    lr(n) = final_lr + (lr - final_lr) (1 + cos(pi n / decay_images)) / 2 at n images seen, with n
    rounded down to a multiple of ``decay_every``, flat at ``final_lr`` afterwards and multiplied
    by min(1, n / warmup_images); constant where ``decay_images`` is 0.

    Args:
        lr: learning rate, > 0 and at most ``LARGEST``.
        adam_betas: decay rates of the moments, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay; 0 is plain Adam. Coupled, added to the gradient, with
            ``maximum``. Parameters marked ``no_decay`` are left out.
        maximum: Adamax, whose second moment is a decaying maximum.
        decay_images: images after which the cosine ends; 0 keeps the rate constant.
        decay_every: images between two changes of the rate; 1 changes it at every step.
        final_lr: rate at the end of the cosine.
        warmup_images: images of linear warm-up.
        clip_norm: bound of the gradient's global norm; 0 does not clip.

    Raises:
        ConfigError: for values outside their range.
    """

    lr: float
    adam_betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_images: int = 0
    decay_every: int = 1
    final_lr: float = 0.0
    warmup_images: int = 0
    clip_norm: float = 0.0
    maximum: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lr <= LARGEST or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ConfigError(
                f"lr={self.lr} must be > 0, at most {LARGEST:g}, and adam_betas={self.adam_betas} "
                "in [0, 1)"
            )
        if not min(self.weight_decay, self.clip_norm, self.final_lr, self.eps) >= 0:
            raise ConfigError(
                f"weight_decay={self.weight_decay}, clip_norm={self.clip_norm}, "
                f"final_lr={self.final_lr} and eps={self.eps} must be >= 0"
            )
        if self.decay_every < 1 or min(self.decay_images, self.warmup_images) < 0:
            raise ConfigError("decay_every must be >= 1, decay_images and warmup_images >= 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of these parameters at the initial rate."""
        kind: Any = torch.optim.AdamW if self.weight_decay else torch.optim.Adam
        everything = list(parameters)
        groups: list[Any] = everything
        exempt = [p for p in everything if getattr(p, "no_decay", False)]
        if exempt and self.weight_decay:
            others = [p for p in everything if not getattr(p, "no_decay", False)]
            groups = [{"params": others}, {"params": exempt, "weight_decay": 0.0}]
        return (torch.optim.Adamax if self.maximum else kind)(
            groups,
            lr=self.lr,
            betas=(float(self.adam_betas[0]), float(self.adam_betas[1])),
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def rate(self, images: int) -> float:
        """Learning rate after ``images`` images were seen."""
        warm = min(1.0, images / self.warmup_images) if self.warmup_images else 1.0
        if not self.decay_images:
            return self.lr * warm
        done = min(images - images % self.decay_every, self.decay_images) / self.decay_images
        return warm * (
            self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2
        )
