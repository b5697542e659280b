"""Processes of one block beside VP: what their names promise, and what they refuse."""

import math

import pytest
import torch
from oracles import unchecked
from scipy.integrate import solve_ivp

from trilemma.errors import ConfigError
from trilemma.processes import VE, VP, GeometricVP, SubVP

T = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)


def entry(blocks):
    return blocks[..., 0, 0]


def close(value, expected, rtol=1e-12):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=0.0)


# --------------------------------------------------------------------------- sub-VP


@pytest.mark.parametrize("rates", [(0.1, 20.0), (1.0, 1.0), (0.0, 5.0)])
def test_sub_vp_has_the_square_of_the_variance(rates):
    sub, full = SubVP(*rates).marginal(T), VP(*rates).marginal(T)
    assert torch.equal(sub.mean_matrix, full.mean_matrix)
    close(sub.cov, full.cov.square())
    assert (sub.cov[1:] < full.cov[1:]).all()


def test_sub_vp_between_two_times():
    """Q = (1 - e^-(B_t - B_s)) (1 - e^-(B_t + B_s))."""
    process, s, t = SubVP(), 0.3, 0.7
    early, late = (float(process.beta_integral(0.0, x)) for x in (s, t))
    expected = (1 - math.exp(early - late)) * (1 - math.exp(-early - late))
    assert float(process.transition(s, t).cov) == pytest.approx(expected, rel=1e-13)


def test_sub_vp_starts_at_its_initial_variance():
    """(1 - e^-B)^2 + s0 e^-B, solved from d var / dt = -beta var + g^2 besides."""
    process = SubVP(0.1, 20.0, init_var=0.01)
    assert float(process.marginal(0.0).cov) == 0.01
    integral = process.beta_integral(0.0, T)
    expected = torch.expm1(-integral).square() + 0.01 * torch.exp(-integral)
    close(entry(process.marginal(T).cov), expected)
    path = solve_ivp(
        lambda t, var: (
            -float(process.beta(t)) * var
            + float(process.diffusion_matrix(torch.tensor(t, dtype=torch.float64))) ** 2
        ),
        (0.0, 1.0),
        [0.01],
        t_eval=T.numpy(),
        rtol=1e-10,
        atol=1e-14,
    )
    torch.testing.assert_close(torch.from_numpy(path.y[0]), expected, rtol=1e-8, atol=0.0)


def test_sub_vp_keeps_its_digits_at_small_times():
    for step in (1e-6, 1e-9):
        integral = 0.1 * step + 19.9 * step**2 / 2
        given = float(SubVP().marginal(step).cov)
        assert given == pytest.approx(math.expm1(-integral) ** 2, rel=1e-12)


# ------------------------------------------------------------------------------- VE


@pytest.mark.parametrize("clock", ["geometric", "linear"])
def test_ve_has_the_variance_of_its_noise_level(clock):
    process = VE(0.02, 30.0, clock=clock)
    kernel = process.marginal(T)
    close(entry(kernel.mean_matrix), torch.ones_like(T))
    close(entry(kernel.cov), process.sigma(T).square())
    assert float(process.prior_cov()) == 900.0
    assert float(process.sigma(1.0)) == pytest.approx(30.0, rel=1e-14)


def test_ve_clocks():
    geometric, linear = VE(0.01, 50.0), VE(sigma_max=50.0, clock="linear")
    ratio = geometric.sigma(T)[1:] / geometric.sigma(T)[:-1]
    close(ratio, torch.full_like(ratio, 5000 ** (1 / 20)))
    assert float(geometric.sigma(0.0)) == 0.01
    close(linear.sigma(T), 50 * T)
    assert float(geometric.initial_cov()) == pytest.approx(1e-4)
    assert float(linear.initial_cov()) == 0.0


def test_ve_keeps_its_digits_over_short_times():
    rate = 2 * math.log(5000)
    for step in (1e-7, 1e-10):
        given = float(VE(0.01, 50.0).transition(0.0, step).cov)
        assert given == pytest.approx(1e-4 * rate * step, rel=rate * step)
        given = float(VE(sigma_max=50.0, clock="linear").transition(0.0, step).cov)
        assert given == pytest.approx(2500 * step**2, rel=1e-13)


# --------------------------------------------------------------------- geometric VP


@pytest.mark.parametrize("init_var", [0.0, 3e-5, 1e-3])
def test_geometric_vp_has_the_prescribed_variance(init_var):
    process = GeometricVP(3e-5, 0.99, init_var=init_var)
    expected = 3e-5 * (0.99 / 3e-5) ** T - 3e-5 + init_var
    kernel = process.marginal(T)
    torch.testing.assert_close(entry(kernel.cov), expected, rtol=1e-10, atol=1e-17)
    torch.testing.assert_close(process.variance(T), expected, rtol=1e-10, atol=1e-17)
    signal = (1 - expected) / (1 - init_var)
    close(entry(kernel.mean_matrix).square(), signal, rtol=1e-10)


def test_geometric_vp_grows_geometrically():
    """With init_var = var_min the variance is var_min (var_max / var_min)^t itself."""
    process = GeometricVP(1e-4, 0.9, init_var=1e-4)
    variance = entry(process.marginal(T).cov)
    ratio = variance[1:] / variance[:-1]
    close(ratio, torch.full_like(ratio, 9000 ** (1 / 20)), rtol=1e-10)
    slope = process.beta(T) * (1 - process.variance(T))
    close(slope, variance * math.log(9000), rtol=1e-10)


@pytest.mark.parametrize("process", [VP(), VP(init_var=0.01), GeometricVP()], ids=repr)
def test_data_of_unit_total_variance_keep_it(process):
    """Data of variance 1 - Sigma_0, with the initial variance around them."""
    kernel, start = process.marginal(T), process.initial_cov()
    total = kernel.mean_matrix.square() * (1 - start) + kernel.cov
    close(total, torch.ones_like(total))


def test_vp_starts_at_its_initial_variance():
    process = VP(init_var=0.01)
    assert float(process.marginal(0.0).cov) == 0.01
    integral = process.beta_integral(0.0, T)
    expected = 0.01 * torch.exp(-integral) - torch.expm1(-integral)
    close(entry(process.marginal(T).cov), expected)


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SubVP(-0.1), "beta_min"),
        (lambda: SubVP(1.0, 0.5), "beta_max"),
        (lambda: SubVP(init_var=-0.1), "init_var"),
        (lambda: VP(init_var=-0.1), "init_var"),
        (lambda: VP(init_var=1.5), "init_var"),
        (lambda: unchecked(VE, clock="sine"), "clock"),
        (lambda: VE(0.0, 50.0), "sigma_min"),
        (lambda: VE(2.0, 1.0), "sigma_max"),
        (lambda: VE(1.0, float("inf")), "sigma_max"),
        (lambda: GeometricVP(0.0), "var_min"),
        (lambda: GeometricVP(0.5, 0.1), "var_max"),
        (lambda: GeometricVP(1e-4, 1.0), "var_max"),
        (lambda: GeometricVP(init_var=-1e-3), "init_var"),
        (lambda: GeometricVP(1e-4, 0.99, init_var=0.02), "init_var"),
    ],
)
def test_errors_name_the_argument(make, name):
    with pytest.raises(ConfigError, match=name):
        make()
