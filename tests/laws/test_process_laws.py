"""Laws of every linear SDE: closed forms, moment equations, posteriors, reversal, noise levels."""

import pytest
import torch
from mpmath import expm, mp, mpf
from mpmath import matrix as mp_matrix
from oracles import BareVP, Coupled, Langevin, bayes_posterior, examples, name_of
from torch.distributions import MultivariateNormal

from trilemma.errors import ConfigError
from trilemma.processes import (
    CLD,
    VE,
    VP,
    GeometricVP,
    LinearSDE,
    SubVP,
    Transition,
    act,
    uniform_grid,
)

OURS = [
    *examples(LinearSDE),
    VP(0.0, 5.0),
    VP(1.0, 1.0),
    VP(1e-3, 40.0, init_var=1e-4),
    SubVP(init_var=1e-5),
    GeometricVP(1e-4, 0.9, init_var=0.0),
    VE(sigma_max=80.0, clock="linear"),
    CLD(0.1, 7.0),
    CLD(friction=0.3),
    CLD(friction=3.0),
    CLD(mass=1 / 16, jitter=1e-6),
    CLD(mass=1.0, init_position_var=1e-3, init_velocity_scale=1.0),
]
MADE_UP = [BareVP(), Langevin(), Coupled()]
ALL = OURS + MADE_UP
IDS = [f"{name_of(p)}-{i}" for i, p in enumerate(ALL)]

OSCILLATING = [p for p in ALL if isinstance(p, CLD) and p.friction**2 < 4 * p.mass]
"""Underdamped: the data's part of the position changes its sign, so its size is not monotone."""


def is_stationary(process):
    """Whether the forward process keeps its prior, F P + P F^T + G G^T = 0."""
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    noise = process.diffusion_matrix(t) @ process.diffusion_matrix(t).mT
    flow = process.drift_matrix(t) @ process.prior_cov()
    return torch.allclose(flow + flow.mT, -noise, rtol=1e-12, atol=0)


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


EARLY = float64([0.0, 0.0, 0.0, 0.3, 0.3, 0.99999, 1e-3, 0.5])
LATE = float64([1e-5, 1e-3, 1.0, 0.9, 0.30001, 1.0, 0.2, 0.5])


