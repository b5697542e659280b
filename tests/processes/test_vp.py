"""The VP process: its own formulas, and the coefficients of the reference implementation."""

import math

import pytest
import torch
from oracles import below, golden

from trilemma.errors import ConfigError
from trilemma.processes import VP, Transition, uniform_grid

STEPS = [1, 2, 4, 8]


class ReferenceRounding(VP):
    """VP whose steps on a grid have the reference's float32 variances.

    The reference rounds each beta to float32 and goes on from there. Where beta is almost one
    this loses digits of 1 - beta: at T = 1 the terminal scale moves by 1.7e-6. With the rounded
    betas as the truth, the base class's marginals and posteriors must reproduce all its tensors.
    """

    def __init__(self, num_steps):
        super().__init__(0.1, 20.0)
        self.times = uniform_grid(num_steps).flip(0)
        exact = VP(0.1, 20.0).transition(self.times[:-1], self.times[1:])
        self.betas = exact.cov[:, 0, 0].float().double()

    def transition(self, s, t):
        s, t = self._ordered(s, t)
        logs = torch.cat([torch.zeros(1, dtype=torch.float64), (-self.betas).log1p().cumsum(0)])
        late, early = (torch.searchsorted(self.times, x.contiguous()) for x in (t, s))
        integral = (logs[late] - logs[early])[..., None, None]
        return Transition((integral / 2).exp(), -integral.expm1())


def close(value, expected, *, atol=1e-6, rtol=0.0):
    torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("num_steps", STEPS)
def test_forward_coefficients_of_the_reference(num_steps):
    expected = below(golden("coefficients"), f"T{num_steps}/")
    times = uniform_grid(num_steps).flip(0)
    close(times, expected["time_schedule"], atol=1e-7)

    exact = VP(0.1, 20.0)
    step = exact.transition(times[:-1], times[1:])
    close(step.cov[:, 0, 0], expected["betas"][1:], atol=6e-8)
    close(step.chol()[:, 0, 0], expected["sigmas"][1:], atol=6e-8)

    process = ReferenceRounding(num_steps)
    step = process.transition(times[:-1], times[1:])
    close(step.mean_matrix[:, 0, 0], expected["a_s"][1:])
    marginal = process.marginal(times, float(times[0]))
    close(marginal.mean_matrix[:, 0, 0], expected["a_s_cum"])
    close(marginal.chol()[:, 0, 0], expected["sigmas_cum"])
    assert expected["sigmas_cum"][0] == 0
    assert expected["a_s_cum"][0] == 1


@pytest.mark.parametrize("num_steps", STEPS)
def test_exact_coefficients_differ_from_the_reference_by_its_rounding_alone(num_steps):
    expected = below(golden("coefficients"), f"T{num_steps}/")
    times = uniform_grid(num_steps).flip(0)
    marginal = VP(0.1, 20.0).marginal(times, float(times[0]))
    close(marginal.mean_matrix[:, 0, 0], expected["a_s_cum"], atol=2e-6)
    close(marginal.chol()[:, 0, 0], expected["sigmas_cum"])
    posterior = VP(0.1, 20.0).posterior(times[1:], times[:-1], float(times[0]))
    close(posterior.on_origin[:, 0, 0], expected["posterior/posterior_mean_coef1"])
    close(posterior.on_later[:, 0, 0], expected["posterior/posterior_mean_coef2"], atol=2e-6)
    close(posterior.cov[:, 0, 0], expected["posterior/posterior_variance"])


@pytest.mark.parametrize("num_steps", STEPS)
def test_posterior_coefficients_of_the_reference(num_steps):
    expected = below(golden("coefficients"), f"T{num_steps}/posterior/")
    process = ReferenceRounding(num_steps)
    early, late, origin = process.times[:-1], process.times[1:], float(process.times[0])
    step = process.transition(early, late)
    scale = process.marginal(late, origin).mean_matrix[:, 0, 0]
    posterior = process.posterior(late, early, origin)
    ours = {
        "betas": step.cov[:, 0, 0],
        "alphas": step.mean_matrix[:, 0, 0].square(),
        "alphas_cumprod": scale.square(),
        "alphas_cumprod_prev": process.marginal(early, origin).mean_matrix[:, 0, 0].square(),
        "posterior_variance": posterior.cov[:, 0, 0],
        "sqrt_alphas_cumprod": scale,
        "sqrt_recip_alphas_cumprod": 1 / scale,
        "sqrt_recipm1_alphas_cumprod": (1 / scale.square() - 1).sqrt(),
        "posterior_mean_coef1": posterior.on_origin[:, 0, 0],
        "posterior_mean_coef2": posterior.on_later[:, 0, 0],
        "posterior_log_variance_clipped": posterior.cov[:, 0, 0].clamp(min=1e-20).log(),
    }
    assert set(ours) == set(expected)
    for name, value in ours.items():
        reaches_152 = name.startswith("sqrt_recip") or name.endswith("clipped")
        close(value, expected[name], rtol=2e-6 if reaches_152 else 0.0)


def test_every_coefficient_tensor_was_compared():
    names = {name.split("/", 1)[1] for name in golden("coefficients")}
    forward = {"time_schedule", "betas", "sigmas", "a_s", "a_s_cum", "sigmas_cum"}
    assert {name for name in names if not name.startswith("posterior/")} == forward


def test_data_of_unit_variance_keep_it():
    kernel = VP().transition(0.0, torch.linspace(0.0, 1.0, 11, dtype=torch.float64))
    total = kernel.mean_matrix.square() + kernel.cov
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-14, atol=0)


def test_small_intervals_do_not_cancel():
    """The covariance of a tiny step is beta dt, to first order, with all its digits."""
    process = VP(0.1, 20.0)
    for step in (1e-6, 1e-9, 1e-12):
        cov = float(process.transition(0.0, step).cov)
        assert cov == pytest.approx(0.1 * step + (19.9 - 0.01) * step**2 / 2, rel=1e-9, abs=0)


def test_beta_and_its_integral():
    process = VP(0.2, 10.2)
    assert float(process.beta(0.5)) == pytest.approx(5.2)
    assert float(process.beta_integral(0.0, 1.0)) == pytest.approx(5.2)
    assert float(process.beta_integral(0.25, 0.5)) == pytest.approx(0.25 * 3.95)
    assert float(process.transition(0.0, 1.0).mean_matrix) == pytest.approx(math.exp(-2.6))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-0.1, 20.0), "beta_min"), ((1.0, 0.5), "beta_max"), ((0.0, 0.0), "beta_max")],
)
def test_errors_name_the_argument(arguments, name):
    with pytest.raises(ConfigError, match=name):
        VP(*arguments)
