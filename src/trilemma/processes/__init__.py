"""Forward diffusion processes."""

from trilemma.processes.base import LinearSDE, Posterior, Transition, act
from trilemma.processes.cld import CLD
from trilemma.processes.geometric import GeometricVP
from trilemma.processes.grid import (
    GRIDS,
    log_snr_grid,
    make_grid,
    quadratic_grid,
    rho_grid,
    uniform_grid,
)
from trilemma.processes.sub_vp import SubVP
from trilemma.processes.ve import VE
from trilemma.processes.vp import VP

__all__ = [
    "CLD",
    "GRIDS",
    "VE",
    "VP",
    "GeometricVP",
    "LinearSDE",
    "Posterior",
    "SubVP",
    "Transition",
    "act",
    "log_snr_grid",
    "make_grid",
    "quadratic_grid",
    "rho_grid",
    "uniform_grid",
]
