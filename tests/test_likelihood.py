"""Likelihoods: closed forms on Gaussians and mixtures, the recorded runs, the kind of number."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import ReplayRng, below, official_points
from safetensors.torch import load_file
from scipy.integrate import solve_ivp

from trilemma.data import Toy
from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.likelihood import NLL, dequantise, negative_log_likelihood
from trilemma.methods import CLDSGM, DDGAN
from trilemma.networks import PointGenerator, PointScore
from trilemma.oracle import ExactMixture
from trilemma.parametrisation import Predict
from trilemma.processes import CLD, VE, VP, GeometricVP, LinearSDE, SubVP
from trilemma.rng import BatchRng

T_MIN = 1e-5
GOLDEN = Path(__file__).parent / "golden" / "cld" / "d_samplers.safetensors"


def gaussian(process, data_var):
    """The exact denoiser of N(0, data_var I), image-shaped, by a mixed score and no network."""
    parametrisation = Predict("eps", mixed_score=True, data_var=data_var)
    return ScoreDenoiser(lambda u, *_: torch.zeros_like(u), process, parametrisation)


def log_normal(x, variance):
    return (
        -(x.double().square() / variance + math.log(2 * math.pi * variance)).flatten(1).sum(1) / 2
    )


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("process", [VP(), SubVP(), GeometricVP(), VE(sigma_max=20.0)], ids=repr)
def test_closed_form_on_gaussians(process, divergence):
    """The flow scales by a number, so divergence and density are known; nothing is zero."""
    data_var = 0.3
    x0 = math.sqrt(data_var) * torch.randn(3, 2, 3, 3, dtype=torch.float64)
    found = negative_log_likelihood(
        gaussian(process, data_var), x0, BatchRng(0, 3), divergence=divergence
    )
    times = torch.tensor([T_MIN, 1.0], dtype=torch.float64)
    kernel = process.marginal(times)
    start, end = (kernel.mean_matrix.square() * data_var + kernel.cov).flatten().tolist()
    growth = math.sqrt(end / start)
    expected = log_normal(growth * x0, float(process.prior_cov())) + 18 * math.log(growth)
    assert abs(math.log(growth)) > 0.1
    torch.testing.assert_close(found.nats, -expected, rtol=1e-4, atol=1e-3)
    assert found.nfe > 10
    assert not found.is_bound


def test_density_of_a_mixture():
    """Two moons would have no closed flow; eight Gaussians neither, but their density is known."""
    toy = Toy("ring8", scale=1.0)
    oracle = ExactMixture(VP(), toy.modes, toy.std)
    points = toy.modes + toy.std * torch.randn(8, 2, dtype=torch.float64)
    found = negative_log_likelihood(oracle, points, BatchRng(0, 8), divergence="exact")
    torch.testing.assert_close(found.nats, -toy.log_prob(points), rtol=0, atol=0.02)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased(probe):
    oracle = ExactMixture(VP(), torch.tensor([[-1.0, 0.3], [0.8, -0.4]]), 0.4)
    point = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    exact = negative_log_likelihood(oracle, point, BatchRng(0, 1), divergence="exact")
    many = negative_log_likelihood(oracle, point.expand(4000, 2), BatchRng(1, 4000), probe=probe)
    error = float(many.nats.std()) / 4000**0.5
    assert error > 0
    assert abs(float(many.nats.mean() - exact.nats[0])) < 5 * error


def test_probing_the_velocities_alone_is_unbiased_and_surer():
    """Of position and velocity the coupling is known, and its noise is most of the estimate's."""
    oracle = ExactMixture(CLD(), torch.tensor([[-1.0, 0.3], [0.8, -0.4]]), 0.4)
    point, velocity = torch.tensor([[0.1, 0.5]], dtype=torch.float64), torch.ones(1, 2).double()
    exact = negative_log_likelihood(oracle, point, ReplayRng(velocity), divergence="exact")
    spread = {}
    for probed in ("noisy", "all"):
        probes = torch.randn(2000, 4, dtype=torch.float64)
        rng = ReplayRng(velocity.expand(2000, 2), probes)
        found = negative_log_likelihood(oracle, point.expand(2000, 2), rng, probed=probed)
        spread[probed] = float(found.nats.std())
        gap = float(found.nats.mean() - exact.nats[0])
        assert abs(gap) < 5 * spread[probed] / 2000**0.5
    assert 0 < spread["noisy"] < 0.5 * spread["all"]


