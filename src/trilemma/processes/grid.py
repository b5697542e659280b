"""Time grids: decreasing float64 times, ``num_steps + 1`` points from the prior to the data."""

import torch

from trilemma.errors import ConfigError
from trilemma.processes.base import check_range
from trilemma.typing import Times

__all__ = ["uniform_grid"]


def uniform_grid(num_steps: int, t_min: float = 1e-3, t_max: float = 1.0) -> Times:
    """Equidistant grid t_0 = t_max > ... > t_N = t_min, N = num_steps.

    With t_min = 1e-3 this is the grid of denoising diffusion GANs (Xiao et al., 2022): the step of
    index n goes from ``flip(grid)[n + 1]`` to ``flip(grid)[n]`` and clean data live at t_min.

    Raises:
        ConfigError: unless num_steps >= 1 and 0 <= t_min < t_max <= 1.
    """
    check_range("num_steps", num_steps, 1)
    check_range("t_min", t_min, 0.0, t_max)
    check_range("t_max", t_max, 0.0, 1.0)
    if t_min == t_max:
        raise ConfigError(f"t_min={t_min} must lie below t_max={t_max}")
    steps = torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps
    return t_min + (t_max - t_min) * steps
