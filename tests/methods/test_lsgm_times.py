"""Times drawn by importance: against recorded numbers, and by what defines them."""

import math

import numpy as np
import pytest
import torch
from oracles import below, name_of
from test_lsgm_golden import EPS, golden, make

from trilemma.errors import ConfigError
from trilemma.methods import (
    EDMWeight,
    Importance,
    Likelihood,
    Reweighted,
    UniformTimes,
    UniformWeight,
)
from trilemma.processes import CLD, VE, VP, GeometricVP, LinearSDE, SubVP, Transition

WEIGHTS = {"ll": Likelihood(), "drop_all": UniformWeight(), "drop_sigma2t": Reweighted()}
PROCESSES = [
    VP(),
    VP(init_var=1e-3),
    SubVP(),
    VE(),
    VE(sigma_max=80.0, clock="linear"),
    GeometricVP(),
    CLD(),
    CLD(0.1, 7.0, friction=0.6, init_position_var=1e-4),
]
STARTED = [VP(init_var=1e-3), VP(init_var=1e-10), VE(), GeometricVP()]


def stratified(num):
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


def expected_error(process, t, data_var):
    """I - L^T S^-1 L by its definition, with the covariance S of Gaussian data's states."""
    kernel = process.marginal(t)
    psi, chol = kernel.mean_matrix[..., :1], kernel.chol()
    states = data_var * psi @ psi.mT + kernel.cov
    identity = torch.eye(process.num_blocks, dtype=torch.float64)
    return identity - chol.mT @ torch.linalg.solve(states, chol)


def weighted_error(weight, process, t, t_min, data_var):
    """tr(W R): what Gaussian data add to the loss at time t."""
    product = weight.matrix(process, t, t_min) @ expected_error(process, t, data_var)
    return product.diagonal(dim1=-2, dim2=-1).sum(-1)


