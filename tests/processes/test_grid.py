"""Time grids: exact ends, order, and the formula of each."""

import pytest
import torch

from trilemma.errors import ConfigError
from trilemma.processes import (
    CLD,
    GRIDS,
    VE,
    VP,
    GeometricVP,
    SubVP,
    log_snr_grid,
    make_grid,
    quadratic_grid,
    rho_grid,
)
from trilemma.processes.grid import root_grid

PROCESSES = [VP(), SubVP(), VE(), VE(sigma_max=80.0, clock="linear"), GeometricVP(), CLD()]
PROCESSES += [CLD(0.1, 7.0, jitter=1e-6), CLD(friction=3.0)]

OSCILLATING = CLD(friction=0.3)
"""Its signal passes through zero, so a noise level stands for several times."""


def place(num_steps):
    return torch.arange(num_steps + 1, dtype=torch.float64) / num_steps


def close(value, expected, rtol=1e-13):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("process", [*PROCESSES, OSCILLATING], ids=repr)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_between_exact_ends(name, process):
    for num_steps, t_min, t_max in ((1, 1e-3, 1.0), (7, 1e-5, 1.0), (50, 1e-3, 1.0), (5, 0.1, 0.7)):
        grid = make_grid(name, process, num_steps, t_min, t_max)
        assert grid.dtype == torch.float64
        assert grid.shape == (num_steps + 1,)
        assert float(grid[0]) == t_max
        assert float(grid[-1]) == t_min
        assert (grid.diff() < 0).all()


@pytest.mark.parametrize("name", ["uniform", "quadratic", "root"])
def test_grids_in_time_may_reach_zero(name):
    grid = make_grid(name, VP(), 4, 0.0)
    assert float(grid[-1]) == 0.0
    assert (grid.diff() < 0).all()


def test_quadratic_grid():
    close(quadratic_grid(8, 1e-3, 0.9), 1e-3 + 0.899 * (1 - place(8)) ** 2)


def test_root_grid():
    close(root_grid(8, 1e-3, 0.9), (0.9**0.5 * (1 - place(8)) + 1e-3**0.5 * place(8)) ** 2)
    steps = root_grid(8, 1e-3, 0.9).sqrt().diff()
    close(steps, steps[:1].expand(8))


def test_rho_grid_has_the_noise_levels_of_its_paper():
    """sigma_i = (sigma_max^(1/7) + i/N (sigma_min^(1/7) - sigma_max^(1/7)))^7."""
    process, high, low = VE(sigma_max=80.0, clock="linear"), 80.0, 0.002
    grid = rho_grid(process, 17, low / high, 1.0)
    expected = (high ** (1 / 7) + place(17) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    close(process.sigma(grid), expected, rtol=1e-11)
    straight = rho_grid(process, 17, low / high, 1.0, rho=1.0)
    close(process.sigma(straight), high + place(17) * (low - high), rtol=1e-11)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_log_snr_grid_has_equal_steps(process):
    levels = process.log_snr(log_snr_grid(process, 10, 1e-2))
    assert (levels.diff() > 0).all()
    close(levels.diff(), (levels[-1] - levels[0]).expand(10) / 10, rtol=1e-8)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_rho_grid_has_equal_steps_of_the_root_of_the_ratio(process):
    roots = (-process.log_snr(rho_grid(process, 10, 1e-2)) / 14).exp()
    close(roots.diff(), (roots[-1] - roots[0]).expand(10) / 10, rtol=1e-8)


def test_names_may_have_hyphens():
    assert torch.equal(make_grid("log-snr", VP(), 4), make_grid("log_snr", VP(), 4))


def test_unknown_grids_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"quadratics.*quadratic"):
        make_grid("quadratics", VP(), 4)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [((0,), "num_steps"), ((4, -0.1), "t_min"), ((4, 0.6, 0.5), "t_min"), ((4, 0.1, 1.5), "t_max")],
)
def test_errors_name_the_argument(name, arguments, culprit):
    with pytest.raises(ConfigError, match=culprit):
        make_grid(name, VP(), *arguments)
