"""Laws of every sampler: calls, purity, single steps, orders, and exactness on Gaussian data."""

import inspect
import math
from functools import cache

import pytest
import torch
from oracles import (
    BasisRng,
    ExactDenoiser,
    ExactScore,
    GaussianData,
    Mixture,
    affine_law,
    bayes_posterior,
    examples,
    unchecked,
)
from scipy.integrate import solve_ivp

from trilemma.denoiser import GeneratorDenoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.networks import PointGenerator
from trilemma.networks.point_score import PointScore
from trilemma.parametrisation import VelocityNoise
from trilemma.processes import (
    CLD,
    VE,
    VP,
    GeometricVP,
    LinearSDE,
    SubVP,
    quadratic_grid,
    uniform_grid,
)
from trilemma.processes.base import cholesky
from trilemma.rng import SampleRng
from trilemma.samplers import (
    GDDIM,
    ODE,
    SSCS,
    Ancestral,
    DPMSolver,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Sampler,
)

PROCESSES = {
    "vp": VP(),
    "sub-vp": SubVP(),
    "ve": VE(0.01, 10.0),
    "ve-linear": VE(0.01, 3.0, clock="linear"),
    "geometric": GeometricVP(1e-2, 0.9, init_var=1e-2),
    "cld": CLD(),
    "cld-linear": CLD(0.1, 7.0),
    "cld-under": CLD(friction=0.5),
    "cld-over": CLD(friction=2.0),
}
SAMPLERS = {
    "ancestral": Ancestral(),
    "ancestral, forward": Ancestral(variance="forward"),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "two corrections": PredictorCorrector(num_corrections=2, snr=0.3),
    "heun": Heun(),
    "heun, churn": Heun(churn=5.0),
    "heun, much churn": Heun(churn=5.0, churn_scale=1.1),
    "euler": ODE(solver="euler"),
    "midpoint": ODE(solver="midpoint"),
    "rk4": ODE(solver="rk4"),
    "sscs": SSCS(),
    "sscs, reference clock": SSCS(reference_clock=True),
    "gddim 1": GDDIM(num_history=1),
    "gddim 2": GDDIM(num_history=2),
    "gddim 3": GDDIM(num_history=3),
    "gddim 2, cholesky": GDDIM(num_history=2, factor="cholesky"),
    "gddim, half noise": GDDIM(num_history=1, stochasticity=0.5),
    "gddim, noise": GDDIM(num_history=1, stochasticity=1.0),
    "dpm_solver": DPMSolver(),
    "dpm_solver, noise": DPMSolver(stochastic=True),
    "dpm_solver, last low": DPMSolver(lower_order_final=True),
}
ONE_BLOCK = (
    "heun, churn",
    "heun, much churn",
    "dpm_solver",
    "dpm_solver, noise",
    "dpm_solver, last low",
)
# A few extrapolated steps across many relaxation times amplify rounding until nothing is left.
UNSTABLE = (("gddim 2", "cld-over"), ("gddim 3", "cld-over"))


def pairs(samplers, without=()):
    """Names of samplers and processes that fit."""
    return [
        pytest.param(sampler, process, id=f"{sampler}-{process}")
        for sampler in samplers
        for process in PROCESSES
        if not (sampler in ONE_BLOCK and PROCESSES[process].num_blocks == 2)
        and (sampler, process) not in without
    ]


every_pair = pytest.mark.parametrize(("sampler", "process"), pairs(SAMPLERS))
every_stable_pair = pytest.mark.parametrize(("sampler", "process"), pairs(SAMPLERS, UNSTABLE))


def test_every_sampler_is_tested():
    assert {type(x) for x in examples(Sampler)} == {type(x) for x in SAMPLERS.values()}
    assert {type(x) for x in examples(LinearSDE)} == {type(x) for x in PROCESSES.values()}


def walk(sampler, process, *, rows=range(4), dtype=torch.float64):
    """Draw from a mixture in three steps: the states, one per step, and the network calls."""
    sampler, process = SAMPLERS[sampler], PROCESSES[process]
    denoiser, rng, states = ExactScore(Mixture.example(), process), SampleRng(0, rows), []
    u = rng.normal(process.num_blocks, 2).to(dtype)
    kept = u.clone()
    end = sampler.run(denoiser, u, uniform_grid(3, 0.1), rng, lambda n, u: states.append((n, u)))
    assert torch.equal(u, kept)
    assert torch.equal(states[-1][1], end)
    return states, denoiser.nfe


walked = cache(walk)


# --------------------------------------------------------------------- bookkeeping


@every_pair
def test_network_calls(sampler, process):
    assert walked(sampler, process)[1] == 3 * SAMPLERS[sampler].evals_per_step


