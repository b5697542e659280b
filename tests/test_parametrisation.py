"""Parametrisations: the ideal network output of each, by hand, reads out as the noise."""

import pytest
import torch
from oracles import name_of, unchecked

from trilemma.errors import ConfigError
from trilemma.parametrisation import Preconditioned, Predict, VelocityNoise
from trilemma.processes import CLD, VE, VP, GeometricVP, SubVP, act

ONE_BLOCK = [
    VP(),
    VP(init_var=1e-3),
    SubVP(),
    VE(),
    VE(sigma_max=80.0, clock="linear"),
    GeometricVP(),
]
LANGEVIN = [
    CLD(),
    CLD(0.1, 7.0, jitter=1e-6),
    CLD(friction=3.0),
    CLD(mass=1.0, init_velocity_scale=1.0, init_position_var=1e-3),
]
T = torch.tensor([1e-3, 0.05, 0.3, 0.7, 1.0], dtype=torch.float64)


def draws(num_blocks, seed=0):
    """Data (5, 3) and noise (5, k, 3), one row per time."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(len(T), 3, generator=generator, dtype=torch.float64)
    return x0, torch.randn(len(T), num_blocks, 3, generator=generator, dtype=torch.float64)


def one_block(process):
    """Data, noise, state and the scalars alpha and sigma, all (5, 3)."""
    x0, eps = draws(1)
    kernel = process.marginal(T)
    alpha, sigma = kernel.mean_matrix[:, 0], kernel.cov[:, 0].sqrt()
    return x0, eps[:, 0], alpha * x0 + sigma * eps[:, 0], alpha, sigma


def read(parametrisation, process, u, output):
    """Noise from a state and an output, both with a block axis."""
    readout = parametrisation.readout(process, T)
    return act(readout.on_state, u) + act(readout.on_output, output)


def close(value, expected, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------- one block


@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
@pytest.mark.parametrize("kind", ["eps", "x0", "score", "v_prediction"])
def test_ideal_outputs_read_out_as_the_noise(kind, process):
    x0, eps, u, alpha, sigma = one_block(process)
    output = {
        "eps": eps,
        "x0": x0,
        "score": -eps / sigma,
        "v_prediction": alpha * eps - sigma * x0,
    }[kind]
    close(read(Predict(kind), process, u[:, None], output[:, None])[:, 0], eps)


@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
@pytest.mark.parametrize("data_var", [0.25, 1.0])
def test_mixed_outputs_read_out_as_the_noise(data_var, process):
    _, eps, u, alpha, sigma = one_block(process)
    output = eps - sigma * u / (alpha.square() * data_var + sigma.square())
    mixed = Predict("eps", mixed_score=True, data_var=data_var)
    close(read(mixed, process, u[:, None], output[:, None])[:, 0], eps)


@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
@pytest.mark.parametrize("data_var", [0.25, 1.0])
def test_a_mixed_score_without_output_is_that_of_gaussian_data(data_var, process):
    _, _, u, alpha, sigma = one_block(process)
    mixed = Predict("eps", mixed_score=True, data_var=data_var)
    eps = read(mixed, process, u[:, None], torch.zeros_like(u[:, None]))[:, 0]
    close(-eps / sigma, -u / (alpha.square() * data_var + sigma.square()))


@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_preconditioned_outputs_read_out_as_the_noise(sigma_data, process):
    """x0 = c_skip x + c_out F with x = u / alpha and s = sigma / alpha (Table 1 of the paper)."""
    x0, eps, u, alpha, sigma = one_block(process)
    x, s = u / alpha, sigma / alpha
    skip = sigma_data**2 / (s.square() + sigma_data**2)
    out = s * sigma_data / (s.square() + sigma_data**2).sqrt()
    output = (x0 - skip * x) / out
    given = read(Preconditioned(sigma_data), process, u[:, None], output[:, None])[:, 0]
    close(given, eps, atol=1e-8)


@pytest.mark.parametrize("process", ONE_BLOCK, ids=repr)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_preconditioning_gives_and_asks_for_unit_variance(sigma_data, process):
    """For data of that deviation input and target have variance one and no correlation."""
    parametrisation, kernel = Preconditioned(sigma_data), process.marginal(T)
    alpha, sigma = kernel.mean_matrix[:, 0, 0], kernel.cov[:, 0, 0].sqrt()
    scale, time = parametrisation.inputs(process, T)
    readout = parametrisation.readout(process, T)
    on_state, on_output = readout.on_state[:, 0, 0], readout.on_output[:, 0, 0]
    # Both as combinations of x0 / sigma_data and eps.
    given = torch.stack([scale * alpha * sigma_data, scale * sigma])
    asked = torch.stack([-on_state * alpha * sigma_data, 1 - on_state * sigma]) / on_output
    ones = torch.ones_like(T)
    close(given.square().sum(0), ones)
    close(asked.square().sum(0), ones, rtol=1e-6)
    close((given * asked).sum(0), 0 * ones, atol=1e-6)
    close(time, (sigma / alpha).log() / 4)


# ------------------------------------------------------------------------ two blocks


@pytest.mark.parametrize("process", LANGEVIN, ids=repr)
@pytest.mark.parametrize("kind", ["eps", "score"])
def test_noise_and_scores_of_two_blocks(kind, process):
    x0, eps = draws(2)
    kernel = process.marginal(T)
    u = kernel.sample(process.lift(x0), eps)
    output = eps if kind == "eps" else -torch.linalg.solve(kernel.chol().mT, eps)
    close(read(Predict(kind), process, u, output), eps)


@pytest.mark.parametrize("process", LANGEVIN, ids=repr)
@pytest.mark.parametrize("mixed_score", [False, True])
def test_hybrid_velocity_noise_completes_the_position(mixed_score, process):
    """alpha = v / (ell V) + alpha' for the velocity; the position follows from both blocks."""
    x0, eps = draws(2)
    kernel = process.marginal(T)
    u = kernel.sample(process.lift(x0), eps)
    output = eps[:, 1:]
    if mixed_score:
        ell, variance = 1 / kernel.chol()[:, 1, 1], kernel.cov[:, 1, 1]
        output = output - u[:, 1:] / (ell * variance)[:, None, None]
    parametrisation = VelocityNoise(mixed_score=mixed_score)
    assert parametrisation.has_full_score
    close(read(parametrisation, process, u, output), eps, atol=1e-7)


