"""Processes refuse times out of [0, 1] and values out of range, and let rounding pass."""

import math

import pytest
import torch
from oracles import BareVP

from trilemma.errors import ConfigError
from trilemma.processes import CLD, VE, VP, GeometricVP, SubVP, rho_grid, uniform_grid
from trilemma.processes.base import ROUNDING, as_times

PROCESSES = [
    VP(),
    VP(0.0, 5.0, init_var=0.01),
    SubVP(),
    VE(),
    VE(sigma_max=80.0, clock="linear"),
    GeometricVP(),
    CLD(),
    CLD(0.0, 7.0, friction=0.3, jitter=1e-6),
]
IDS = [f"{type(process).__name__}-{i}" for i, process in enumerate(PROCESSES)]
BEYOND = [-1.0, -1e-5, 1 + 1e-5, 1.5, math.inf, -math.inf, math.nan]
CALLS = {
    "drift_matrix": lambda process, t: process.drift_matrix(t),
    "diffusion_matrix": lambda process, t: process.diffusion_matrix(t),
    "transition to": lambda process, t: process.transition(0.0, t),
    "transition from": lambda process, t: process.transition(t, 1.0),
    "marginal": lambda process, t: process.marginal(t),
    "origin": lambda process, t: process.marginal(1.0, t),
    "carried_cov": lambda process, t: process.carried_cov(t),
    "log_snr": lambda process, t: process.log_snr(t),
    "posterior to": lambda process, t: process.posterior(1.0, t),
    "posterior from": lambda process, t: process.posterior(t, 0.0),
    "posterior origin": lambda process, t: process.posterior(1.0, 0.5, t),
    "equilibrium_reversal": lambda process, t: process.equilibrium_reversal(t, 0.0),
}


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("process", [*PROCESSES, BareVP()], ids=[*IDS, "BareVP"])
def test_times_beyond_the_ends_are_refused(process, name):
    """Alone, and as one among many: the message names it, in one line.

    A process that gives F and G alone is asked for these by the base class, at times of its own.
    """
    call = CALLS[name]
    for t in [] if isinstance(process, BareVP) and name.endswith("_matrix") else BEYOND:
        for times in (float64(t)[0], float64(*[0.5] * 50, t)):
            with pytest.raises(ConfigError, match=r"in time.*\[0, 1\]") as caught:
                call(process, times)
            assert f"t={t} " in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["beta", "beta_integral", "variance", "sigma"])
def test_rates_and_levels_are_refused_too(name):
    owners = {"beta": [VP(), SubVP(), GeometricVP(), CLD()], "beta_integral": [VP(), CLD()]}
    owners |= {"variance": [GeometricVP()], "sigma": [VE(), VE(clock="linear")]}
    for process in owners[name]:
        call = getattr(process, name)
        for t in BEYOND:
            with pytest.raises(ConfigError, match="in time"):
                call(0.0, t) if name == "beta_integral" else call(t)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_rounding_at_the_ends_passes_as_the_end(process):
    """The root of a rate that is zero at t = 0 would be no number a rounding before it."""
    for end, rounded in ((0.0, -1e-16), (0.0, -1e-7), (1.0, 1 + 2e-16), (1.0, 1 + 1.2e-7)):
        for name in ("drift_matrix", "diffusion_matrix", "marginal"):
            method = getattr(process, name)
            found, expected = method(float64(rounded)), method(float64(end))
            pairs = zip(found, expected, strict=True)
            assert all(torch.equal(x, y) for x, y in pairs), (name, rounded)
    assert all(torch.isfinite(x).all() for x in process.marginal(1 + 1e-9))
    assert torch.equal(
        process.transition(1 + 1e-9, 1.0).cov, torch.zeros_like(process.initial_cov())
    )


def test_times_inside_are_not_touched():
    """Bit by bit, at the ends and near zero, and as what a gradient flows through."""
    t = float64(0.0, 5e-324, 1e-300, 1e-12, 0.3, math.nextafter(1.0, 0.0), 1.0)
    assert as_times(t) is t
    assert as_times(0.1).item() == 0.1
    assert as_times(1).dtype == torch.float64
    assert as_times(torch.zeros(0)).shape == (0,)
    t = float64(0.0, 0.5, 1.0).requires_grad_()
    (slope,) = torch.autograd.grad(VP().beta(t).sum(), t)
    assert torch.equal(slope, torch.full_like(t, 19.9))


@pytest.mark.parametrize(
    "name", ["uniform_grid of 7", "float32 counted back", "float32 accumulated"]
)
def test_times_that_loops_make_pass(name):
    """Grids as samplers have them, and what float32 arithmetic makes of them."""
    times = {
        "uniform_grid of 7": uniform_grid(7, 0.0),
        "float32 counted back": 1 - torch.arange(1001, dtype=torch.float32) / 1000,
        "float32 accumulated": sum([torch.tensor(0.1)] * 10),
    }[name]
    assert torch.isfinite(VP(0.0, 5.0).diffusion_matrix(times)).all()
    if name == "float32 accumulated":
        assert 1 < float(times) < 1 + ROUNDING  # the case is one


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_times_out_of_order_are_named(process):
    s, t = float64(*[0.1] * 40, 0.75), float64(*[0.5] * 41)
    with pytest.raises(ConfigError, match=r"forward in time.*s=0\.75, t=0\.5$"):
        process.transition(s, t)
    with pytest.raises(ConfigError, match=r"forward in time.*s=0\.75, t=0\.5$"):
        process.equilibrium_reversal(t, s)
    with pytest.raises(ConfigError, match=r"back in time.*s=t=0\.5$"):
        process.posterior(t, float64(*[0.1] * 40, 0.5))
    with pytest.raises(ConfigError, match=r"forward in time.*s=0\.6, t=0\.5$"):
        process.posterior(1.0, 0.5, 0.6)


@pytest.mark.parametrize("bad", [math.inf, math.nan, -math.inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[(kind, name) for kind in (VP, SubVP) for name in ("beta_min", "beta_max", "init_var")],
        *[(VE, name) for name in ("sigma_min", "sigma_max")],
        *[(GeometricVP, name) for name in ("var_min", "var_max", "init_var")],
        *[(CLD, name) for name in ("beta_min", "beta_max", "mass", "friction", "jitter")],
        *[(CLD, name) for name in ("init_velocity_scale", "init_position_var")],
    ],
)
def test_values_that_are_not_finite_are_refused(kind, name, bad):
    with pytest.raises(ConfigError, match=f"{name}={bad}"):
        kind(**{name: bad})


@pytest.mark.parametrize("kind", [VP, SubVP])
def test_no_process_starts_at_its_stationary_variance(kind):
    """[0, 1): at 1 nothing would be left of the data."""
    with pytest.raises(ConfigError, match=r"init_var=1\.0 .*\[0, 1\)"):
        kind(init_var=1.0)
    assert float(kind(init_var=math.nextafter(1.0, 0.0)).marginal(1.0).cov) <= 1


@pytest.mark.parametrize("rho", [0.0, -7.0, math.inf, math.nan])
def test_grids_without_meaning_are_refused(rho):
    with pytest.raises(ConfigError, match=f"rho={rho}"):
        rho_grid(VE(), 4, rho=rho)
