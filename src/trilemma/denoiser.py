"""Denoisers: what samplers see of a network.

A sampler asks for the clean data behind a diffused state and never learns how the network was
parametrised. Every denoiser counts its network calls here, in one place (``nfe``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from trilemma.errors import ConfigError
from trilemma.processes import LinearSDE
from trilemma.rng import Rng
from trilemma.typing import Labels, State, Times

__all__ = ["Denoiser", "GeneratorDenoiser"]


class Denoiser(ABC):
    """A network seen through its process: estimates of clean data, and a count of calls."""

    process: LinearSDE
    nfe: int = 0
    """Network evaluations per sample since the last reset."""

    @abstractmethod
    def x0(self, u: State, t: Times, rng: Rng) -> State:
        """Estimate, or for implicit models draw, the clean state behind u at time t.

        Args:
            u: diffused states (b, k, *event).
            t: one time for the whole batch, 0-dimensional float64.
            rng: source of latent codes.
        """


class GeneratorDenoiser(Denoiser):
    """Draws clean data from a conditional generator G(u_t, step, code).

    Args:
        generator: network with a ``code_dim``, trained on the steps of ``grid``.
        process: forward process.
        grid: increasing times of the training grid; step n goes from grid[n + 1] to grid[n].
        label: class labels (b), if the generator is conditional.
    """

    def __init__(
        self,
        generator: nn.Module,
        process: LinearSDE,
        grid: Times,
        label: Labels | None = None,
    ) -> None:
        self.generator, self.process, self.grid, self.label = generator, process, grid, label
        self.steps = {float(time): n for n, time in enumerate(grid[1:])}

    def x0(self, u: State, t: Times, rng: Rng) -> State:
        """Draw clean states with a fresh code.

        Raises:
            ConfigError: for a time at which the generator was not trained.
        """
        if float(t) not in self.steps:
            raise ConfigError(f"the generator denoises at times {list(self.steps)}, not {float(t)}")
        code = rng.normal(int(self.generator.code_dim))  # type: ignore[arg-type]
        step = torch.full((len(u),), self.steps[float(t)], device=u.device)
        self.nfe += 1
        return self.generator(u[:, 0], step, code.to(u), self.label)[:, None].to(u)