def test_recorded_probes_are_left_as_they_are():
    oracle = ExactMixture(CLD(), torch.zeros(1, 2).double(), 0.4)
    velocity, probe = torch.ones(1, 2).double(), torch.ones(1, 4).double()
    rng, point = ReplayRng(velocity, probe), torch.zeros(1, 2).double()
    negative_log_likelihood(oracle, point, rng, probe="gaussian", probed="noisy", rtol=1e-2)
    assert torch.equal(probe, torch.ones(1, 4).double())


class DampedPosition(LinearSDE):
    """Position that falls by itself, driven by a noisy velocity: no block without a trace."""

    num_blocks = 2

    def drift_matrix(self, t):
        return torch.tensor([[-0.7, 1.5], [-1.2, -2.0]], dtype=torch.float64).expand(*t.shape, 2, 2)

    def diffusion_matrix(self, t):
        return torch.tensor([[0.0, 0.0], [0.0, 1.1]], dtype=torch.float64).expand(*t.shape, 2, 2)

    def initial_cov(self):
        return torch.diag(torch.tensor([0.0, 0.3], dtype=torch.float64))

    def prior_cov(self):
        """Where data of variance 0.25 end."""
        spread = torch.diag(torch.tensor([0.25, 0.3], dtype=torch.float64))
        return self.marginal(1.0, initial_cov=spread).cov


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_trace_of_blocks_without_noise_is_that_of_the_drift(divergence):
    """One Gaussian: its density is known, and Rademacher's probe of one block is exact."""
    process, t_min = DampedPosition(), 1e-3
    oracle = ExactMixture(process, torch.zeros(1, 1).double(), 0.5)
    x0, eps = torch.tensor([[0.4], [-1.1]], dtype=torch.float64), torch.ones(2, 1).double()
    rng = ReplayRng(eps, torch.randn(2, 2, dtype=torch.float64))
    found = negative_log_likelihood(
        oracle, x0, rng, divergence=divergence, probed="noisy", t_min=t_min
    )
    spread = torch.diag(torch.tensor([0.25, 0.3], dtype=torch.float64))
    start = process.marginal(t_min, initial_cov=spread).cov
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), start)
    joint = law.log_prob(torch.cat([x0, math.sqrt(0.3) * eps], dim=1))
    entropy = (1 + math.log(2 * math.pi * 0.3)) / 2
    torch.testing.assert_close(found.nats, -joint - entropy, rtol=0, atol=1e-4)


def test_bound_with_velocities_is_that_of_the_joint_density():
    """-log p(x, v) - H(v), with the joint density at t_min known for Gaussian data."""
    process, std, t_min = CLD(), 0.5, 1e-5
    centre = torch.tensor([0.3, -0.2], dtype=torch.float64)
    oracle = ExactMixture(process, centre[None], std)
    x0 = torch.tensor([[0.1, 0.4], [-0.5, 0.2]], dtype=torch.float64)
    eps = torch.tensor([[1.0, -0.7], [0.2, 2.0]], dtype=torch.float64)
    found = negative_log_likelihood(oracle, x0, ReplayRng(eps), divergence="exact", t_min=t_min)
    spread = process.initial_cov()
    spread[0, 0] = std**2
    kernel = process.marginal(t_min, initial_cov=spread)
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), kernel.cov)
    state = torch.stack([x0, 0.1 * eps], dim=-1)  # (b, d, k), velocities of variance 0.01
    mean = torch.stack([c * kernel.mean_matrix[:, 0] for c in centre])
    joint = law.log_prob(state - mean).sum(1)
    entropy = 1 + math.log(2 * math.pi * 0.01)
    # What is left of the data at t = 1, e^-8 of them, meets a prior without it.
    torch.testing.assert_close(found.nats, -joint - entropy, rtol=0, atol=5e-3)
    assert found.is_bound
    assert "bound" in found.kind


def recorded(setting, probe):
    """Model, data, velocities, probe and bound of a recorded run."""
    file = load_file(GOLDEN)
    network = PointScore(4, 2, width=16, log_time=False)
    network.load_state_dict(official_points(below(file, f"{setting}/mlp/net/")))
    beta_min, beta_max, jitter = {"cifar": (4, 4, 1e-9), "celeba_post": (0.1, 7, 1e-6)}[setting]
    method = CLDSGM(network, CLD(beta_min, beta_max, jitter=jitter))
    run = below(file, f"{setting}/mlp/likelihood_{probe}/")
    x0, velocity = run["data"].chunk(2, dim=1)
    return method, x0, velocity, run["probe"], run["nll_bound_x"].double()