@every_pair
def test_callback_sees_every_state(sampler, process):
    states, _ = walked(sampler, process)
    assert [n for n, _ in states] == [0, 1, 2]
    assert not torch.equal(states[0][1], states[1][1])


@every_pair
def test_a_sampler_is_pure(sampler, process):
    """The same call again on one object gives the same states, and nothing stays on it."""
    before = dict(vars(SAMPLERS[sampler]))
    for (_, first), (_, again) in zip(
        walked(sampler, process)[0], walk(sampler, process)[0], strict=True
    ):
        assert torch.equal(first, again)
    assert dict(vars(SAMPLERS[sampler])) == before


@every_pair
def test_a_sample_does_not_depend_on_its_batch(sampler, process):
    whole, some = walked(sampler, process)[0], walk(sampler, process, rows=[3, 0])[0]
    torch.testing.assert_close(some[-1][1], whole[-1][1][[3, 0]], rtol=1e-10, atol=1e-10)


@every_stable_pair
def test_states_keep_their_dtype(sampler, process):
    double, single = walked(sampler, process)[0], walk(sampler, process, dtype=torch.float32)[0]
    assert {u.dtype for _, u in double} == {torch.float64}
    assert {u.dtype for _, u in single} == {torch.float32}
    torch.testing.assert_close(single[-1][1].double(), double[-1][1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "process"), [case for case in pairs(SAMPLERS) if case.values[1] in ("vp", "cld")]
)
def test_one_step_by_itself(sampler, process):
    sampler, process = SAMPLERS[sampler], PROCESSES[process]
    denoiser, grid = ExactScore(Mixture.example(), process), uniform_grid(1, 0.5)
    u = SampleRng(1, range(3)).normal(process.num_blocks, 2).double()
    end = sampler.run(denoiser, u, grid, SampleRng(0, range(3)))
    alone, _ = sampler.step(denoiser, u, *grid, None, SampleRng(0, range(3)))
    assert torch.equal(end, alone)


@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "bosh3", "adaptive_heun"])
def test_an_adaptive_solver_ends_where_it_should(solver):
    """Accurate to its tolerance; it stops at the ends of the grid alone."""
    seen, denoiser = [], ExactScore(Mixture.example(), VP())
    grid, rng, tolerance = uniform_grid(9, 0.1), SampleRng(0, range(4)), 1e-5
    u = rng.normal(1, 2).double()
    sampler = ODE(solver=solver, rtol=tolerance, atol=tolerance)
    end = sampler.run(denoiser, u, grid, rng, lambda n, u: seen.append(n))
    torch.testing.assert_close(end, flowed("vp", u), rtol=0, atol=50 * tolerance)
    assert seen == [0]


# ------------------------------------------------------------------------ refusals


def scoreless():
    grid = uniform_grid(2).flip(0)
    return GeneratorDenoiser(PointGenerator(width=4, num_layers=1), VP(), grid)


def velocity_only():
    network = PointScore(4, 2, width=4, log_time=False)
    return ScoreDenoiser(network, CLD(), VelocityNoise(hybrid=False))


def refused(sampler, denoiser, words, **options):
    u = torch.zeros(1, denoiser.process.num_blocks, 2)
    with pytest.raises(ConfigError, match=words):
        sampler.run(denoiser, u, uniform_grid(2), SampleRng(0, [0]), **options)


@pytest.mark.parametrize("sampler", [x for x in SAMPLERS if x != "ancestral"])
def test_a_generator_has_no_score(sampler):
    refused(SAMPLERS[sampler], scoreless(), "use the ancestral sampler")


@pytest.mark.parametrize("sampler", ONE_BLOCK)
def test_a_noise_level_needs_one_block(sampler):
    words = "set churn to 0" if "heun" in sampler else "use gddim"
    refused(SAMPLERS[sampler], ExactScore(Mixture.example(), CLD()), f"one block, CLD.*{words}")


@pytest.mark.parametrize(
    "sampler",
    ["gddim 1", "gddim, noise", "ancestral", "ancestral, forward", "predictor_corrector"],
)
def test_the_score_of_positions_is_needed(sampler):
    refused(SAMPLERS[sampler], velocity_only(), "use sscs or euler_maruyama, or train with hybrid")


@pytest.mark.parametrize("sampler", ["euler_maruyama", "sscs", "heun", "euler", "midpoint", "rk4"])
def test_the_score_of_velocities_is_enough(sampler):
    u = torch.zeros(1, 2, 2)
    end = SAMPLERS[sampler].run(velocity_only(), u, uniform_grid(2), SampleRng(0, [0]))
    assert bool(end.isfinite().all())


