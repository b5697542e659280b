"""Langevin diffusion: the authors' factors, drifts and priors, and 50-digit references."""

import math

import pytest
import torch
from oracles import below, golden_cld
from torch.distributions import Normal

from trilemma.errors import ConfigError
from trilemma.processes import CLD, VP, act

SETTINGS = {
    "cifar": {"beta_min": 4.0, "mass": 0.25},
    "celeba_post": {"beta_min": 0.1, "beta_max": 7.0, "mass": 0.25},
    "unit": {"beta_min": 2.0, "mass": 1.0, "init_velocity_scale": 1.0},
}
JITTER = {"cifar": 1e-9, "celeba_post": 1e-6, "unit": 1e-6}


def process_of(name, *, jitter=True):
    return CLD(**SETTINGS[name], jitter=JITTER[name] if jitter else 0.0)


def close(value, expected, *, atol=0.0, rtol=0.0):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


def rows(blocks):
    """The entries (xx, vx, vv) of symmetric or lower triangular blocks."""
    return torch.stack([blocks[..., 0, 0], blocks[..., 1, 0], blocks[..., 1, 1]], -1)


def kernel_of(name, objective, t, *, jitter=True):
    """Perturbation kernel; denoising score matching leaves the initial velocity out."""
    process = process_of(name, jitter=jitter)
    initial = None if objective == "hsm" else torch.zeros(2, 2, dtype=torch.float64)
    return process.marginal(t, initial_cov=initial)


# ------------------------------------------------------------------ recorded factors


@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_means_and_rates(name):
    file, process = below(golden_cld("a_factors"), f"{name}/"), process_of(name)
    t = file["t"]
    close(process.beta(t), file["beta"], atol=1e-14)
    close(process.beta_integral(0.0, t), file["beta_int"], atol=1e-14)
    close(process.transition(0.0, t).mean_matrix, file["psi"], atol=1e-14)
    close(process.diffusion_matrix(t)[:, 1, 1].square() / 2, file["loss_multiplier"], atol=1e-14)


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_covariances_and_their_factors(name, objective):
    """The authors' covariance has an absolute error of 1e-16, and where the position's variance
    is 1e-9 their factor keeps seven digits."""
    file = below(golden_cld("a_factors"), f"{name}/")
    kernel = kernel_of(name, objective, file["t"])
    expected = below(file, f"{objective}/")
    close(rows(kernel.cov), expected["var"], atol=1e-14)
    close(rows(kernel.chol()), expected["chol"], rtol=2e-7)
    close(-1 / kernel.chol()[:, 1, 1], expected["noise_multiplier"], rtol=1e-7)


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("name", SETTINGS)
def test_factors_of_fifty_digits(name, objective):
    """Without jitter, where the authors' formula has lost its digits."""
    file = below(golden_cld("a_factors"), f"{name}/")
    kernel = kernel_of(name, objective, file["t"], jitter=False)
    ell = 1 / kernel.chol()[:, 1:, 1]
    ours = [kernel.mean_matrix.flatten(1), rows(kernel.cov), rows(kernel.chol()), ell]
    close(torch.cat(ours, dim=1), file[f"{objective}/exact_noeps"], rtol=1e-10)


@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_covariances_from_other_starts(name):
    file, process = below(golden_cld("a_factors"), f"{name}/"), process_of(name)
    start = torch.diag(torch.tensor([0.3, 0.07], dtype=torch.float64))
    kernel = process.marginal(file["t"], initial_cov=start)
    close(rows(kernel.cov), file["var_general_x0.3_v0.07"], atol=1e-14)
    close(process.marginal(file["t"]).cov[:, 1, 1], file["mixed_var_vv"], atol=1e-14)


def test_recorded_factors_of_the_baseline():
    file, process = below(golden_cld("a_factors"), "vpsde/"), VP(0.1, 20.0)
    kernel = process.marginal(file["t"])
    close(kernel.mean_matrix[:, 0, 0], file["mean_coeff"], atol=1e-14)
    close(kernel.cov[:, 0, 0], file["var"], atol=1e-14)
    close(-1 / kernel.chol()[:, 0, 0], file["noise_multiplier"], rtol=1e-9)
    rate = process.diffusion_matrix(file["t"])[:, 0, 0].square() / 2
    close(rate, file["loss_multiplier"], atol=1e-14)


