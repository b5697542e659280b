"""Weights at their formulas; proposals with exact densities."""

import numpy as np
import pytest
import torch
from oracles import name_of

from trilemma.errors import ConfigError
from trilemma.methods import (
    EDMWeight,
    Importance,
    Likelihood,
    LogNormal,
    Rescaled,
    Reweighted,
    UniformTimes,
    UniformWeight,
)
from trilemma.processes import CLD, VE, VP, GeometricVP, SubVP

PROCESSES = [
    VP(),
    VP(init_var=1e-3),
    SubVP(),
    VE(),
    VE(sigma_max=80.0, clock="linear"),
    GeometricVP(),
    CLD(),
    CLD(0.1, 7.0, jitter=1e-6),
]
ONE_BLOCK = [p for p in PROCESSES if p.num_blocks == 1]
BELOW_ONE = [p for p in ONE_BLOCK if float(p.prior_cov()) == 1]
WEIGHTS = [UniformWeight(), Reweighted(), Likelihood()]
PAIRS = [(process, weight) for process in PROCESSES for weight in WEIGHTS]
PAIRS += [(process, Rescaled()) for process in BELOW_ONE]
T = torch.tensor([1e-4, 0.01, 0.3, 0.8, 1.0], dtype=torch.float64)


def stratified(num):
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


def close(value, expected, rtol=1e-9, atol=0.0):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


def trace(weight, process, t, t_min):
    return weight.matrix(process, t, t_min).diagonal(dim1=-2, dim2=-1).sum(-1)