RECORDED = [(s, p) for s in ("cifar", "celeba_post") for p in ("rademacher", "gaussian")]


@pytest.mark.parametrize(("setting", "probe"), RECORDED)
def test_recorded_likelihoods(setting, probe):
    """Both solvers stop at a tolerance of 1e-5, and the recorded one errs by up to 0.005."""
    method, x0, velocity, drawn, bound = recorded(setting, probe)
    rng = ReplayRng(velocity / math.sqrt(0.04 * 0.25), drawn)
    found = negative_log_likelihood(method.denoiser(), x0, rng, probe=probe)
    torch.testing.assert_close(found.nats, bound, rtol=0, atol=5e-3)


@pytest.mark.parametrize(("setting", "probe"), RECORDED)
def test_recorded_likelihoods_by_the_recorded_solver(setting, probe):
    """Flow and divergence are the recorded ones: the same solver ends at the same numbers."""
    method, x0, velocity, drawn, bound = recorded(setting, probe)
    denoiser, directions = method.denoiser(), drawn.view(-1, 2, 2)
    u_0 = torch.stack([x0, velocity], dim=1)

    def slope(t, y):
        state = torch.tensor(y[: u_0.numel()], dtype=torch.float32).view_as(u_0)
        state.requires_grad_()
        flow = denoiser.flow(state, float(np.float32(t)))
        (product,) = torch.autograd.grad(flow, state, directions)
        trace = (product * directions).flatten(1).sum(1)
        return np.concatenate([flow.detach().numpy().ravel(), trace.numpy()])

    start = np.concatenate([u_0.numpy().ravel(), np.zeros(len(u_0))])
    end = solve_ivp(slope, (1e-5, 1.0), start, rtol=1e-5, atol=1e-5, method="RK45").y[:, -1]
    position, velocity = torch.from_numpy(end[: u_0.numel()].copy()).view_as(u_0).unbind(1)
    joint = log_normal(position, 1.0) + log_normal(velocity, 0.25)
    joint = joint + torch.from_numpy(end[u_0.numel() :].copy())
    entropy = 1 + math.log(2 * math.pi * 0.01)
    torch.testing.assert_close(-joint - entropy, bound, rtol=0, atol=2e-5)


def test_uniform_bytes_score_eight_bits():
    """The uniform density on [-1, 1]^d is 2^-d, so a byte costs its eight bits."""
    nats = torch.full((4,), 12 * math.log(2.0), dtype=torch.float64)
    found = NLL(nats, 12, False, "exact", 10)
    torch.testing.assert_close(found.bits_per_dim(), torch.full((4,), 8.0, dtype=torch.float64))


def test_dequantised_bytes_stay_in_their_cells():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(50, 1, 16, 16)
    x0 = dequantise(images, BatchRng(0, 50))
    assert x0.dtype == torch.float32
    cells = (x0.double() + 1) * 128
    assert torch.equal(cells.floor().to(torch.uint8), images)
    within = cells - cells.floor()
    assert abs(float(within.mean()) - 0.5) < 0.01
    assert abs(float(within.var()) - 1 / 12) < 0.003


def test_what_has_no_density_is_refused():
    gan = DDGAN(PointGenerator(width=8))
    with pytest.raises(ConfigError, match="no density"):
        negative_log_likelihood(gan.denoiser(), torch.zeros(2, 2), BatchRng(0, 2))
    still = CLDSGM(PointScore(4, 2, width=8), CLD(init_velocity_scale=0.0))
    with pytest.raises(ConfigError, match="init_velocity_scale"):
        negative_log_likelihood(still.denoiser(), torch.zeros(2, 2), BatchRng(0, 2))


@pytest.mark.parametrize(
    "options", [{"divergence": "exactly"}, {"probe": "cauchy"}, {"t_min": 0.0}, {"t_min": 1.0}]
)
def test_unknown_options_are_refused(options):
    denoiser = gaussian(VP(), 1.0)
    with pytest.raises(ConfigError, match=next(iter(options)).split("_")[0]):
        negative_log_likelihood(denoiser, torch.zeros(1, 1, 2, 2), BatchRng(0, 1), **options)