def random_times(num, count, seed=0):
    """``count`` increasing times at least 0.03 apart, (num) each."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.rand(num, count + 1, generator=generator, dtype=torch.float64) + 0.2
    return (gaps.cumsum(1) / gaps.sum(1, keepdim=True))[:, :count].unbind(1)


def around_datum(process, t, origin=0.0):
    """Kernel of u_t around the datum as the dynamics know it, without what marginals add."""
    psi, cov = process.transition(origin, t)
    return Transition(psi, psi @ process.initial_cov() @ psi.mT + cov)


def assert_same_kernel(given, integrated):
    """Every entry to 1e-8, or to the rounding of the integration: 1e-15 of the largest entry.

    For one block that is 1e-8 throughout. Over short times the variance of a position is smaller
    than that of its velocity by the square of time, below what float64 integration resolves.
    """
    for value, ideal in zip(given, integrated, strict=True):
        scale = ideal.abs().amax(dim=(-1, -2), keepdim=True)
        assert ((value - ideal).abs() <= 1e-8 * ideal.abs() + 1e-15 * scale).all()


@pytest.mark.parametrize("process", OURS, ids=IDS[: len(OURS)])
def test_closed_form_equals_integrated_moments(process):
    integrated = LinearSDE.transition(process, EARLY, LATE)
    assert_same_kernel(process.transition(EARLY, LATE), integrated)


KNOWN = [(BareVP(), VP(0.1, 20.0))]
KNOWN += [(Langevin(4.0, 0.25, x), CLD(2.0, 6.0, mass=0.25, friction=x)) for x in (0.3, 1.0, 3.0)]


@pytest.mark.parametrize(("bare", "exact"), KNOWN, ids=lambda p: repr(p))
def test_integration_alone_gives_the_known_closed_form(bare, exact):
    assert_same_kernel(exact.transition(EARLY, LATE), bare.transition(EARLY, LATE))


def exact_langevin(process, t):
    """Psi and Q of Langevin diffusion from 0 to t in many digits, by one matrix exponential.

    F = beta A and G G^T = beta D with constant A and D; exp(B [[-A, D], [0, A^T]]) holds
    Psi^-1 Q in its corner (Van Loan, 1978).
    """
    mass, friction, t = mpf(process.mass), mpf(process.friction), mpf(t)
    low, high = mpf(process.beta_min), mpf(process.beta_max)
    rate = low * t + (high - low) * t**2 / 2
    rows = [[0, -1 / mass, 0, 0], [1, friction / mass, 0, 2 * friction]]
    rows += [[0, 0, 0, -1], [0, 0, 1 / mass, -friction / mass]]
    whole = expm(rate * mp_matrix(rows))
    psi = whole[2:4, 2:4].T
    return psi, psi * whole[0:2, 2:4]


def near(value, expected, rel=1e-10):
    assert abs(mpf(float(value)) - expected) <= rel * abs(expected), (float(value), expected)


LANGEVIN = [
    CLD(),
    CLD(init_velocity_scale=0.0),
    CLD(0.1, 7.0),
    CLD(mass=1.0, init_velocity_scale=1.0),
    CLD(mass=1 / 16, init_position_var=1e-6),
    *(CLD(friction=x) for x in (0.1, 0.3, 1 - 1e-6, 1 - 1e-12, 1 + 1e-12, 1 + 1e-6, 3.0, 10.0)),
]


@pytest.mark.parametrize("process", LANGEVIN, ids=repr)
def test_langevin_kernels_keep_their_digits_at_small_times(process):
    """Covariance, its factor and 1 / L_vv have small relative errors down to t = 1e-8.

    At first the velocity's variance given the position is a difference of the order of t between
    two numbers of the size of the initial variance; the factor loses that many digits, no more.
    """
    times = [1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0]
    marginal = process.marginal(float64(times))
    gathered = process.transition(0.0, float64(times))
    factor = marginal.chol()
    start = mp_matrix(process.initial_cov().tolist())
    with mp.workdps(250):  # the exponential grows like Psi^-1
        for i, t in enumerate(times):
            psi, noise = exact_langevin(process, t)
            cov = psi * start * psi.T + noise
            for row, column in ((0, 0), (1, 0), (1, 1)):
                near(gathered.cov[i, row, column], noise[row, column], 1e-11)
                near(marginal.cov[i, row, column], cov[row, column], 1e-11)
                near(gathered.mean_matrix[i, row, column], psi[row, column], 1e-11)
            x_x = mp.sqrt(cov[0, 0])
            rest = cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0]
            lost = 1e-15 * cov[1, 1] / rest
            near(factor[i, 0, 0], x_x)
            near(factor[i, 1, 0], cov[1, 0] / x_x)
            near(factor[i, 1, 1], mp.sqrt(rest), max(1e-11, lost))
            near(1 / factor[i, 1, 1], 1 / mp.sqrt(rest), max(1e-11, lost))
            assert t < 1e-6 or lost < 1e-9


def test_integration_of_two_blocks_equals_a_scipy_solution():
    from scipy.integrate import solve_ivp

    process = Coupled()

    def slope(t, y):
        time = torch.tensor(t, dtype=torch.float64)
        drift = process.drift_matrix(time).numpy()
        diffusion = process.diffusion_matrix(time).numpy()
        psi, cov = y[:4].reshape(2, 2), y[4:].reshape(2, 2)
        moved = drift @ cov + cov @ drift.T + diffusion @ diffusion.T
        return [*(drift @ psi).ravel(), *moved.ravel()]

    start = [1.0, 0, 0, 1, 0, 0, 0, 0]
    end = solve_ivp(slope, (0.1, 0.9), start, rtol=1e-12, atol=1e-14, method="DOP853").y[:, -1]
    given = process.transition(0.1, 0.9)
    torch.testing.assert_close(given.mean_matrix.flatten(), torch.from_numpy(end[:4].copy()))
    expected = torch.from_numpy(end[4:].copy())
    torch.testing.assert_close(given.cov.flatten(), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_transitions_compose(process):
    s, r, t = random_times(16, 3)
    first, second, whole = (process.transition(*pair) for pair in ((s, r), (r, t), (s, t)))
    psi = second.mean_matrix @ first.mean_matrix
    cov = second.mean_matrix @ first.cov @ second.mean_matrix.mT + second.cov
    torch.testing.assert_close(psi, whole.mean_matrix, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cov, whole.cov, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("process", [VP(), CLD(), Coupled()], ids=repr)
def test_later_times_in_a_row_are_those_one_by_one(process):
    """Many times from one, unsorted and repeated, are integrated in a row."""
    times = float64([0.7, 1e-9, 0.2, 1.0, 0.05, 0.2, 0.05 + 1e-7])
    row = LinearSDE.transition(process, 0.05 * 1e-9, times)
    for i, t in enumerate(times):
        one = LinearSDE.transition(process, 0.05 * 1e-9, t)
        torch.testing.assert_close(row.mean_matrix[i], one.mean_matrix, rtol=1e-11, atol=0.0)
        torch.testing.assert_close(row.cov[i], one.cov, rtol=1e-10, atol=0.0)
    assert row.cov.shape == (7, process.num_blocks, process.num_blocks)


def test_an_integration_halves_only_where_it_must(monkeypatch):
    """A plan of gddim asks for the angle at ten thousands of times: one integral serves all."""
    seen = []
    plain = LinearSDE._collocate

    def counted(self, left, right):
        seen.append(left.numel())
        return plain(self, left, right)

    monkeypatch.setattr(LinearSDE, "_collocate", counted)
    LinearSDE.transition(Coupled(), 0.0, torch.linspace(0, 1, 10_000, dtype=torch.float64))
    assert sum(seen) < 4 * 10_000 and len(seen) < 60


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_no_time_passes_no_noise(process):
    kernel = process.transition(float64([0.0, 0.4, 1.0]), float64([0.0, 0.4, 1.0]))
    eye = torch.eye(process.num_blocks, dtype=torch.float64).expand_as(kernel.mean_matrix)
    assert torch.equal(kernel.mean_matrix, eye)
    assert torch.equal(kernel.cov, torch.zeros_like(eye))
    assert torch.equal(kernel.chol(), torch.zeros_like(eye))


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_moment_equations(process):
    """d Psi / dt = F Psi and the Lyapunov equation dQ/dt = F Q + Q F^T + G G^T, by autograd."""
    s, t = random_times(8, 2, seed=1)
    t = t.clone().requires_grad_()
    kernel = process.transition(s, t)

    def derivative(blocks):
        k = process.num_blocks
        entries = [
            torch.autograd.grad((blocks[:, i, j] + 0 * t).sum(), t, retain_graph=True)[0]
            for i in range(k)
            for j in range(k)
        ]
        return torch.stack(entries, -1).view(-1, k, k)

    drift, diffusion = process.drift_matrix(t), process.diffusion_matrix(t)
    psi, cov = kernel
    torch.testing.assert_close(derivative(psi), drift @ psi, rtol=1e-7, atol=1e-9)
    expected = drift @ cov + cov @ drift.mT + diffusion @ diffusion.mT
    torch.testing.assert_close(derivative(cov), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("origin", [0.0, 1e-3, 0.02])
@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_posterior_is_bayes_rule(process, origin):
    s, t = (origin + (1 - origin) * x for x in random_times(12, 2, seed=2))
    given = process.posterior(t, s, origin)
    early, late = around_datum(process, s, origin), process.transition(s, t)
    for i in range(len(s)):
        expected = bayes_posterior(
            early.mean_matrix[i], early.cov[i], late.mean_matrix[i], late.cov[i]
        )
        for name, value, ideal in zip(given._fields, given, expected, strict=True):
            bound = 1e-10 * float(ideal.abs().max())
            torch.testing.assert_close(
                value[i], ideal, rtol=1e-9, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_posterior_marginalises_back(process):
    """Averaging q(u_s | u_t, u_o) over q(u_t | u_o) gives q(u_s | u_o)."""
    s, t = random_times(12, 2, seed=3)
    posterior = process.posterior(t, s)
    target, late = around_datum(process, s), around_datum(process, t)
    mean = posterior.on_origin + posterior.on_later @ late.mean_matrix
    cov = posterior.cov + posterior.on_later @ late.cov @ posterior.on_later.mT
    torch.testing.assert_close(mean, target.mean_matrix, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(cov, target.cov, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_posterior_covariance_is_symmetric_and_below_the_marginal(process):
    s, t = random_times(12, 2, seed=4)
    cov = process.posterior(t, s).cov
    torch.testing.assert_close(cov, cov.mT, rtol=0, atol=1e-14)
    assert (torch.linalg.eigvalsh(cov) > 0).all()
    assert (torch.linalg.eigvalsh(around_datum(process, s).cov - cov) > 0).all()


@pytest.mark.parametrize("origin", [0.0, 1e-3])
@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_posterior_at_the_origin_is_the_point_up_to_its_initial_covariance(process, origin):
    """Blocks that start at a point stay there; the others keep what u_t does not tell."""
    t = float64([0.1, 0.5, 1.0])
    posterior, late = process.posterior(t, origin, origin), process.transition(origin, t)
    initial = process.initial_cov()
    eye = torch.eye(process.num_blocks, dtype=torch.float64)
    for i in range(len(t)):
        expected = bayes_posterior(eye, initial, late.mean_matrix[i], late.cov[i])
        for value, ideal in zip(posterior, expected, strict=True):
            bound = 1e-10 * float(ideal.abs().max())
            torch.testing.assert_close(value[i], ideal, rtol=1e-9, atol=bound)
    points = initial.diagonal() == 0
    torch.testing.assert_close(
        posterior.on_origin[:, points], eye[points].expand(len(t), -1, -1), rtol=1e-12, atol=1e-10
    )
    assert not posterior.on_later[:, points].any()
    assert (posterior.cov[:, points].abs() <= 1e-12 * initial.amax()).all()


@pytest.mark.parametrize("process", OURS, ids=IDS[: len(OURS)])
def test_marginals_are_transitions_of_the_initial_covariance(process):
    """Whatever else a marginal has, its jitter, is the same at all times and no part of chains."""
    jitter = getattr(process, "jitter", 0.0)
    t = float64([0.0, 1e-3, 0.3, 1.0])
    eye = torch.eye(process.num_blocks, dtype=torch.float64)
    start = 0.3 * eye + 0.1
    for initial, options in ((process.initial_cov(), {}), (start, {"initial_cov": start})):
        given, (psi, cov) = process.marginal(t, **options), process.transition(0.0, t)
        assert torch.equal(given.mean_matrix, psi)
        expected = psi @ initial @ psi.mT + cov + jitter * eye
        torch.testing.assert_close(given.cov, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_the_carried_covariance_obeys_the_dynamics(process):
    s, t = random_times(8, 2, seed=5)
    psi, cov = process.transition(s, t)
    carried = psi @ process.carried_cov(s) @ psi.mT + cov
    torch.testing.assert_close(process.carried_cov(t), carried, rtol=1e-9, atol=1e-12)
    start = process.initial_cov() + getattr(process, "jitter", 0.0) * torch.eye(
        process.num_blocks, dtype=torch.float64
    )
    torch.testing.assert_close(process.carried_cov(float64([0.0]))[0], start, rtol=1e-14, atol=0)


@pytest.mark.parametrize("process", OURS, ids=IDS[: len(OURS)])
def test_equilibrium_reversal_is_the_reverse_dynamics_of_the_prior(process):
    """The closed form is what integrating (-F - G G^T P^-1) from t back to s gives."""
    s, t = float64([1e-3, 0.3, 0.7]), float64([0.2, 0.6, 1.0])
    given = process.equilibrium_reversal(t, s)
    assert_same_kernel(given, LinearSDE.equilibrium_reversal(process, t, s))


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_equilibrium_reversal_keeps_the_prior_where_the_process_does(process):
    """A P A^T + Q = P exactly where P is stationary forwards, and then it is Bayes' rule."""
    s, t = random_times(8, 2, seed=6)
    back, prior = process.equilibrium_reversal(t, s), process.prior_cov()
    kept = back.mean_matrix @ prior @ back.mean_matrix.mT + back.cov
    is_kept = torch.allclose(kept, prior.expand_as(kept), rtol=1e-9, atol=1e-12)
    assert is_kept == is_stationary(process)
    if is_kept:
        psi = process.transition(s, t).mean_matrix
        expected = prior @ psi.mT @ torch.linalg.inv(prior)
        torch.testing.assert_close(back.mean_matrix, expected, rtol=1e-9, atol=1e-12)