def test_every_factor_was_compared():
    names = set(golden_cld("a_factors"))
    each = {"t", "beta", "beta_int", "psi", "loss_multiplier", "mixed_var_vv"}
    each |= {"var_general_x0.3_v0.07"}
    parts = ("var", "chol", "noise_multiplier", "exact_noeps")
    each |= {f"{objective}/{part}" for objective in ("hsm", "dsm") for part in parts}
    expected = {f"{name}/{part}" for name in SETTINGS for part in each}
    vp = {"t", "mean_coeff", "var", "noise_multiplier", "loss_multiplier"}
    assert names == expected | {f"vpsde/{part}" for part in vp}


# ------------------------------------------------------------------- recorded drifts


@pytest.mark.parametrize("shape", ["2d", "img"])
@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_drifts(name, shape):
    """Forward, reverse and probability flow; reverse times count from the prior."""
    file, process = below(golden_cld("c_drifts"), f"{name}/{shape}/"), process_of(name)
    u, s = file["u"].unflatten(1, (2, -1)), file["s"]
    score = torch.stack([torch.zeros_like(file["score"]), file["score"]], dim=1)

    def check(kind, drift, diffusion):
        close(drift.flatten(1, 2), file[f"{kind}_drift"], atol=1e-13)
        close(diffusion.flatten(1, 2), file[f"{kind}_diffusion"], atol=1e-13)

    ones = torch.ones_like(u)
    check("fwd", act(process.drift_matrix(s), u), act(process.diffusion_matrix(s), ones))
    drift, diffusion = process.drift_matrix(1 - s), process.diffusion_matrix(1 - s)
    pull = act(diffusion @ diffusion.mT, score)
    check("rev", pull - act(drift, u), act(diffusion, ones))
    check("pf", pull / 2 - act(drift, u), torch.zeros_like(u))


@pytest.mark.parametrize("shape", ["2d", "img"])
@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_prior_densities(name, shape):
    file = below(golden_cld("c_drifts"), f"{name}/{shape}/")
    std = process_of(name).prior_cov().diagonal().sqrt()
    for half, part, scale in zip(file["u"].chunk(2, 1), ("x", "v"), std, strict=True):
        density = Normal(0.0, scale).log_prob(half).flatten(1).sum(1)
        close(density, file[f"prior_logp_{part}"], rtol=1e-13)


# ----------------------------------------------------------------------- its own laws


def test_the_mass_is_a_scale_of_velocity_and_time():
    """In (x, v / sqrt(M)) and the clock 2 B / sqrt(M) all critical processes are one."""
    t = torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64)
    unit = CLD(1.0, mass=1.0, friction=2.0).transition(0.0, t)
    for mass in (1 / 16, 0.25, 4.0):
        root = math.sqrt(mass)
        psi, cov = CLD(root, mass=mass).transition(0.0, t)
        scale = torch.tensor([1.0, root], dtype=torch.float64)
        close(psi * scale / scale[:, None], unit.mean_matrix, rtol=1e-13)
        close(cov / scale / scale[:, None], unit.cov, rtol=1e-13)


def test_damping():
    """Underdamped positions pass through zero, others never do."""
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    assert CLD().is_critical
    assert CLD(mass=1 / 16).friction == 0.5
    for friction, crosses in ((0.3, True), (1.0, False), (3.0, False)):
        signal = CLD(friction=friction).transition(0.0, t).mean_matrix[:, 0, 0]
        assert bool((signal < 0).any()) == crosses
        assert CLD(friction=friction).is_critical == (friction == 1.0)


def test_damping_is_continuous_at_the_critical_friction():
    critical = CLD().transition(0.1, 0.8)
    for friction in (1 - 1e-9, 1 + 1e-9):
        for near, at in zip(CLD(friction=friction).transition(0.1, 0.8), critical, strict=True):
            close(near, at, rtol=1e-7)


def test_a_constant_rate_is_a_linear_one_with_equal_ends():
    for mine, its in zip(CLD(4.0).marginal(0.3), CLD(4.0, 4.0).marginal(0.3), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"beta_min": -0.1}, "beta_min"),
        ({"beta_min": 0.0}, "beta_min"),
        ({"beta_min": float("nan")}, "beta_min"),
        ({"beta_max": -1.0}, "beta_max"),
        ({"mass": 0.0}, "mass"),
        ({"mass": -1.0}, "mass"),
        ({"friction": 0.0}, "friction"),
        ({"friction": -1.0}, "friction"),
        ({"init_velocity_scale": -0.1}, "init_velocity_scale"),
        ({"init_position_var": -1e-9}, "init_position_var"),
        ({"jitter": -1e-9}, "jitter"),
    ],
)
def test_errors_name_the_argument(arguments, name):
    with pytest.raises(ConfigError, match=name):
        CLD(**arguments)