def integrals(function, edges):
    """Integrals of a function between edges, 20 nodes on each interval."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(20))
    half = edges.diff()[:, None] / 2
    t = edges[:-1, None] + half * (nodes + 1)
    return (function(t.flatten()).view_as(t) * half * weights).sum(-1)


# ------------------------------------------------------------------ recorded numbers

MODES = [(name, mode) for name in golden("importance_sampling")[1] for mode in WEIGHTS]


def check_recorded(name, mode, kind, dtype):
    """Times, and weights W / q of the loss and of the likelihood at these times.

    The share s = V / (V + d m^2) of noise in the variance of the states is known to a few epsilon
    where it is computed as 1 - e^-B or inverted. Its odds s / (1 - s), which
    all weights follow, then lack eps / (s (1 - s)); their logarithm moves at the rate g^2 / V.
    """
    tensors, configs = golden("importance_sampling")
    config, weight = configs[name], WEIGHTS[mode]
    recorded = below(tensors, f"{name}/{dtype}/{mode}_{kind}/")
    if not recorded:
        assert (mode, kind) == ("drop_all", "iw")
        assert config["sde_type"] == "geometric_sde"
        return
    process, t_min, data_var = make(config), config["time_eps"], 1 - config["sigma2_0"]
    proposal = UniformTimes() if kind == "uniform" else Importance(weight, data_var=data_var)
    drawn_from = process
    if kind == "iw" and isinstance(process, SubVP):  # the reference's times are those of VP
        drawn_from = VP(process.beta_min, process.beta_max)
    draw = proposal.draw(drawn_from, tensors["rho"], t_min)
    factor = draw.ratio
    if kind == "iw":
        factor = factor * (1 - t_min)  # the integral over time instead of the mean
        if mode == "drop_all" and isinstance(process, VP):
            # the reference's norm has e^(c/2) for e^(beta_min c/2), c = beta_min / (their range)
            centre = process.beta_min / (process.beta_max - process.beta_min)
            factor = factor * math.exp(centre / 2 - process.beta_min * centre / 2)
    kernel = drawn_from.marginal(draw.t)
    noise, signal = kernel.cov[:, 0, 0], data_var * kernel.mean_matrix[:, 0, 0].square()
    share = noise / (noise + signal)
    rate = drawn_from.diffusion_matrix(draw.t)[:, 0, 0].square() / noise
    bound = 16 * EPS[dtype] / (share * (1 - share))
    assert ((draw.t - recorded["t"]).abs() <= EPS[dtype] + bound / rate).all()
    for given, key in ((weight, "obj_weight_t_p"), (Likelihood(), "obj_weight_t_q")):
        given = given.matrix(process, draw.t, t_min)[:, 0, 0] * factor
        assert ((given / recorded[key] - 1).abs() <= bound).all(), key
    if dtype == "f64":
        assert float(bound.max()) < 1e-9


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("kind", ["uniform", "iw"])
@pytest.mark.parametrize(("name", "mode"), MODES)
def test_recorded_times_and_weights(name, mode, kind, dtype):
    check_recorded(name, mode, kind, dtype)


# ------------------------------------------------------------------------ properties


@pytest.mark.parametrize("data_var", [1.0, 0.25])
@pytest.mark.parametrize("t_min", [1e-5, 1e-2])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=name_of)
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_gaussian_data_contribute_alike_at_all_times(process, weight, t_min, data_var):
    """The estimate is the loss itself at every time: no variance, and a density of integral 1."""

    def added(t):
        return weighted_error(weight, process, t, t_min, data_var)

    draw = Importance(weight, data_var=data_var).draw(process, stratified(200), t_min)
    given = draw.ratio * added(draw.t)
    early = torch.logspace(math.log10(t_min), 0, 200, dtype=torch.float64)
    early[0] = t_min
    edges = torch.cat([early, 1 - early[early < 0.5], torch.ones(1).double()]).unique()
    loss = integrals(added, edges).sum() / (1 - t_min)
    torch.testing.assert_close(given, loss.expand_as(given), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=name_of)
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_equal_shares_hold_equal_loss(process, weight):
    """The times at rho = i / n cut the loss of Gaussian data into n equal parts, and rise."""
    n, t_min = 400, 1e-5
    rho = torch.arange(n, dtype=torch.float64) / n
    t = Importance(weight).draw(process, rho, t_min).t
    assert float(t[0]) == t_min
    assert (t.diff() > 0).all()
    # the last part is cut again, since the loss may fall steeply there
    last = t[-1] + (1 - t[-1]) * (1 - torch.logspace(0, -8, 60, dtype=torch.float64))
    edges = torch.cat([t[:-1], last, torch.ones(1, dtype=torch.float64)])
    parts = integrals(lambda t: weighted_error(weight, process, t, t_min, 1.0), edges)
    parts = torch.cat([parts[: n - 1], parts[n - 1 :].sum()[None]])
    torch.testing.assert_close(parts, parts.mean().expand(n), rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=name_of)
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_estimate_is_unbiased_for_other_errors(process, weight):
    t_min = 1e-3
    draw = Importance(weight).draw(process, stratified(10_000), t_min)
    given = draw.ratio * weighted_error(weight, process, draw.t, t_min, 1.0)
    edges = torch.logspace(-3, 0, 200, dtype=torch.float64)
    edges[0], edges[-1] = t_min, 1.0
    for other in (lambda t: t / (t + 0.1), lambda t: 1 / (1 + 100 * t), torch.cos):
        expected = integrals(
            lambda t: other(t) * weighted_error(weight, process, t, t_min, 1.0),  # noqa: B023
            edges,
        ).sum() / (1 - t_min)
        assert float((other(draw.t) * given).mean()) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=name_of)
@pytest.mark.parametrize("process", STARTED, ids=repr)
def test_a_starting_variance_allows_times_from_zero(process, weight):
    rho = torch.cat([torch.zeros(1, dtype=torch.float64), stratified(50)])
    draw = Importance(weight).draw(process, rho, 0.0)
    assert float(draw.t[0]) < 1e-20
    assert (draw.t.diff() > 0).all()
    given = draw.ratio * weighted_error(weight, process, draw.t, 0.0, 1.0)
    torch.testing.assert_close(given, given.mean().expand_as(given), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("process", "weight", "message"),
    [
        (VP(), Likelihood(), "not finite at t=0, by Likelihood on VP"),
        (SubVP(), Likelihood(), "not finite at t=0"),
        (CLD(), Likelihood(), "not finite at t=0"),
        (VP(), EDMWeight(), "not finite at t=0"),
        (SubVP(), Reweighted(), "zero at t=0"),
    ],
    ids=lambda value: name_of(value) if not isinstance(value, str) else "",
)
def test_times_from_zero_need_a_density_there(process, weight, message):
    for data_var in (1.0, None):
        with pytest.raises(ConfigError, match=message):
            Importance(weight, data_var=data_var).draw(process, stratified(4), 0.0)


def test_velocities_that_know_nothing_of_the_datum_have_no_error_to_follow():
    """At t = 0 the noise of the velocity is predicted exactly, and other data's error is not."""
    process = CLD(init_position_var=1e-4)
    with pytest.raises(ConfigError, match="zero at t=0"):
        Importance(Likelihood()).draw(process, stratified(4), 0.0)
    assert Importance(Likelihood(), data_var=None).draw(process, stratified(4), 0.0).t[0] > 0