def test_the_processes_that_keep_their_prior():
    kept = {name_of(p) for p in ALL if is_stationary(p)}
    assert kept == {"VP", "GeometricVP", "CLD", "BareVP", "Langevin"}


LEVELS = [p for p in OURS if p not in OSCILLATING]


@pytest.mark.parametrize("process", LEVELS, ids=name_of)
def test_noise_levels_rise_and_name_their_times(process):
    t = torch.cat([torch.logspace(-5, -1, 17, dtype=torch.float64), uniform_grid(9, 0.1).flip(0)])
    t = t.unique()
    log_snr = process.log_snr(t)
    kernel = process.marginal(t)
    ratio = kernel.mean_matrix[:, 0, 0].square() / kernel.cov[:, 0, 0]
    torch.testing.assert_close(log_snr.exp(), ratio, rtol=1e-11, atol=0)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(process.time_of_log_snr(log_snr), t, rtol=1e-7, atol=0)
    beyond = process.time_of_log_snr(float64([1e3, -1e3]))
    torch.testing.assert_close(beyond, float64([1e-12, 1.0]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_the_score_of_a_kernel_is_its_noise(process):
    """grad_u log N(u; Psi (x0, 0), L L^T) = -L^-T eps at u = Psi (x0, 0) + L eps."""
    generator = torch.Generator().manual_seed(8)
    k = process.num_blocks
    kernel = process.marginal(float64([0.01, 0.2, 0.6, 1.0]))
    x0, eps = torch.randn(2, 4, k, 1, generator=generator, dtype=torch.float64)
    u = kernel.sample(process.lift(x0[:, 0]), eps)[..., 0].requires_grad_()
    mean = kernel.mean_matrix[:, :, 0] * x0[:, 0]
    density = MultivariateNormal(mean, covariance_matrix=kernel.cov).log_prob(u).sum()
    (score,) = torch.autograd.grad(density, u)
    expected = -torch.linalg.solve(kernel.chol().mT, eps)[..., 0]
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_lifted_data_stand_in_the_first_block(process):
    x0 = torch.randn(3, 2, 4)
    u = process.lift(x0)
    assert u.shape == (3, process.num_blocks, 2, 4)
    assert torch.equal(u[:, 0], x0)
    assert not u[:, 1:].any()


def assert_moments(u, mean, cov):
    """Rows u (n, k) have this mean and covariance within five standard errors."""
    variance = cov.diagonal()
    assert ((u.mean(0) - mean).abs() < 5 * (variance / len(u)).sqrt()).all()
    error = ((variance[:, None] * variance + cov**2) / len(u)).sqrt()
    assert ((torch.cov(u.T).view_as(cov) - cov).abs() < 5 * error).all()


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_simulated_moments(process):
    """Euler-Maruyama paths have the moments of the kernel within five standard errors."""
    num, steps, s, t = 4000, 1000, 0.1, 0.4
    generator = torch.Generator().manual_seed(5)
    k, h = process.num_blocks, (t - s) / steps
    times = s + h * (torch.arange(steps, dtype=torch.float64) + 0.5)
    move = torch.eye(k, dtype=torch.float64) + h * process.drift_matrix(times)
    spread = h**0.5 * process.diffusion_matrix(times)
    start = float64([1.0, -0.5])[:k]
    u = start.expand(num, k)
    for drift, diffusion in zip(move, spread, strict=True):
        eps = torch.randn(num, k, generator=generator, dtype=torch.float64)
        u = u @ drift.T + eps @ diffusion.T
    kernel = process.transition(s, t)
    assert_moments(u, kernel.mean_matrix @ start, kernel.cov)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_samples_of_a_kernel_have_its_moments(process):
    """``Transition.sample`` uses a factor of the covariance, not the covariance."""
    k, num = process.num_blocks, 200_000
    generator = torch.Generator().manual_seed(6)
    kernel = process.transition(0.2, 0.7)
    eps = torch.randn(num, k, 1, generator=generator, dtype=torch.float64)
    start = float64([0.7, -1.2])[:k, None].expand(num, k, 1)
    drawn = kernel.sample(start, eps)[:, :, 0]
    torch.testing.assert_close(kernel.chol() @ kernel.chol().mT, kernel.cov)
    assert_moments(drawn, kernel.mean_matrix @ start[0, :, 0], kernel.cov)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_times_broadcast_and_keep_their_shape(process):
    s, t = float64([[0.1], [0.2]]), float64([0.3, 0.4, 0.5])
    k = process.num_blocks
    kernel = process.transition(s, t)
    assert kernel.mean_matrix.shape == kernel.cov.shape == (2, 3, k, k)
    single = process.transition(0.2, 0.4)
    torch.testing.assert_close(kernel.cov[1, 1], single.cov, rtol=1e-12, atol=0)
    posterior = process.posterior(t, s)
    assert posterior.on_origin.shape == posterior.cov.shape == (2, 3, k, k)
    assert all(x.dtype == torch.float64 for x in (*kernel, *posterior))


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_times_in_the_wrong_order_are_refused(process):
    with pytest.raises(ConfigError, match="in time"):
        process.transition(0.5, 0.4)
    with pytest.raises(ConfigError, match="in time"):
        process.posterior(0.4, 0.5)
    with pytest.raises(ConfigError, match="in time"):
        process.posterior(0.4, 0.4)
    with pytest.raises(ConfigError, match="in time"):
        process.posterior(0.4, 0.2, 0.3)
    with pytest.raises(ConfigError, match="in time"):
        process.transition(float("nan"), 0.4)
    with pytest.raises(ConfigError, match="in time"):
        process.posterior(float64([0.4, 0.5]), float64([0.3, 0.6]))


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_prior_covariance_is_a_covariance(process):
    cov = process.prior_cov()
    assert cov.shape == (process.num_blocks, process.num_blocks)
    assert cov.dtype == torch.float64
    assert (torch.linalg.eigvalsh(cov) > 0).all()


def test_act_applies_blocks_to_each_sample():
    generator = torch.Generator().manual_seed(7)
    u = torch.randn(5, 2, 3, 4, generator=generator)
    shared = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    each = torch.randn(5, 2, 2, generator=generator, dtype=torch.float64)
    assert act(shared, u).dtype == u.dtype
    torch.testing.assert_close(
        act(shared, u), torch.einsum("kj,bjhw->bkhw", shared.float(), u), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        act(each, u), torch.einsum("bkj,bjhw->bkhw", each.float(), u), rtol=1e-5, atol=1e-6
    )
    one = torch.randn(5, 1, 1, generator=generator, dtype=torch.float64)
    image = torch.randn(5, 1, 3, 4, 4, generator=generator)
    torch.testing.assert_close(act(one, image), one.float()[:, :, :, None, None] * image)


def test_uniform_grid_decreases_from_the_prior_to_the_data():
    grid = uniform_grid(5, 1e-3)
    assert grid.dtype == torch.float64
    assert len(grid) == 6
    assert grid[0] == 1.0
    assert grid[-1] == 1e-3
    torch.testing.assert_close(grid.diff(), torch.full((5,), -0.999 / 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0,), "num_steps"), ((4, -0.1), "t_min"), ((4, 0.6, 0.5), "t_min"), ((4, 0.0, 1.5), "t_max")],
)
def test_grid_errors_name_the_argument(arguments, name):
    with pytest.raises(ConfigError, match=name):
        uniform_grid(*arguments)


def test_a_grid_without_length_is_refused():
    with pytest.raises(ConfigError, match="t_min"):
        uniform_grid(4, 1.0)
