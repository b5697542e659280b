"""Runs of the authors' samplers for Langevin diffusion, with their noise replayed.

They count time backwards, evaluate the mixture's score in float64 and networks in float32. With
last-step denoising one of the network calls follows the last step; here it is not needed, since
the score does not enter the position.
"""

import json

import pytest
import torch
from oracles import GOLDEN, ExactScore, Mixture, ReplayRng, below, golden_cld

from trilemma.checkpoints.official_cld import load_network
from trilemma.denoiser import ScoreDenoiser
from trilemma.networks import PointScore
from trilemma.parametrisation import VelocityNoise
from trilemma.processes import CLD, quadratic_grid, uniform_grid
from trilemma.samplers import ODE, SSCS, EulerMaruyama

PROCESSES = {"cifar": CLD(4.0, jitter=1e-9), "celeba_post": CLD(0.1, 7.0, jitter=1e-6)}
GRIDS = {"linear": uniform_grid, "quadratic": quadratic_grid}
STRIDES = [f"{grid}_den{denoising}" for grid in GRIDS for denoising in (0, 1)]
settings = pytest.mark.parametrize("setting", PROCESSES)


def recorded(name):
    return below(golden_cld("d_samplers"), f"{name}/")


def exact(setting):
    file = recorded("gmm")
    return ExactScore(Mixture.round(file["mu"], file["sd"], file["w"]), PROCESSES[setting])


def points(setting):
    network = PointScore(inputs=4, outputs=2, width=16, log_time=False)
    state = {
        f"layers.{int(layer) // 2}.{kind}": value
        for key, value in recorded(f"{setting}/mlp/net").items()
        for _, layer, kind in [key.split(".")]
    }
    network.load_state_dict(state)
    return ScoreDenoiser(network.eval(), PROCESSES[setting], VelocityNoise())


def image():
    config = json.loads((GOLDEN.parent / "cld" / "e_configs.json").read_text())["cifar_style"]
    config |= {"n_resblocks": 1, "attn_resolutions": "4", "image_size": 8}
    state = below(golden_cld("b_perturb_loss"), "image/net/")
    process = PROCESSES["cifar"]
    return ScoreDenoiser(load_network(state, config).eval(), process, VelocityNoise())


def replay(sampler, denoiser, run, name, draws=1):
    """Repeat a recorded run: data at the end, states after each step, and the grid."""
    has_end = name.endswith("den1")
    num_steps = int(run["nfe"]) - has_end
    if "one_step" in name:
        grid = torch.tensor([1.0, 0.9], dtype=torch.float64)
    else:
        (make,) = [grid for word, grid in GRIDS.items() if word in name]
        grid = make(num_steps, 1e-3)
    rng, states = ReplayRng(*run["noise"][: draws * num_steps]), []
    u = run["u0"].double().unflatten(1, (2, -1))
    final = "drift" if has_end else "none"
    end = sampler.run(denoiser, u, grid, rng, lambda n, u: states.append(u), final=final)
    assert not rng.draws
    assert denoiser.nfe == num_steps
    times = run["score_t"]
    torch.testing.assert_close(grid[: len(times)], times, rtol=0, atol=1e-12)
    return end, torch.stack(states).flatten(2, 3), grid


def check(run, end, *, atol, rtol=0, velocity):
    torch.testing.assert_close(end[:, 0], run["x"], rtol=rtol, atol=atol)
    if velocity:
        torch.testing.assert_close(end[:, 1], run["v"], rtol=rtol, atol=atol)


def check_trajectory(states, wanted, *, atol, rtol=0):
    """States after each step are where the next one starts."""
    states, wanted = states[: len(wanted) - 1].flatten(2), wanted[1:].flatten(2)
    torch.testing.assert_close(states, wanted, rtol=rtol, atol=atol)


@settings
def test_the_oracle_is_the_recorded_score(setting):
    file, denoiser = recorded(f"{setting}/gmm_check"), exact(setting)
    for n, t in enumerate(file["t"]):
        score = denoiser.score(file["u"][n : n + 1].unflatten(1, (2, 2)), t)
        for block, name in enumerate(("score_x", "score_v")):
            torch.testing.assert_close(score[0, block], file[name][n], rtol=1e-9, atol=1e-10)


