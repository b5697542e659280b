"""Laws of every linear SDE: closed forms, moment equations, posteriors."""

import pytest
import torch
from oracles import BareVP, Coupled, Langevin, bayes_posterior, examples, name_of

from trilemma.errors import ConfigError
from trilemma.processes import VP, LinearSDE, act, uniform_grid

OURS = [*examples(LinearSDE), VP(0.0, 5.0), VP(1.0, 1.0), VP(1e-3, 40.0)]
MADE_UP = [BareVP(), Langevin(), Coupled()]
ALL = OURS + MADE_UP
IDS = [f"{name_of(p)}-{i}" for i, p in enumerate(ALL)]


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


EARLY = float64([0.0, 0.0, 0.0, 0.3, 0.3, 0.99999, 1e-3, 0.5])
LATE = float64([1e-5, 1e-3, 1.0, 0.9, 0.30001, 1.0, 0.2, 0.5])


def random_times(num, count, seed=0):
    """``count`` increasing times at least 0.03 apart, (num) each."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.rand(num, count + 1, generator=generator, dtype=torch.float64) + 0.2
    return (gaps.cumsum(1) / gaps.sum(1, keepdim=True))[:, :count].unbind(1)


@pytest.mark.parametrize("process", OURS, ids=IDS[: len(OURS)])
def test_closed_form_equals_integrated_moments(process):
    closed = process.transition(EARLY, LATE)
    integrated = LinearSDE.transition(process, EARLY, LATE)
    torch.testing.assert_close(closed.mean_matrix, integrated.mean_matrix, rtol=1e-8, atol=0.0)
    torch.testing.assert_close(closed.cov, integrated.cov, rtol=1e-8, atol=0.0)


def test_integration_alone_gives_the_known_closed_form():
    given, exact = BareVP().transition(EARLY, LATE), VP(0.1, 20.0).transition(EARLY, LATE)
    torch.testing.assert_close(given.mean_matrix, exact.mean_matrix, rtol=1e-8, atol=0.0)
    torch.testing.assert_close(given.cov, exact.cov, rtol=1e-8, atol=0.0)


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
            torch.autograd.grad(blocks[:, i, j].sum(), t, retain_graph=True)[0]
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
    early, late = process.marginal(s, origin), process.transition(s, t)
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
    posterior, target, late = process.posterior(t, s), process.marginal(s), process.marginal(t)
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
    assert (torch.linalg.eigvalsh(process.marginal(s).cov - cov) > 0).all()


@pytest.mark.parametrize("origin", [0.0, 1e-3])
@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_posterior_at_the_origin_is_the_point(process, origin):
    t = float64([0.1, 0.5, 1.0])
    posterior = process.posterior(t, origin, origin)
    eye = torch.eye(process.num_blocks, dtype=torch.float64).expand_as(posterior.cov)
    torch.testing.assert_close(posterior.on_origin, eye, rtol=1e-12, atol=1e-10)
    assert not posterior.on_later.any()
    assert not posterior.cov.any()


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_simulated_moments(process):
    """Euler-Maruyama paths have the moments of the kernel within five standard errors."""
    num, steps, s, t = 4000, 4000, 0.1, 0.4
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
    expected, cov = kernel.mean_matrix @ start, kernel.cov
    mean_error = (cov.diagonal() / num).sqrt()
    assert ((u.mean(0) - expected).abs() < 5 * mean_error).all()
    variance = cov.diagonal()
    cov_error = ((variance[:, None] * variance + cov**2) / num).sqrt()
    assert ((torch.cov(u.T).view(k, k) - cov).abs() < 5 * cov_error).all()


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
    torch.testing.assert_close(
        drawn.mean(0), kernel.mean_matrix @ start[0, :, 0], rtol=0, atol=0.02
    )
    torch.testing.assert_close(torch.cov(drawn.T).view(k, k), kernel.cov, rtol=0.02, atol=0.01)


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