def test_clean_data_need_the_score_of_positions():
    refused(SSCS(), velocity_only(), "train with hybrid", final="x0")


def test_unknown_ends_are_refused():
    u, run = torch.zeros(1, 1, 2), inspect.unwrap(Sampler.run)
    with pytest.raises(ConfigError, match=r"final='x'.*'drift'"):
        run(SSCS(), ExactScore(Mixture.example(), VP()), u, uniform_grid(2), None, final="x")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: GDDIM(stochasticity=1.0, num_history=2), "num_history=1"),
        (lambda: GDDIM(stochasticity=1.0, num_history=1, factor="cholesky"), "factor='rotated'"),
        (lambda: GDDIM(num_history=0), "num_history=0"),
        (lambda: GDDIM(num_history=1, stochasticity=-1.0), "stochasticity=-1.0"),
        (lambda: GDDIM(num_history=1, stochasticity=math.nan), "stochasticity=nan"),
        (lambda: unchecked(GDDIM, factor="round"), "'rotated' or 'cholesky'"),
        (lambda: unchecked(Ancestral, variance="beta"), "variance='beta'.*'forward'"),
        (lambda: Heun(churn=-1.0), "churn=-1.0"),
        (lambda: Heun(churn_min=2.0, churn_max=1.0), "churn_max=1.0"),
        (lambda: unchecked(ODE, solver="rk5"), "rk4"),
        (lambda: ODE(rtol=0.0), "rtol=0.0"),
        (lambda: PredictorCorrector(num_corrections=0), "num_corrections=0"),
        (lambda: PredictorCorrector(snr=0.0), "snr=0.0"),
    ],
)
def test_values_outside_their_range_are_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


# ------------------------------------------------------- one step, by another formula


class Problem:
    """Gaussian data under one process, with every matrix (k d, k d) of a step from t to s."""

    def __init__(self, process, t=0.6, s=0.45):
        self.process, self.t, self.s = process, t, s
        self.data = Mixture.gaussian(GaussianData(2, seed=3))
        self.k, self.size = process.num_blocks, 2 * process.num_blocks
        self.eye = torch.eye(self.size, dtype=torch.float64)

    def wide(self, matrix):
        """k x k blocks acting on k d numbers."""
        return torch.kron(matrix.contiguous(), torch.eye(2, dtype=torch.float64))

    def at(self, t):
        return torch.tensor(t, dtype=torch.float64)

    def drift(self, t):
        return self.wide(self.process.drift_matrix(self.at(t)))

    def noise(self, t):
        diffusion = self.process.diffusion_matrix(self.at(t))
        return self.wide(diffusion @ diffusion.mT)

    def kernel_cov(self, t):
        return self.wide(self.process.marginal(t).cov)

    def signal(self, t):
        """Psi's first column: what data become."""
        return torch.kron(self.process.transition(0.0, t).mean_matrix[:, :1], torch.eye(2))

    def score(self, t):
        """Matrix and offset of the exact score."""
        (mean,), (cov,) = self.data.diffused(self.process, t)
        precision = torch.linalg.inv(cov)
        return -precision, precision @ mean

    def clean(self, t):
        """Matrix and offset of E[x0 | u_t], from the joint Gaussian of both."""
        (mean,), (cov,) = self.data.diffused(self.process, t)
        gain = self.data.covs[0] @ self.signal(t).T @ torch.linalg.inv(cov)
        return gain, self.data.means[0] - gain @ mean

    def found(self, sampler, num_noises=2):
        """Matrix, offset and noise covariance of the sampler's step."""
        rng = BasisRng(self.size * (1 + num_noises))
        u = rng.normal(self.k, 2)
        grid = torch.tensor([self.t, self.s], dtype=torch.float64)
        end = sampler.run(ExactScore(self.data, self.process), u, grid, rng).flatten(1)
        columns = (end[1:] - end[0]).T
        noise = columns[:, self.size :]
        return columns[:, : self.size], end[0], noise @ noise.T

    def solved(self, drift, source=None, noise=None, ends=None):
        """Psi, offset and covariance of du = (A u + b) dt + noise, solved with dense output.

        ``drift(t)``, ``source(t)`` and ``noise(t)`` belong to du/dt on the forward clock; noise
        adds up whichever way time runs.
        """
        n, zero = self.size, torch.zeros(self.size, dtype=torch.float64)
        start, stop = ends or (self.t, self.s)
        sign = math.copysign(1.0, stop - start)

        def slope(t, y):
            y = torch.from_numpy(y)
            psi, offset, cov = y[: n * n].view(n, n), y[n * n : n * n + n], y[-n * n :].view(n, n)
            a, b = drift(t), zero if source is None else source(t)
            c = 0 * cov if noise is None else sign * noise(t)
            flow = a @ cov + cov @ a.T + c
            return torch.cat([(a @ psi).flatten(), a @ offset + b, flow.flatten()]).numpy()

        first = torch.cat([self.eye.flatten(), zero, torch.zeros(n * n, dtype=torch.float64)])
        options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14}
        last = torch.from_numpy(solve_ivp(slope, (start, stop), first.numpy(), **options).y[:, -1])
        return last[: n * n].view(n, n), last[n * n : n * n + n], last[-n * n :].view(n, n)