@settings
@pytest.mark.parametrize("name", [*STRIDES, "one_step"])
def test_euler_maruyama(setting, name):
    run = recorded(f"{setting}/gmm/em_{name}")
    end, states, _ = replay(EulerMaruyama(), exact(setting), run, name)
    check(run, end, atol=1e-11, velocity="den1" not in name)
    check_trajectory(states, run["score_u"], atol=1e-11)


@settings
@pytest.mark.parametrize("name", [*STRIDES, "one_step"])
def test_splitting(setting, name):
    """With their clock where beta varies; their half-steps cancel on the quadratic grid."""
    check_splitting(setting, name)


def check_splitting(setting, name):
    run = recorded(f"{setting}/gmm/sscs_{name}")
    sampler = SSCS(reference_clock=setting == "celeba_post")
    end, states, _ = replay(sampler, exact(setting), run, name, draws=2)
    atol = 1e-6 if "quadratic" in name else 1e-11
    check(run, end, atol=atol, velocity="den1" not in name)
    check_trajectory(states, run["half_step_inputs"][::2], atol=atol)


@pytest.mark.parametrize("name", ["linear_den0", "quadratic_den0", "one_step"])
def test_their_clock_runs_ahead_where_beta_varies(name):
    """The default leaves their run by no more than what the longer clock explains."""
    run, process = recorded(f"celeba_post/gmm/sscs_{name}"), PROCESSES["celeba_post"]
    end, _, grid = replay(SSCS(), exact("celeba_post"), run, name, draws=2)
    t, s = grid[:-1], grid[1:]
    theirs = 2 * process.beta_integral((t + s) / 2, t).sum()
    excess = float(theirs / process.beta_integral(s, t).sum() - 1)
    apart = float((end[:, 0] - run["x"]).abs().max() / run["x"].abs().max())
    assert 0.02 < excess < 0.04
    assert excess / 20 < apart < 3 * excess


@pytest.mark.parametrize(
    ("grid", "num_steps", "percent"),
    [(uniform_grid, 50, 0.99), (quadratic_grid, 50, 1.3), (uniform_grid, 500, 0.1)],
)
def test_how_far_their_clock_runs_ahead(grid, num_steps, percent):
    process, times = PROCESSES["celeba_post"], grid(num_steps, 1e-3)
    t, s = times[:-1], times[1:]
    theirs = 2 * process.beta_integral((t + s) / 2, t).sum()
    excess = theirs / process.beta_integral(s, t).sum() - 1
    assert float(100 * excess) == pytest.approx(percent, abs=0.05)


@settings
@pytest.mark.parametrize("denoising", [0, 1])
def test_probability_flow_of_a_mixture(setting, denoising):
    check_flow(recorded(f"{setting}/gmm/ode_den{denoising}"), exact(setting), denoising)


@settings
def test_probability_flow_of_a_network(setting):
    check_flow(recorded(f"{setting}/mlp/ode_den1"), points(setting), 1)


def check_flow(run, denoiser, denoising):
    """Two adaptive solvers of one tolerance, 1e-5, on one flow."""
    u = run["u0"].double().unflatten(1, (2, 2))
    final = "drift" if denoising else "none"
    end = ODE().run(denoiser, u, uniform_grid(1, 1e-3), ReplayRng(), final=final)
    check(run, end, atol=1e-3, velocity=not denoising)
    assert denoiser.nfe == pytest.approx(int(run["nfe"]) - denoising, abs=30)


@settings
@pytest.mark.parametrize("sampler", ["em", "sscs"])
def test_networks_for_points(setting, sampler):
    name = f"{sampler}_quadratic_den1"
    check_network(points(setting), recorded(f"{setting}/mlp/{name}"), name, setting)


@pytest.mark.parametrize("sampler", ["em", "sscs"])
def test_networks_for_images(sampler):
    """Convolutions in float32 add up in another order."""
    name = f"{sampler}_quadratic_den1"
    check_network(image(), recorded(f"image/{name}"), name, "cifar", atol=5e-5)


def check_network(denoiser, run, name, setting, atol=1e-5):
    if name.startswith("em"):
        end, states, _ = replay(EulerMaruyama(), denoiser, run, name)
        wanted = run["score_u"]
    else:
        sampler = SSCS(reference_clock=setting == "celeba_post")
        end, states, _ = replay(sampler, denoiser, run, name, draws=2)
        wanted = run["half_step_inputs"][::2]
    close = {"rtol": 1e-5, "atol": atol}
    check(run, end, velocity=False, **close)
    check_trajectory(states, wanted.double(), **close)