def mean_over_time(function, t_min):
    """Integral over [t_min, 1], divided by its length, on panels that shrink to both ends."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.geomspace(t_min, 0.5, 100)
    edges = np.concatenate([edges, 1 - np.geomspace(0.5, 1e-9, 100)[1:], [1.0]])
    half = np.diff(edges)[:, None] / 2
    t = torch.from_numpy((edges[:-1, None] + half * (nodes + 1)).ravel())
    return float((function(t) * torch.from_numpy((half * weights).ravel())).sum()) / (1 - t_min)


# --------------------------------------------------------------------------- weights


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_weights_of_the_noise(process):
    chol, diffusion = process.marginal(T).chol(), process.diffusion_matrix(T)
    power = diffusion @ diffusion.mT
    inverse = torch.linalg.inv(chol)
    identity = torch.eye(process.num_blocks, dtype=torch.float64).expand_as(power)
    assert torch.equal(UniformWeight().matrix(process, T, 1e-5), identity)
    close(Reweighted().matrix(process, T, 1e-5), power / 2)
    likelihood = Likelihood().matrix(process, T, 1e-5)
    expected = inverse @ power @ inverse.mT / 2
    assert ((likelihood - expected).abs() <= 1e-9 * expected.abs().amax((1, 2), True)).all()


def test_rescaled_errors_of_normal_data_are_alike():
    """Exact predictions of noise in normal data err by 1 - sigma^2, where the process keeps them.

    By conditioning: eps given u = alpha x + sigma eps has the variance 1 - sigma^2 / Var u.
    """
    assert {type(process) for process in BELOW_ONE} == {VP, SubVP, GeometricVP}
    for process in BELOW_ONE:
        kernel = process.marginal(T)
        weight = Rescaled().matrix(process, T, 1e-5)
        close(weight, 0.5 / (1 - kernel.cov))
        assert torch.equal(Rescaled().matrix(process, T, 1e-5, kernel), weight)
        start = process.init_var
        power = kernel.mean_matrix.square() * (1 - start)
        error = 1 - kernel.cov / (kernel.cov + power)
        if not isinstance(process, SubVP):
            close(weight * error, torch.full_like(weight, 0.5))


@pytest.mark.parametrize("process", [VE(), CLD()], ids=repr)
def test_rescaling_needs_one_block_and_a_variance_below_one(process):
    with pytest.raises(ConfigError, match=r"Rescaled needs one block and a variance below 1"):
        Rescaled().matrix(process, T, 1e-5)


def test_the_likelihood_of_one_block_counts_the_speed_of_the_noise_level():
    """g^2 / (2 sigma^2) = d ln(sigma / alpha) / dt."""
    for process in ONE_BLOCK:
        t = T[1:-1].clone().requires_grad_()
        (slope,) = torch.autograd.grad((-process.log_snr(t) / 2).sum(), t)
        close(Likelihood().matrix(process, t, 1e-5)[:, 0, 0].detach(), slope, rtol=1e-8)


@pytest.mark.parametrize("t_min", [1e-5, 1e-2])
@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
def test_the_weight_of_edm_follows_its_noise_levels(process, t_min):
    """Together with the log-normal proposal it is (s^2 + sd^2) / sd^2."""
    weight = EDMWeight(0.7, log_mean=-0.8, log_std=1.5)
    draw = LogNormal(-0.8, 1.5).draw(process, stratified(200), t_min)
    ratio = torch.exp(-process.log_snr(draw.t) / 2)
    given = weight.matrix(process, draw.t, t_min)[:, 0, 0] * draw.ratio
    close(given, (ratio.square() + 0.49) / 0.49)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: EDMWeight(0.0), "sigma_data"),
        (lambda: EDMWeight(log_std=0.0), "log_std"),
        (lambda: LogNormal(log_std=-1.0), "log_std"),
        (lambda: Importance(UniformWeight(), num_panels=1), "num_panels"),
        (lambda: Importance(UniformWeight(), data_var=0.0), "data_var"),
    ],
)
def test_errors_name_the_argument(make, name):
    with pytest.raises(ConfigError, match=name):
        make()


# ------------------------------------------------------------------------- proposals


def test_uniform_times():
    r = torch.tensor([0.0, 0.25, 1 - 2.0**-53], dtype=torch.float64)
    draw = UniformTimes().draw(VP(), r, 0.2)
    close(draw.t, torch.tensor([0.2, 0.4, 1.0], dtype=torch.float64))
    assert torch.equal(draw.ratio, torch.ones_like(r))


@pytest.mark.parametrize(
    "proposal", [UniformTimes(), LogNormal(), Importance(Likelihood())], ids=name_of
)
def test_times_are_float64_whatever_the_uniform_numbers_are(proposal):
    r = stratified(5).float()
    draw, expected = (proposal.draw(VP(), x, 1e-2) for x in (r, r.double()))
    for given, wanted in zip(draw, expected, strict=True):
        assert given.dtype == torch.float64
        assert torch.equal(given, wanted)


@pytest.mark.parametrize("t_min", [1e-5, 1e-2])
@pytest.mark.parametrize(("process", "weight"), PAIRS, ids=name_of)
def test_importance_is_unbiased(process, weight, t_min):
    """E_q[ratio f] = mean of f over time, for what the weight multiplies."""
    draw = Importance(weight, data_var=None).draw(process, stratified(20_000), t_min)
    assert float(draw.t.min()) >= t_min
    assert float(draw.t.max()) <= 1.0
    assert (draw.ratio > 0).all()
    for error in (torch.ones_like, lambda t: t / (t + 0.1), lambda t: 1 / (1 + 100 * t)):
        given = draw.ratio * trace(weight, process, draw.t, t_min) * error(draw.t)
        expected = mean_over_time(lambda t: trace(weight, process, t, t_min) * error(t), t_min)  # noqa: B023
        assert float(given.mean()) == pytest.approx(expected, rel=1e-3)


FLATTENED = [
    (process, weight)
    for process in PROCESSES
    for weight in [*WEIGHTS, *([EDMWeight()] if process.num_blocks == 1 else [])]
]
FLATTENED += [(process, Rescaled()) for process in BELOW_ONE]


@pytest.mark.parametrize(("process", "weight"), FLATTENED, ids=lambda part: type(part).__name__)
def test_importance_flattens_its_weight(process, weight):
    draw = Importance(weight, data_var=None).draw(process, stratified(10_000), 1e-5)
    flat = trace(weight, process, draw.t, 1e-5) * draw.ratio
    assert float(flat.std() / flat.mean()) < 1e-12


def test_times_rise_with_their_uniform_numbers():
    r = torch.cat([stratified(1000), torch.tensor([1 - 2.0**-53], dtype=torch.float64)])
    for proposal in (UniformTimes(), LogNormal(), Importance(Likelihood())):
        t = proposal.draw(VP(), r, 1e-5).t
        assert (t.diff() > 0).all()
        assert 1e-5 <= float(t[0]) < float(t[-1]) <= 1.0


def test_one_table_serves_several_processes_and_ends():
    shared = Importance(Likelihood())
    for process in (VP(), CLD(), VP(1.0, 1.0)):
        for t_min in (1e-5, 1e-2):
            given = shared.draw(process, stratified(10), t_min)
            expected = Importance(Likelihood()).draw(process, stratified(10), t_min)
            assert torch.equal(given.t, expected.t)


def test_a_table_belongs_to_a_process_and_not_to_its_place_in_memory():
    shared, first = Importance(Likelihood()), VP(0.1, 1.0)
    shared.draw(first, stratified(10), 1e-5)
    place, others = id(first), []
    del first
    while len(others) < 1000 and place not in map(id, others):
        others.append(VP(0.1, 40.0))
    given = shared.draw(others[-1], stratified(10), 1e-5)
    expected = Importance(Likelihood()).draw(others[-1], stratified(10), 1e-5)
    assert torch.equal(given.t, expected.t)


@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
def test_log_normal_noise_levels(process):
    """ln(sigma / alpha) is normal between the levels of the process, and the density exact."""
    levels, r, t_min = LogNormal(-1.0, 1.4), stratified(500), 1e-3
    draw = levels.draw(process, r, t_min)
    ends = torch.tensor([t_min, 1.0], dtype=torch.float64)
    share = torch.special.ndtr((-process.log_snr(torch.cat([ends, draw.t])) / 2 + 1.0) / 1.4)
    close((share[2:] - share[0]) / (share[1] - share[0]), r, rtol=1e-7)
    close(draw.ratio * levels.density(process, draw.t, t_min), torch.ones_like(r))
    whole = mean_over_time(lambda t: levels.density(process, t, t_min), t_min)
    assert whole == pytest.approx(1.0, rel=1e-6)


def test_log_normal_noise_levels_need_one_block():
    with pytest.raises(ConfigError, match="one block"):
        LogNormal().draw(CLD(), stratified(4), 1e-3)
