"""Ancestral sampling: recorded trajectories, and exactness on Gaussian data."""

import pytest
import torch
from oracles import (
    BasisRng,
    ExactDenoiser,
    GaussianData,
    ReplayRng,
    affine_law,
    below,
    golden,
    golden_config,
)

from trilemma.checkpoints.official_ddgan import load_generator
from trilemma.methods import DDGAN
from trilemma.processes import VP, uniform_grid
from trilemma.samplers import Ancestral


def recorded():
    file = below(golden("sampling"), "T4/")
    name = golden_config("sampling")["generator_file"].removesuffix(".safetensors")
    generator = load_generator(below(golden(name), "state/"), golden_config(name)["config"])
    return DDGAN(generator, num_steps=4).eval(), file


def test_recorded_trajectory():
    """The last recorded noise is never drawn here, and must not matter."""
    method, file = recorded()
    draws = []
    for n in range(4):
        draws += [file["z"][n]] + ([file["noise"][n]] if n < 3 else [])
    rng, states = ReplayRng(*draws), []
    denoiser = method.denoiser()
    grid = method.grid()
    u = Ancestral().run(
        denoiser, file["x_T"][:, None], grid, rng, lambda n, u: states.append(u[:, 0])
    )
    assert not rng.draws
    assert denoiser.nfe == 4
    torch.testing.assert_close(u[:, 0], file["sample"], rtol=0, atol=2e-5)
    torch.testing.assert_close(torch.stack(states[:-1]), file["x_in"][1:], rtol=0, atol=2e-5)
    torch.testing.assert_close(file["x_in"][0], file["x_T"], rtol=0, atol=0)


@pytest.mark.parametrize("n", range(4))
def test_recorded_predictions_step_by_step(n):
    method, file = recorded()
    denoiser = method.denoiser()
    with torch.no_grad():
        x0 = denoiser.x0(file["x_in"][n][:, None], method.grid()[n], ReplayRng(file["z"][n]))
    torch.testing.assert_close(x0[:, 0], file["x0_pred"][n], rtol=0, atol=2e-5)


class Misplaced(ExactDenoiser):
    """Knows where clean data live, whatever it tells the sampler."""

    def __init__(self, data, process, origin):
        super().__init__(data, process, origin)
        self.truth = origin

    def x0(self, u, t, rng):
        told, self.origin = self.origin, self.truth
        drawn = super().x0(u, t, rng)
        self.origin = told
        return drawn


def sampled_law(num_steps, *, exact_start, process=None, believed=None, extra_draws=0):
    """Exact law of the sampler's output with a perfect denoiser; also the data and the NFE."""
    data, process = GaussianData(), process or VP(0.1, 20.0)
    grid = uniform_grid(num_steps)
    origin = float(grid[-1])
    num_inputs = data.dim * (2 * num_steps + extra_draws)
    rng = BasisRng(num_inputs)
    u = rng.normal(data.dim)
    if exact_start:
        mean, cov = data.diffused(process, 1.0, origin)
        u = mean + u @ torch.linalg.cholesky(cov).T
    denoiser = Misplaced(data, process, origin)
    if believed is not None:
        denoiser.origin = believed
    end = Ancestral().run(denoiser, u[:, None], grid, rng)
    assert rng.used == num_inputs  # start, T draws of x0, T - 1 posteriors
    return affine_law(end), data, denoiser.nfe


@pytest.mark.parametrize("process", [VP(0.1, 20.0), VP(1.0, 1.0)], ids=["fast", "slow"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_exact_for_a_perfect_denoiser_however_large_the_steps(num_steps, process):
    (mean, cov), data, nfe = sampled_law(num_steps, exact_start=True, process=process)
    torch.testing.assert_close(mean, data.mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(cov, data.cov, rtol=1e-9, atol=1e-10)
    assert nfe == num_steps


def test_the_standard_prior_costs_little():
    """Starting from N(0, I) instead of the law at t = 1 moves the result by O(alpha(1))."""
    (mean, cov), data, _ = sampled_law(4, exact_start=False)
    alpha = float(VP(0.1, 20.0).marginal(1.0, 1e-3).mean_matrix)
    assert 1e-9 < float((mean - data.mean).abs().max()) < 2 * alpha**2
    assert float((cov - data.cov).abs().max()) < 5 * alpha**2


def test_wrong_end_of_the_grid_is_noticed():
    """Clean data taken to live at 0 when they live at t_min is a different posterior."""
    (_, cov), data, _ = sampled_law(2, exact_start=True, believed=0.0, extra_draws=1)
    assert float((cov - data.cov).abs().max()) > 1e-5


def test_nfe_counts_calls_and_accumulates():
    method, file = recorded()
    denoiser = method.denoiser()
    assert denoiser.nfe == 0
    rng = ReplayRng(file["z"][0])
    denoiser.x0(file["x_T"][:, None], method.grid()[0], rng)
    assert denoiser.nfe == 1
    assert method.denoiser().nfe == 0  # a fresh view starts at zero
