r"""Time grids: decreasing float64 times, ``num_steps + 1`` points from the prior to the data.

====================  ==========================================================================
``uniform``           equal steps
``quadratic``         t_i = t_min + (t_max - t_min) (1 - i/N)^2, steps shrink towards the data
``root``              t_i = (sqrt(t_max) (1 - i/N) + sqrt(t_min) i/N)^2, the variant of gDDIM
``rho``               equal steps of sigma^(1/7), sigma the noise-to-signal ratio
``log_snr``           equal steps of the log signal-to-noise ratio
====================  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from trilemma.errors import ConfigError, nearest
from trilemma.processes.base import LinearSDE, check_range
from trilemma.typing import Times

__all__ = [
    "GRIDS",
    "log_snr_grid",
    "make_grid",
    "quadratic_grid",
    "rho_grid",
    "root_grid",
    "uniform_grid",
]


def _fractions(num_steps: int, t_min: float, t_max: float) -> Times:
    """i / N for i = 0..N, after checking the ends."""
    check_range("num_steps", num_steps, 1)
    check_range("t_min", t_min, 0.0, t_max)
    check_range("t_max", t_max, 0.0, 1.0)
    if t_min == t_max:
        raise ConfigError(f"t_min={t_min} must lie below t_max={t_max}")
    return torch.arange(num_steps + 1, dtype=torch.float64) / num_steps


def uniform_grid(num_steps: int, t_min: float = 1e-3, t_max: float = 1.0) -> Times:
    """Equidistant grid t_0 = t_max > ... > t_N = t_min, N = num_steps.

    With t_min = 1e-3 this is the grid of denoising diffusion GANs (Xiao et al., 2022): the step of
    index n goes from ``flip(grid)[n + 1]`` to ``flip(grid)[n]`` and clean data live at t_min. Their
    posterior coefficients come out only if the origin is t_min too, which is not the default:
    ``VP().posterior(grid[:-1], grid[1:], origin=1e-3)`` for ``grid = uniform_grid(T, 1e-3)``, the
    step of index T - 1 first.

    Raises:
        ConfigError: unless num_steps >= 1 and 0 <= t_min < t_max <= 1.
    """
    return t_min + (t_max - t_min) * _fractions(num_steps, t_min, t_max).flip(0)


def quadratic_grid(num_steps: int, t_min: float = 1e-3, t_max: float = 1.0) -> Times:
    """t_i = t_min + (t_max - t_min) (1 - i/N)^2 (Dockhorn et al., 2022, "quadratic striding")."""
    return t_min + (t_max - t_min) * _fractions(num_steps, t_min, t_max).flip(0).square()


def root_grid(num_steps: int, t_min: float = 1e-3, t_max: float = 1.0) -> Times:
    """Equal steps of sqrt(t) (Zhang, Tao, Chen, 2023)."""
    place = _fractions(num_steps, t_min, t_max)
    times = (t_max**0.5 * (1 - place) + t_min**0.5 * place).square()
    times[0], times[-1] = t_max, t_min
    return times


def rho_grid(
    process: LinearSDE, num_steps: int, t_min: float = 1e-3, t_max: float = 1.0, rho: float = 7.0
) -> Times:
    """Equal steps of sigma^(1/rho) (Karras et al., 2022, Eq. 5).

    sigma is the noise-to-signal ratio of the first block, the noise level itself where the signal
    keeps its size.

    Raises:
        ConfigError: unless num_steps >= 1, 0 <= t_min < t_max <= 1 and rho is positive and finite.
    """
    if not 0 < rho < math.inf:
        raise ConfigError(f"rho={rho} must be positive and finite; 7 is published")
    place = _fractions(num_steps, t_min, t_max)
    log_ends = -process.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64)) / 2
    ends = (log_ends / rho).exp()
    log_sigma = rho * (ends[0] * (1 - place) + ends[1] * place).log()
    return _at(process, -2 * log_sigma, t_min, t_max)


def log_snr_grid(
    process: LinearSDE, num_steps: int, t_min: float = 1e-3, t_max: float = 1.0
) -> Times:
    """Equal steps of the log signal-to-noise ratio of the first block."""
    place = _fractions(num_steps, t_min, t_max)
    ends = process.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64))
    return _at(process, ends[0] * (1 - place) + ends[1] * place, t_min, t_max)


def _at(process: LinearSDE, log_snr: Times, t_min: float, t_max: float) -> Times:
    """Times of given log signal-to-noise ratios, with exact ends."""
    times = process.time_of_log_snr(log_snr)
    times[0], times[-1] = t_max, t_min
    return times


GRIDS: dict[str, Callable[..., Times]] = {
    "uniform": uniform_grid,
    "quadratic": quadratic_grid,
    "root": root_grid,
    "rho": rho_grid,
    "log_snr": log_snr_grid,
}
"""Grids by name; the last two also take the process."""


def make_grid(
    name: str, process: LinearSDE, num_steps: int, t_min: float = 1e-3, t_max: float = 1.0
) -> Times:
    """Return the named grid for a process.

    Raises:
        ConfigError: for an unknown name, or unless num_steps >= 1 and 0 <= t_min < t_max <= 1.
    """
    key = name.replace("-", "_")
    if key not in GRIDS:
        raise ConfigError(f"there is no grid {name!r}; {nearest(key, GRIDS)}")
    grid = GRIDS[key]
    if grid in (rho_grid, log_snr_grid):
        return grid(process, num_steps, t_min, t_max)
    return grid(num_steps, t_min, t_max)
