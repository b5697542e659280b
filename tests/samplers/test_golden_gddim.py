"""gDDIM on Langevin diffusion, against an independent computation in 40-point quadrature."""

from itertools import pairwise

import pytest
import torch
from oracles import ExactScore, Mixture, ReplayRng, below, golden_cld

from trilemma.denoiser import ScoreDenoiser
from trilemma.parametrisation import VelocityNoise
from trilemma.processes import CLD
from trilemma.processes.base import cholesky
from trilemma.samplers import GDDIM
from trilemma.samplers.gddim import rotated_factor, rotation_angle

START = {"init_position_var": 1e-6, "init_velocity_scale": (0.04 * 0.25 + 1e-6) / 0.25}
RATES = {"gddim_cifar": (4.0, 4.0), "linear_beta": (0.1, 7.0)}
PROCESSES = {name: CLD(*rates, **START) for name, rates in RATES.items()}
LAWS = {name: CLD(*rates) for name, rates in RATES.items()}  # the mixture starts without 1e-6
RUNS = [("gddim_cifar", "N10"), ("gddim_cifar", "N20"), ("linear_beta", "N10")]
SAMPLERS = {
    "R_q1": GDDIM(num_history=1),
    "R_q2": GDDIM(num_history=2),
    "R_q3": GDDIM(num_history=3),
    "L_q2": GDDIM(num_history=2, factor="cholesky"),
}
settings = pytest.mark.parametrize("setting", RATES)
runs = pytest.mark.parametrize(("setting", "run"), RUNS, ids=lambda x: x)


def recorded(name):
    return below(golden_cld("f_gddim"), f"{name}/")


def close(found, wanted, atol=1e-10):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def denoiser_for(setting):
    file = recorded(setting)
    data = Mixture.round(file["gmm_mu"], file["gmm_sd"], file["gmm_w"])
    return ExactScore(data, PROCESSES[setting], LAWS[setting])


@settings
def test_factors(setting):
    file, process = recorded(setting), PROCESSES[setting]
    close(process.transition(0.0, file["t"]).mean_matrix, file["psi_t0"])
    close(process.carried_cov(file["t"]), file["Sigma"])
    close(cholesky(process.carried_cov(file["t"])), file["L"])
    close(rotation_angle(process, file["t"]), file["phi"], atol=1e-12)
    close(rotated_factor(process, file["t"]), file["R"])


@settings
def test_angles_of_unsorted_times(setting):
    file, process = recorded(setting), PROCESSES[setting]
    order = torch.tensor([5, 12, 0, 7])
    close(rotation_angle(process, file["t"][order]), file["phi"][order])
    close(rotation_angle(process, file["t"][order].view(2, 2)), file["phi"][order].view(2, 2))
    for n in (0, 6, 12):
        close(rotation_angle(process, file["t"][n : n + 1]), file["phi"][n : n + 1])


@runs
def test_factors_on_the_grid(setting, run):
    file, process = recorded(f"{setting}/{run}"), PROCESSES[setting]
    close(rotation_angle(process, file["rev_t"]), file["phi"])
    close(rotated_factor(process, file["rev_t"]), file["R"])
    close(cholesky(process.carried_cov(file["rev_t"])), file["L"])


@runs
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_coefficients(setting, run, sampler):
    check_coefficients(setting, run, sampler)


def check_coefficients(setting, run, sampler):
    file = recorded(f"{setting}/{run}")
    rows = SAMPLERS[sampler].plan(denoiser_for(setting), file["rev_t"])
    wanted = file[f"C_{sampler}"]
    factor = file["L" if sampler.startswith("L") else "R"]
    for n, row in enumerate(rows):
        close(row.on_state, file["psi_step"][n])
        close(row.to_eps, -factor[n].mT)
        assert len(row.on_eps) == min(n + 1, wanted.shape[1])
        close(torch.stack(row.on_eps), wanted[n, : len(row.on_eps)])
        assert row.noise is None


@runs
@pytest.mark.parametrize("stochasticity", [0.5, 1.0])
def test_stochastic_coefficients(setting, run, stochasticity):
    file = recorded(f"{setting}/{run}")
    wanted = below(file, f"lam{stochasticity}/")
    sampler = GDDIM(num_history=1, stochasticity=stochasticity)
    for n, row in enumerate(sampler.plan(denoiser_for(setting), file["rev_t"])):
        (on_eps,) = row.on_eps
        close(row.on_state, file["psi_step"][n])
        close(on_eps, wanted["eps_coef"][n])
        close(on_eps @ torch.linalg.inv(file["R"][n]) + row.on_state, wanted["psi_hat"][n])
        close(row.noise @ row.noise.mT, wanted["P"][n])


@runs
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trajectories(setting, run, sampler):
    file = recorded(f"{setting}/{run}")
    grid, wanted, denoiser = file["rev_t"], below(file, f"traj_{sampler}/"), denoiser_for(setting)
    u, states = wanted["u"][0].unflatten(1, (2, 2)), []
    end = SAMPLERS[sampler].run(
        denoiser, u, grid, ReplayRng(), lambda n, u: states.append(u), final="drift"
    )
    assert denoiser.nfe == len(grid) - 1
    close(torch.stack(states).flatten(2), wanted["u"][1:])
    close(end[:, 0], wanted["denoised"][:, :2])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noises_on_the_way(sampler):
    file = recorded("gddim_cifar/N10")
    grid, wanted, denoiser = (
        file["rev_t"],
        below(file, f"traj_{sampler}/"),
        denoiser_for("gddim_cifar"),
    )
    u, carry = wanted["u"][0].unflatten(1, (2, 2)), None
    rows = SAMPLERS[sampler].plan(denoiser, grid)
    for n, ((t, s), row) in enumerate(zip(pairwise(grid), rows, strict=True)):
        u, carry = SAMPLERS[sampler].advance(denoiser, u, t, s, row, carry, ReplayRng())
        assert len(carry) == min(n + 1, SAMPLERS[sampler].num_history)
        close(carry[0].flatten(1), wanted["eps"][n])


@settings
@pytest.mark.parametrize("mixed_score", [False, True])
def test_positions_are_completed_from_velocities(setting, mixed_score):
    """The score of positions from that of velocities alone, and the posterior mean with it."""
    check_completion(setting, mixed_score)


def check_completion(setting, mixed_score):
    file, process = recorded(f"{setting}/completion"), LAWS[setting]
    u, (t,) = file["u"].unflatten(1, (2, 2)), file["t"]
    kernel = process.marginal(t)
    deviation = kernel.chol()[1, 1]
    noise = -deviation * file["score"][:, 2:]
    if mixed_score:
        noise = noise - u[:, 1] * deviation / kernel.cov[1, 1]
    denoiser = ScoreDenoiser(lambda *_: noise, process, VelocityNoise(mixed_score=mixed_score))
    close(denoiser.score(u, t)[:, 0], file["score_x_from_v"])
    close(denoiser.score(u, t).flatten(1), file["score"])
    close(denoiser.x0(u, t)[:, 0], file["x0_hat"])