def euler_maruyama(p):
    h, noise = p.t - p.s, p.noise(p.t)
    pull, offset = p.score(p.t)
    return p.eye - h * p.drift(p.t) + h * noise @ pull, h * noise @ offset, h * noise


def corrected(p, delta, number):
    matrix, offset, cov = euler_maruyama(p)
    metric, (pull, push) = p.kernel_cov(p.s), p.score(p.s)
    for _ in range(number):
        move = p.eye + delta * metric @ pull
        matrix, offset = move @ matrix, move @ offset + delta * metric @ push
        cov = move @ cov @ move.T + 2 * delta * metric
    return matrix, offset, cov


def splitting(p, *, reference_clock=False):
    precision = p.wide(torch.linalg.inv(p.process.prior_cov()))
    h, middle, noise = p.t - p.s, (p.t + p.s) / 2, p.noise(p.t)

    def half(start, stop):
        back = lambda t: p.drift(t) + p.noise(t) @ precision  # noqa: E731
        psi, _, cov = p.solved(back, noise=p.noise, ends=(start, stop))
        return psi, cov

    first, first_cov = half(p.t, middle)
    second, second_cov = half(p.t, middle) if reference_clock else half(middle, p.s)
    pull, push = p.score(p.t)
    between = p.eye + h * noise @ (pull + precision)
    matrix = second @ between
    offset = second @ (h * noise @ push)
    return matrix @ first, offset, matrix @ first_cov @ matrix.T + second_cov


def generalised(p, stochasticity):
    """The marginal's covariance pulls with factor (1 + lambda^2) / 2, applied to the noise."""
    tilt = (1 + stochasticity**2) / 2
    psi, _, _ = p.solved(p.drift)

    def drift(t):
        return p.drift(t) + tilt * p.noise(t) @ torch.linalg.inv(p.kernel_cov(t))

    tilted, _, cov = p.solved(drift, noise=lambda t: stochasticity**2 * p.noise(t))
    pull, push = p.score(p.t)
    onto = -(tilted - psi) @ p.kernel_cov(p.t)
    return psi + onto @ pull, onto @ push, cov


def frozen_data(p, *, stochastic):
    """The reverse SDE, or the flow, with the clean data held at their estimate."""
    gain, shift = p.clean(p.t)
    weight = 1.0 if stochastic else 0.5

    def strength(t):
        return weight * p.noise(t) @ torch.linalg.inv(p.kernel_cov(t))

    psi, _, cov = p.solved(
        lambda t: p.drift(t) + strength(t), noise=p.noise if stochastic else None
    )
    columns = [
        p.solved(lambda t: p.drift(t) + strength(t), lambda t, e=e: -strength(t) @ p.signal(t) @ e)[
            1
        ]
        for e in torch.eye(2, dtype=torch.float64)
    ]
    onto = torch.stack(columns, -1)
    return psi + onto @ gain, onto @ shift, cov


def bayes(p):
    early, late = p.process.transition(0.0, p.s), p.process.transition(p.s, p.t)
    spread = early.mean_matrix @ p.process.initial_cov() @ early.mean_matrix.T + early.cov
    on_data, on_state, cov = bayes_posterior(early.mean_matrix, spread, late.mean_matrix, late.cov)
    gain, shift = p.clean(p.t)
    onto = p.wide(on_data)[:, :2]
    return p.wide(on_state) + onto @ gain, onto @ shift, p.wide(cov)


def with_forward_noise(p):
    """The posterior's mean, with the noise that gathers from s to t."""
    matrix, offset, _ = bayes(p)
    return matrix, offset, p.solved(p.drift, noise=p.noise, ends=(p.s, p.t))[2]


def slope(p, t):
    """Matrix and offset of the probability flow."""
    pull, push = p.score(t)
    return p.drift(t) - p.noise(t) @ pull / 2, -p.noise(t) @ push / 2