@pytest.mark.parametrize("process", LANGEVIN, ids=repr)
@pytest.mark.parametrize("mixed_score", [False, True])
def test_denoising_velocity_noise_knows_the_velocity_alone(mixed_score, process):
    """The kernel starts at the drawn velocity; the mixed variance still has its spread."""
    x0, eps = draws(2)
    parametrisation = VelocityNoise(mixed_score=mixed_score, hybrid=False)
    assert not parametrisation.has_full_score
    kernel = parametrisation.kernel(process, T)
    start = process.initial_cov()
    start[1, 1] = 0.0
    close(kernel.cov, process.marginal(T, initial_cov=start).cov, rtol=1e-14, atol=0)
    u_0 = process.lift(x0)
    u_0[:, 1] = draws(1, seed=1)[1][:, 0]
    u = kernel.sample(u_0, eps)
    output = eps[:, 1:]
    if mixed_score:
        ell, variance = 1 / kernel.chol()[:, 1, 1], process.marginal(T).cov[:, 1, 1]
        output = output - u[:, 1:] / (ell * variance)[:, None, None]
    given = read(parametrisation, process, u, output)
    close(given[:, 1], eps[:, 1])
    assert not given[:, 0].any()


def test_predicted_blocks():
    assert range(2)[VelocityNoise().output_blocks(CLD())] == range(1, 2)
    assert range(2)[Predict("eps").output_blocks(CLD())] == range(2)
    assert range(1)[Predict("x0").output_blocks(VP())] == range(1)


@pytest.mark.parametrize(
    "parametrisation",
    [Predict("x0"), Predict("eps", mixed_score=True), VelocityNoise()],
    ids=["x0", "mixed", "velocity"],
)
def test_by_default_a_network_sees_the_state_and_the_time(parametrisation):
    scale, time = parametrisation.inputs(VP(), T)
    assert torch.equal(scale, torch.ones_like(T))
    assert torch.equal(time, T)


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: unchecked(Predict, "noise"), "predict='noise'"),
        (lambda: Predict("x0", mixed_score=True), "mixed score"),
        (lambda: Predict(mixed_score=True, data_var=0.0), "data_var"),
        (lambda: Preconditioned(0.0), "sigma_data"),
        (lambda: Preconditioned(-1.0), "sigma_data"),
    ],
)
def test_errors_name_the_argument(make, name):
    with pytest.raises(ConfigError, match=name):
        make()


@pytest.mark.parametrize(
    ("parametrisation", "process"),
    [
        (Predict("x0"), CLD()),
        (Predict("v_prediction"), CLD()),
        (Predict("eps", mixed_score=True), CLD()),
        (Preconditioned(), CLD()),
        (VelocityNoise(), VP()),
    ],
    ids=lambda item: name_of(item),
)
def test_parts_that_do_not_fit_are_refused(parametrisation, process):
    with pytest.raises(ConfigError, match=name_of(process)):
        parametrisation.check(process)


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_noise_and_scores_fit_any_process(kind):
    Predict(kind).check(CLD())
    VelocityNoise().check(CLD())