class Jump(LinearSDE):
    """Brownian motion whose rate falls from 1 to 1/64 at t = 1/3."""

    def drift_matrix(self, t):
        return torch.zeros_like(t)[..., None, None]

    def diffusion_matrix(self, t):
        return torch.where(t < 1 / 3, 1.0, 0.125).double()[..., None, None]

    def transition(self, s, t):
        s, t = self._ordered(s, t)
        cov = (t - s) - 63 / 64 * ((t - 1 / 3).clamp(min=0) - (s - 1 / 3).clamp(min=0))
        return Transition(torch.ones_like(cov)[..., None, None], cov[..., None, None])


def test_panels_resolve_a_jump():
    """Times by g^2 / 2, which is constant on both sides."""
    rho, early = stratified(1000), 1 / (1 + 1 / 32)
    t = Importance(Reweighted(), data_var=None).draw(Jump(), rho, 0.0).t
    expected = torch.where(rho < early, rho / early / 3, 1 - 2 / 3 * (1 - rho) / (1 - early))
    torch.testing.assert_close(t, expected, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("process", [VP(), GeometricVP(), CLD()], ids=repr)
def test_the_number_of_panels_is_only_a_start(process):
    few, many = (
        Importance(Likelihood(), num_panels=num).draw(process, stratified(500), 1e-5)
        for num in (3, 4096)
    )
    torch.testing.assert_close(few.t, many.t, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(few.ratio, many.ratio, rtol=1e-8, atol=0.0)


class Scaled(UniformWeight):
    """The uniform weight times a function of time."""

    def __init__(self, scale):
        self.scale = scale

    def matrix(self, process, t, t_min, kernel=None):
        return super().matrix(process, t, t_min) * self.scale(t)[..., None, None]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (lambda t: 1.5 + torch.sin(1e12 * t), "too rough at t="),
        (torch.zeros_like, "zero everywhere"),
        (lambda t: 1 - t, "zero at t=1,"),
        (lambda t: 1 / (t - 0.5), "not finite at t=0.5"),
    ],
)
def test_a_density_that_cannot_be_drawn_from_is_refused(scale, message):
    with pytest.raises(ConfigError, match=message):
        Importance(Scaled(scale), num_panels=6).draw(VP(1.0, 1.0), stratified(4), 0.0)


def test_a_weight_may_vanish_on_the_way():
    """No time falls where the weight is zero, at the ends or between."""
    weight = Scaled(lambda t: (t - 0.2).clamp(min=0) * (0.7 - t).clamp(min=0))
    rho = torch.cat([torch.zeros(1, dtype=torch.float64), stratified(500)])
    draw = Importance(weight, data_var=None).draw(VP(), rho, 1e-5)
    assert (draw.t > 0.2 - 1e-6).all()
    assert (draw.t < 0.7 + 1e-6).all()
    # a parabola on [0.2, 0.7]
    x = (draw.t - 0.2) / 0.5
    torch.testing.assert_close(x * x * (3 - 2 * x), rho, rtol=0.0, atol=1e-10)