def trapezoid(p, start=None):
    start = p.t if start is None else start
    h = p.s - start
    (a, b), (c, d) = slope(p, start), slope(p, p.s)
    matrix = p.eye + h / 2 * (a + c @ (p.eye + h * a))
    return matrix, h / 2 * (b + d + h * c @ b), torch.zeros_like(a)


def churned(p, churn, scale):
    """Noise up to (1 + gamma) times the noise-to-signal ratio, then the trapezoid."""

    def level(t):
        kernel = p.process.marginal(t)
        return float(kernel.cov.sqrt() / kernel.mean_matrix)

    low, high = p.t, 1.0
    target = level(p.t) * (1 + min(churn, math.sqrt(2) - 1))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if level(middle) < target else (low, middle)
    kernel = p.process.transition(p.t, low)
    matrix, offset, _ = trapezoid(p, low)
    noise = scale**2 * p.wide(kernel.cov)
    return matrix @ p.wide(kernel.mean_matrix), offset, matrix @ noise @ matrix.T


def explicit(p, order):
    """One Runge-Kutta step of the flow on affine maps (matrix, offset)."""
    h = p.s - p.t

    def at(t, state):
        a, b = slope(p, t)
        return a @ state[0], a @ state[1] + b

    def moved(state, step, by):
        return state[0] + step * by[0], state[1] + step * by[1]

    start = (p.eye, torch.zeros(p.size, dtype=torch.float64))
    k1 = at(p.t, start)
    k = k1 if order == 1 else at(p.t + h / 2, moved(start, h / 2, k1))
    return *moved(start, h, k), torch.zeros_like(p.eye)


STEPS = {
    "euler_maruyama": euler_maruyama,
    "predictor_corrector": lambda p: corrected(p, 2 * 0.16**2, 1),
    "two corrections": lambda p: corrected(p, 2 * 0.3**2, 2),
    "sscs": splitting,
    "sscs, reference clock": lambda p: splitting(p, reference_clock=True),
    "gddim 1": lambda p: generalised(p, 0.0),
    "gddim 2": lambda p: generalised(p, 0.0),
    "gddim, half noise": lambda p: generalised(p, 0.5),
    "gddim, noise": lambda p: generalised(p, 1.0),
    "dpm_solver": lambda p: frozen_data(p, stochastic=False),
    "dpm_solver, noise": lambda p: frozen_data(p, stochastic=True),
    "ancestral": bayes,
    "ancestral, forward": with_forward_noise,
    "heun": trapezoid,
    "heun, churn": lambda p: churned(p, 5.0, 1.0),
    "heun, much churn": lambda p: churned(p, 5.0, 1.1),
    "euler": lambda p: explicit(p, 1),
    "midpoint": lambda p: explicit(p, 2),
}


