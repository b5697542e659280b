"""Forward diffusion processes."""

from trilemma.processes.base import LinearSDE, Posterior, Transition, act
from trilemma.processes.grid import uniform_grid
from trilemma.processes.vp import VP

__all__ = ["VP", "LinearSDE", "Posterior", "Transition", "act", "uniform_grid"]