def check_step(sampler, process):
    problem = Problem(PROCESSES[process])
    found = problem.found(SAMPLERS[sampler], num_noises=3)
    for mine, wanted in zip(found, STEPS[sampler](problem), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sampler", "process"), pairs(STEPS))
def test_one_step_is_affine_with_the_right_noise(sampler, process):
    check_step(sampler, process)


# -------------------------------------------------------------------------- orders


def covariance_error(sampler, process, num_steps):
    """Distance from the law at t = 0.1 after starting in the law at t = 1, no Monte Carlo."""
    data = Mixture.gaussian(GaussianData(2, seed=3))
    size = 2 * process.num_blocks
    rng = BasisRng(size * (1 + 2 * num_steps))
    (mean,), (cov,) = data.diffused(process, 1.0)
    u = mean + rng.normal(size) @ torch.linalg.cholesky(cov).T
    states = u.view(-1, process.num_blocks, 2)
    end = sampler.run(ExactScore(data, process), states, uniform_grid(num_steps, 0.1), rng)
    (wanted,) = data.diffused(process, 0.1)[1]
    return float((affine_law(end)[1] - wanted).abs().max())


@cache
def tight_flow(name, rows):
    """States of a mixture carried from t = 1 to 0.1 by the flow, solved to ten digits."""
    process, data = PROCESSES[name], Mixture.example()
    u = torch.tensor(rows, dtype=torch.float64)
    exact = ExactScore(data, process)

    def slope(t, y):
        state, time = torch.from_numpy(y).view_as(u), torch.tensor(t, dtype=torch.float64)
        score = -torch.linalg.inv(process.marginal(t).chol()).mT @ exact.eps(state, t)
        diffusion = process.diffusion_matrix(time)
        moved = process.drift_matrix(time) @ state - diffusion @ diffusion.mT @ score / 2
        return moved.flatten().numpy()

    start, options = u.flatten().numpy(), {"method": "DOP853", "rtol": 1e-10, "atol": 1e-11}
    return torch.from_numpy(solve_ivp(slope, (1.0, 0.1), start, **options).y[:, -1]).view_as(u)


def flowed(name, u):
    return tight_flow(name, tuple(tuple(map(tuple, row)) for row in u.tolist()))


def state_error(sampler, name, num_steps):
    """Distance of states of a mixture at t = 0.1 from where the flow carries them."""
    process, rng = PROCESSES[name], SampleRng(5, range(2))
    u = cholesky(process.prior_cov()) @ rng.normal(process.num_blocks, 2).double()
    grid = uniform_grid(num_steps, 0.1)
    end = sampler.run(ExactScore(Mixture.example(), process), u, grid, rng)
    return float((end - flowed(name, u)).abs().max())


def order(error, num_steps):
    return math.log2(error(num_steps) / error(2 * num_steps))


ONE = ("vp", "sub-vp", "ve", "ve-linear", "geometric")
TWO = ("cld", "cld-linear")
IN_LAW = [
    ("ancestral", (*ONE, *TWO), 80),
    ("ancestral, forward", (*ONE, *TWO), 80),
    ("euler_maruyama", ("vp", "sub-vp", "ve-linear", "geometric", *TWO), 160),
    ("sscs", (*ONE, *TWO), 160),
    ("sscs, reference clock", ("sub-vp", "cld-linear"), 160),
    ("gddim, half noise", (*ONE, *TWO), 80),
    ("gddim, noise", (*ONE, *TWO), 80),
    ("dpm_solver, noise", ONE, 80),
    ("heun, churn", ONE, 80),
]
IN_STATE = [
    ("heun", (*ONE, *TWO), 40),
    ("euler", ONE, 40),
    ("euler", ("cld",), 160),
    ("midpoint", (*ONE, "cld"), 40),
    ("rk4", ("vp", "sub-vp", "ve", "ve-linear"), 40),
    ("rk4", TWO, 20),
    ("gddim 1", (*ONE, *TWO), 40),
    ("gddim 2", ("vp", "sub-vp", "ve", "ve-linear", "cld-linear"), 40),
    ("gddim 3", ("vp",), 80),
    ("gddim 3", ("cld-linear",), 40),
    ("gddim 2, cholesky", ("vp", *TWO), 80),
    ("dpm_solver", ONE, 80),
]


def cases(table):
    return [
        pytest.param(sampler, process, number, id=f"{sampler}-{process}")
        for sampler, processes, number in table
        for process in processes
    ]


@pytest.mark.parametrize(("sampler", "process", "num_steps"), cases(IN_LAW))
def test_order_in_law(sampler, process, num_steps):
    sampler, process = SAMPLERS[sampler], PROCESSES[process]
    found = order(lambda n: covariance_error(sampler, process, n), num_steps)
    assert abs(found - sampler.order) < 0.2


@pytest.mark.parametrize(("sampler", "process", "num_steps"), cases(IN_STATE))
def test_order_in_state(sampler, process, num_steps):
    sampler = SAMPLERS[sampler]
    found = order(lambda n: state_error(sampler, process, n), num_steps)
    # Long histories show their own order until the short first steps catch up.
    best = max(sampler.order, getattr(sampler, "num_history", 0))
    assert sampler.order - 0.2 < found < best + 0.2


def test_the_first_order_start_limits_long_histories():
    """Steps before a history exists are of lower order; one such step costs h^2 in the end."""
    process = VP(1.0, 1.0)
    found = order(lambda n: covariance_error(GDDIM(num_history=3), process, n), 80)
    assert 2.0 < found < 2.5


def test_corrections_leave_the_marginal_alone_to_first_order_in_their_size():
    """Langevin steps of size delta mix towards a law that is off by O(delta), whatever h is."""
    process, errors = VP(1.0, 1.0), []
    for snr in (0.05, 0.1, 0.2):
        problem = Problem(process, 0.6, 0.6 - 1e-9)
        matrix, _, cov = problem.found(PredictorCorrector(snr=snr))
        (start,) = problem.data.diffused(process, 0.6)[1]
        errors.append(float((matrix @ start @ matrix.T + cov - start).abs().max()))
    assert errors[2] / errors[1] == pytest.approx(16, rel=0.01)
    assert errors[1] / errors[0] == pytest.approx(16, rel=0.01)


def test_dpm_solver_looks_ahead_to_the_middle_of_the_step():
    """Clean data extrapolated along half the log signal-to-noise ratio, from the last two calls."""
    process, grid = VP(), uniform_grid(6, 0.1)
    denoiser, clock = ExactScore(Mixture.example(), process), process.log_snr(grid) / 2
    for sampler in (DPMSolver(), DPMSolver(stochastic=True)):
        rows = sampler.plan(denoiser, grid)
        assert rows[0].on_previous is None
        for n, row in enumerate(rows[1:], 1):
            total = row.on_data + row.on_previous
            ahead = row.on_data * clock[n] + row.on_previous * clock[n - 1]
            middle = total * (clock[n] + clock[n + 1]) / 2
            torch.testing.assert_close(ahead, middle, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------- exactness


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_ancestral_sampling_is_exact_for_a_perfect_generator(num_steps):
    data, process, grid = GaussianData(seed=4), VP(), uniform_grid(num_steps)
    origin = float(grid[-1])
    mean, cov = data.diffused(process, 1.0, origin)
    rng = BasisRng(data.dim * 2 * num_steps)
    u = mean + rng.normal(data.dim) @ torch.linalg.cholesky(cov).T
    end = Ancestral().run(ExactDenoiser(data, process, origin), u[:, None], grid, rng)
    found_mean, found_cov = affine_law(end)
    torch.testing.assert_close(found_mean, data.mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found_cov, data.cov, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_forward_noise_is_right_for_data_that_are_the_prior(num_steps):
    """However large the steps of VP are; the posterior's noise is too little there."""
    data, grid = Mixture.round(torch.zeros(1, 2), torch.ones(1)), uniform_grid(num_steps, 0.1)
    found = {}
    for variance in ("forward", "posterior"):
        rng = BasisRng(2 * (1 + num_steps))
        sampler = Ancestral(variance=variance)
        end = sampler.run(ExactScore(data, VP()), rng.normal(1, 2), grid, rng)
        found[variance] = affine_law(end)[1]
    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(found["forward"], eye, rtol=1e-9, atol=1e-10)
    assert bool((found["posterior"].diagonal() < 0.999).all())


def test_forward_noise_leaves_the_last_step_alone():
    """No noise where clean data live, nor a number drawn for it, also from an initial variance."""
    data, process = Mixture.example(), GeometricVP(1e-2, 0.9, init_var=1e-2)
    rng = BasisRng(2 * 2)
    end = Ancestral(variance="forward").run(
        ExactScore(data, process), rng.normal(1, 2), uniform_grid(2, 0.0), rng
    )
    assert rng.used == 2 * 2
    assert bool(end.isfinite().all())


def point():
    """A single datum."""
    return Mixture.round(torch.tensor([[0.7, -1.2]]), torch.zeros(1))


@pytest.mark.parametrize("process", PROCESSES)
def test_gddim_is_exact_for_a_point_however_large_the_step(process):
    """On data without spread the flow turns the rotated factor: R^-1 (u - Psi x0) is constant."""
    process, times = PROCESSES[process], torch.tensor([1.0, 0.6], dtype=torch.float64)
    u = SampleRng(0, range(3)).normal(process.num_blocks, 2).double()
    denoiser, rng = ExactScore(point(), process), SampleRng(0, range(3))
    end = GDDIM(num_history=1).run(denoiser, u, times, rng)
    psi, _, _ = Problem(process, 1.0, 0.6).solved(point_flow(process))
    before, after = (process.marginal(t).mean_matrix[:, :1] @ point().means for t in times)
    wanted = after.flatten() + (u - before).flatten(1) @ psi.T
    torch.testing.assert_close(end.flatten(1), wanted, rtol=1e-8, atol=1e-9)
    if process.num_blocks == 1:  # DDIM
        deviation = process.marginal(times).cov.sqrt().flatten()
        ddim = after + deviation[1] / deviation[0] * (u - before)
        torch.testing.assert_close(end, ddim, rtol=1e-12, atol=1e-12)


def point_flow(process):
    """Drift of u - Psi x0 for a point."""
    problem = Problem(process)

    def drift(t):
        return problem.drift(t) + problem.noise(t) @ torch.linalg.inv(problem.kernel_cov(t)) / 2

    return drift


@pytest.mark.parametrize("process", ["vp", "ve", "geometric", "cld", "cld-linear"])
@pytest.mark.parametrize("stochasticity", [0.5, 1.0])
def test_stochastic_gddim_keeps_the_law_of_a_point(process, stochasticity):
    process, data = PROCESSES[process], point()
    size = 2 * process.num_blocks
    rng = BasisRng(size * 3)
    (mean,), (cov,) = data.diffused(process, 1.0)
    u = mean + rng.normal(size) @ torch.linalg.cholesky(cov).T
    sampler = GDDIM(num_history=1, stochasticity=stochasticity)
    states, grid = u.view(-1, process.num_blocks, 2), uniform_grid(2, 0.2)
    found = affine_law(sampler.run(ExactScore(data, process), states, grid, rng))
    for mine, (wanted,) in zip(found, data.diffused(process, 0.2), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("process", PROCESSES)
def test_gddim_with_the_noise_of_the_sde_is_ancestral_sampling(process):
    """With lambda = 1 the tilted flow is the gain of Bayes' rule: DDPM, for any process."""
    process, rows = PROCESSES[process], range(3)
    u = SampleRng(1, rows).normal(process.num_blocks, 2).double()
    ends = []
    for sampler in (GDDIM(num_history=1, stochasticity=1.0), Ancestral()):
        denoiser = ExactScore(Mixture.example(), process)
        ends.append(sampler.run(denoiser, u, uniform_grid(2, 0.4), SampleRng(0, rows)))
    torch.testing.assert_close(*ends, rtol=1e-8, atol=1e-8)


STATIONARY = [VP(), CLD(init_velocity_scale=1.0), CLD(0.1, 7.0, init_velocity_scale=1.0)]


@pytest.mark.parametrize("process", STATIONARY, ids=["vp", "cld", "cld-linear"])
@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_splitting_keeps_the_prior_where_data_are_the_prior(process, num_steps):
    """No part of the splitting is wrong there, whatever the steps."""
    data = Mixture.round(torch.zeros(1, 2), torch.ones(1))
    size = 2 * process.num_blocks
    rng = BasisRng(size * (1 + 2 * num_steps))
    factor = cholesky(process.prior_cov())
    u = factor @ rng.normal(process.num_blocks, 2)
    end = SSCS().run(ExactScore(data, process), u, uniform_grid(num_steps), rng)
    mean, cov = affine_law(end)
    prior = torch.kron(process.prior_cov(), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(cov, prior, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("num_steps", [1000, 5000])
@pytest.mark.parametrize("process", STATIONARY, ids=["vp", "cld", "cld-linear"])
def test_splitting_survives_tiny_steps(process, num_steps):
    """The covariance of a half-step is cubic in its length; nothing of it may cancel."""
    data = Mixture.round(torch.zeros(1, 1), torch.ones(1))
    denoiser, grid = ExactScore(data, process), quadratic_grid(num_steps)
    rows = SSCS().plan(denoiser, grid)
    cov = prior = process.prior_cov()
    score = -torch.linalg.inv(prior)
    for row in rows:
        between = torch.eye(process.num_blocks) + row.on_state + row.on_score @ score
        cov = row.first @ cov @ row.first.mT + row.first_noise @ row.first_noise.mT
        cov = between @ cov @ between.mT
        cov = row.second @ cov @ row.second.mT + row.second_noise @ row.second_noise.mT
    torch.testing.assert_close(cov, prior, rtol=1e-10, atol=1e-10)
    assert all(float(row.first_noise[..., -1, -1]) > 0 for row in rows)
    assert all(float(row.second_noise[..., 0, 0]) > 0 for row in rows)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_last_step_is_an_euler_step_or_the_mean_of_the_data(process):
    process, data, t = PROCESSES[process], Mixture.gaussian(GaussianData(2, seed=3)), 0.02
    problem, grid = Problem(process, t, t / 2), torch.tensor([0.03, t], dtype=torch.float64)
    u = SampleRng(0, range(3)).normal(process.num_blocks, 2).double()
    ends, calls = {}, {}
    for final in ("none", "drift", "x0"):
        denoiser = ExactScore(data, process)
        ends[final] = SSCS().run(denoiser, u, grid, SampleRng(1, range(3)), final=final).flatten(1)
        calls[final] = denoiser.nfe
    (pull, push), (gain, shift) = problem.score(t), problem.clean(t)
    score = ends["none"] @ pull.T + push
    drift = ends["none"] - t * ends["none"] @ problem.drift(t).T + t * score @ problem.noise(t).T
    clean = ends["none"] @ gain.T + shift
    torch.testing.assert_close(ends["drift"][:, :2], drift[:, :2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ends["x0"][:, :2], clean, rtol=1e-8, atol=1e-8)
    assert not bool(ends["x0"][:, 2:].any())
    # Without noise on the position the score does not enter it, and is not asked for.
    assert calls == {"none": 1, "drift": 2 if process.num_blocks == 1 else 1, "x0": 2}


def test_nothing_follows_where_clean_data_live():
    grid = uniform_grid(2)
    data, u = GaussianData(), torch.zeros(2, 1, 3)
    ends = [
        Ancestral().run(
            ExactDenoiser(data, VP(), float(grid[-1])), u, grid, SampleRng(0, [0, 1]), final=final
        )
        for final in ("none", "drift", "x0")
    ]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
