"""Score denoisers: conversions, recorded scores, the position's noise, guidance, the table."""

import pytest
import torch
from oracles import Mixture, below, golden_cld, official_points
from torch import nn
from torch.distributions import MultivariateNormal

from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.networks import PointResNet, PointScore
from trilemma.networks.layers import LabelEmbedding
from trilemma.parametrisation import Preconditioned, Predict, VelocityNoise
from trilemma.processes import CLD, VE, VP, act

CASES = {
    "eps": (VP(), Predict("eps")),
    "mixed": (VP(init_var=1e-3), Predict("eps", mixed_score=True, data_var=0.3)),
    "x0": (VP(), Predict("x0")),
    "score": (VE(), Predict("score")),
    "v": (VP(), Predict("v_prediction")),
    "edm": (VE(sigma_max=80.0, clock="linear"), Preconditioned()),
    "eps of two blocks": (CLD(), Predict("eps")),
    "hybrid": (CLD(0.1, 7.0), VelocityNoise()),
    "hybrid without mixing": (CLD(), VelocityNoise(mixed_score=False)),
    "denoising": (CLD(), VelocityNoise(hybrid=False)),
}
TIMES = torch.tensor([1.0, 0.4, 0.01], dtype=torch.float64)


class Linear(nn.Module):
    """A fixed smooth function of the joined state, in the given precision."""

    num_classes = 0

    def __init__(self, inputs, outputs):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        self.seen = []

    def forward(self, u, t, code=None, label=None):
        self.seen.append((u.dtype, t.dtype, t[0].item()))
        return torch.sin(u.double() @ self.weight.T + t.double()[:, None]).to(u)


def denoiser_of(name, **options):
    process, parametrisation = CASES[name]
    k = process.num_blocks
    blocks = len(range(k)[parametrisation.output_blocks(process)])
    return ScoreDenoiser(Linear(2 * k, 2 * blocks), process, parametrisation, **options)


def state_of(name, dtype=torch.float64, num=4):
    k = CASES[name][0].num_blocks
    return torch.randn(num, k, 2, generator=torch.Generator().manual_seed(1)).to(dtype)


def close(value, expected, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


# ----------------------------------------------------------------------- conversions


@pytest.mark.parametrize("name", CASES)
def test_noise_is_the_readout_of_the_output(name):
    denoiser, u = denoiser_of(name), state_of(name)
    process, parametrisation = CASES[name]
    for t in TIMES:
        scale, time = parametrisation.inputs(process, t)
        joined = (float(scale) * u).flatten(1).float()
        times = torch.full((len(u),), float(time), dtype=torch.float32)
        output = denoiser.network(joined, times).double().unflatten(1, (-1, 2))
        readout = parametrisation.readout(process, t)
        expected = act(readout.on_output, output) + act(readout.on_state, u)
        close(denoiser.eps(u, t), expected)


@pytest.mark.parametrize("name", CASES)
def test_scores_flows_and_data_follow_from_the_noise(name):
    denoiser, u = denoiser_of(name), state_of(name)
    process, parametrisation = CASES[name]
    for t in TIMES:
        kernel = parametrisation.kernel(process, t)
        chol, eps = kernel.chol(), denoiser.eps(u, t)
        score = -torch.einsum("kj,bjd->bkd", torch.linalg.inv(chol).mT, eps)
        if name == "denoising":
            score[:, 0] = 0.0
        close(denoiser.score(u, t), score)
        drift, diffusion = process.drift_matrix(t), process.diffusion_matrix(t)
        flow = drift @ u - diffusion @ diffusion.mT @ score / 2
        close(denoiser.flow(u, t), flow)
        if name != "denoising":
            x0 = denoiser.x0(u, t)
            signal = kernel.mean_matrix[0, 0]
            close(x0[:, 0], (u - chol @ eps)[:, 0] / signal)
            assert not x0[:, 1:].any()


@pytest.mark.parametrize("name", sorted(set(CASES) - {"denoising", "eps of two blocks"}))
def test_noise_and_data_make_the_state(name):
    """Round trip u = Psi (x0, 0) + L eps in every block.

    Two free noises would over-determine the datum of two blocks.
    """
    denoiser, u = denoiser_of(name), state_of(name)
    process, _ = CASES[name]
    for t in TIMES:
        kernel = process.marginal(t)
        again = kernel.sample(denoiser.x0(u, t), denoiser.eps(u, t))
        close(again, u, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_states_keep_their_type_and_networks_see_single_precision(name, dtype):
    denoiser, u = denoiser_of(name), state_of(name, dtype)
    for value in (denoiser.eps(u, 0.5), denoiser.score(u, 0.5), denoiser.flow(u, 0.5)):
        assert value.dtype == dtype
        assert value.shape == u.shape
    assert {seen[:2] for seen in denoiser.network.seen} == {(torch.float32, torch.float32)}
    assert denoiser.nfe == 3


def test_without_the_position_noise_there_are_no_clean_data():
    denoiser = denoiser_of("denoising")
    assert not denoiser.has_full_score
    with pytest.raises(ConfigError, match="hybrid"):
        denoiser.x0(state_of("denoising"), TIMES[1])
    assert not denoiser.score(state_of("denoising"), TIMES[1])[:, 0].any()
    assert denoiser.score(state_of("denoising"), TIMES[1])[:, 1].all()


# ------------------------------------------------------------------- recorded scores

SETTINGS = {
    "cifar": {"beta_min": 4.0, "jitter": 1e-9},
    "celeba_post": {"beta_min": 0.1, "beta_max": 7.0, "jitter": 1e-6},
}


def recorded(setting, kind):
    """Tensors of one recorded network, and the network."""
    file = below(golden_cld("b_perturb_loss"), f"{setting}/{kind}/")
    if kind == "mlp":
        network = PointScore(4, 2, width=16, log_time=False)
    else:
        network = PointResNet(4, 2, width=16, num_layers=3)
    network.load_state_dict(official_points(below(file, "net/")))
    return file, network


@pytest.mark.parametrize("mixed", [0, 1])
@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("kind", ["mlp", "resnet"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_recorded_scores(setting, kind, objective, mixed):
    """The velocity's score and the predicted data, one sample at a time: each has its own t."""
    file, network = recorded(setting, kind)
    part = below(file, f"{objective}/")
    parametrisation = VelocityNoise(mixed_score=bool(mixed), hybrid=objective == "hsm")
    denoiser = ScoreDenoiser(network, CLD(**SETTINGS[setting]), parametrisation)
    expected = below(part, f"mixed{mixed}/")
    assert ("x0_prediction" in expected) == denoiser.has_full_score
    with torch.no_grad():
        for i, t in enumerate(part["t"]):
            u = part["u_t"][i : i + 1].unflatten(1, (2, 2))
            close(denoiser.output(u, t)[:, 0], part["net_out"][i : i + 1].double(), 1e-5, 1e-6)
            score = denoiser.score(u, t)[:, 1]
            close(score, expected["score"][i : i + 1].double(), rtol=1e-5, atol=1e-5)
            if denoiser.has_full_score:
                x0 = denoiser.x0(u, t)[:, 0]
                close(x0, expected["x0_prediction"][i : i + 1], rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------- the position's noise


class VelocityPart(nn.Module):
    """The velocity's noise of a mixture, from its exact score, whatever the network's input."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, u, t, code=None, label=None):
        return self.eps


class Completion(ScoreDenoiser):
    """Reads noise of the velocity that was computed in double precision."""

    def output(self, u, t):
        return self.network(u, t)[:, None]


def completed(process, eps_v):
    return Completion(VelocityPart(eps_v), process, VelocityNoise(mixed_score=False))


COMPLETIONS = {"gddim_cifar": CLD(4.0), "linear_beta": CLD(0.1, 7.0)}
"""Processes of the recorded completions, whose mixtures carry no extra variance."""


@pytest.mark.parametrize("setting", COMPLETIONS)
def test_recorded_completion(setting):
    process = COMPLETIONS[setting]
    file = below(golden_cld("f_gddim"), f"{setting}/completion/")
    u, t = file["u"].unflatten(1, (2, 2)), file["t"][0]
    ell = 1 / process.marginal(t).chol()[1, 1]
    denoiser = completed(process, -file["score"][:, 2:] / ell)
    close(denoiser.score(u, t)[:, 0], file["score_x_from_v"], rtol=0, atol=1e-10)
    close(denoiser.score(u, t).flatten(1), file["score"], rtol=0, atol=1e-10)
    close(denoiser.x0(u, t)[:, 0], file["x0_hat"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("process", [CLD(), CLD(0.1, 7.0), CLD(mass=1.0), CLD(friction=3.0)])
@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_completion_is_exact_for_a_mixture(process, t):
    """From the velocity's score alone: the position's score and the posterior mean of data."""
    mixture, kernel = Mixture.example(), process.marginal(t)
    u = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u = act(torch.linalg.cholesky(kernel.cov + 0.2 * torch.eye(2, dtype=torch.float64)), u)
    means, covs = mixture.diffused(process, t)
    laws = MultivariateNormal(means, covariance_matrix=covs)
    logs = laws.log_prob(u.flatten(1)[:, None]) + mixture.weights.log()
    share = torch.softmax(logs, 1)[..., None]
    pulls = torch.einsum("bni,nij->bnj", means - u.flatten(1)[:, None], covs.inverse())
    score = (share * pulls).sum(1).view_as(u)
    signal = torch.kron(kernel.mean_matrix[:, :1], torch.eye(2, dtype=torch.float64))
    means_of_data = mixture.means - torch.einsum("bni,ij,njk->bnk", pulls, signal, mixture.covs)
    x0 = (share * means_of_data).sum(1)
    denoiser = completed(process, -score[:, 1] * kernel.chol()[1, 1])
    close(denoiser.score(u, t), score, rtol=1e-7, atol=1e-7)
    close(denoiser.x0(u, torch.tensor(t, dtype=torch.float64))[:, 0], x0, rtol=1e-7, atol=1e-7)


# -------------------------------------------------------------------------- guidance


class Labelled(nn.Module):
    """Prediction that depends on the label through an embedding."""

    num_classes, event_shape = 3, (2,)

    def __init__(self):
        super().__init__()
        self.embedding, self.calls = LabelEmbedding(3, 2), []

    def forward(self, u, t, code=None, label=None):
        self.calls.append(label)
        return torch.tanh(u) + self.embedding(label)


def test_the_label_minus_one_is_no_label():
    embedding = LabelEmbedding(3, 5)
    given = embedding(torch.tensor([-1, 0, 2, -1]))
    assert not given[[0, 3]].any()
    assert torch.equal(given[[1, 2]], embedding.weight[[0, 2]])
    given.sum().backward()
    assert torch.equal(embedding.weight.grad[:, 0], torch.tensor([1.0, 0.0, 1.0]))


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0, 7.5])
def test_guidance_moves_away_from_the_unconditional_output(guidance):
    network, label = Labelled(), torch.tensor([0, 2, 1, 2])
    denoiser = ScoreDenoiser(network, VP(), Predict(), label, guidance=guidance)
    u = state_of("eps", torch.float32)
    plain, conditional = torch.tanh(u[:, 0]), torch.tanh(u[:, 0]) + network.embedding(label)
    expected = plain + guidance * (conditional - plain)
    close(denoiser.eps(u, 0.5)[:, 0], expected, rtol=1e-5, atol=1e-6)
    assert denoiser.nfe == len(network.calls) == 2
    denoiser.flow(u, 0.5)
    assert denoiser.nfe == 4
    assert denoiser.label is label


def test_plain_conditional_sampling_costs_one_call():
    network, label = Labelled(), torch.tensor([0, 2, 1, 2])
    denoiser = ScoreDenoiser(network, VP(), Predict(), label)
    u = state_of("eps", torch.float32)
    close(denoiser.eps(u, 0.5)[:, 0], torch.tanh(u[:, 0]) + network.embedding(label), 1e-6, 1e-6)
    assert denoiser.nfe == len(network.calls) == 1


def test_guidance_needs_labels():
    with pytest.raises(ConfigError, match=r"guidance=2\.0"):
        ScoreDenoiser(Labelled(), VP(), Predict(), guidance=2.0)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="VP"):
        ScoreDenoiser(Labelled(), VP(), VelocityNoise())


# ------------------------------------------------------------------------- the table


class Counting(VP):
    """VP that counts how often its marginals are asked for."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def marginal(self, t, origin=0.0, *, initial_cov=None):
        self.asked += 1
        return super().marginal(t, origin, initial_cov=initial_cov)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_prepared_coefficients_are_those_of_each_time(name, dtype):
    u, ahead, lazy = state_of(name, dtype), denoiser_of(name), denoiser_of(name)
    ahead.prepare(torch.cat([TIMES, torch.zeros(1, dtype=torch.float64)]))
    for t in TIMES:
        for act_on in ("eps", "score", "flow"):
            mine, its = (getattr(d, act_on)(u, t) for d in (ahead, lazy))
            close(mine, its, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-7)


def test_a_prepared_table_is_shared():
    process = Counting()
    first = ScoreDenoiser(Linear(2, 2), process, Predict())
    first.prepare(TIMES)
    asked = process.asked
    assert asked > 0
    second = ScoreDenoiser(Linear(2, 2), process, Predict())
    second.adopt(first)
    second.prepare(TIMES)
    u = state_of("eps")
    close(second.score(u, TIMES[0]), first.score(u, TIMES[0]))
    assert process.asked == asked
    assert (first.nfe, second.nfe) == (1, 1)


@pytest.mark.parametrize("name", CASES)
def test_precision_does_not_depend_on_who_asked_before(name):
    """Coefficients stay in double precision whatever states they have met."""
    denoiser, fresh = denoiser_of(name), denoiser_of(name)
    for act_on in ("eps", "score", "flow"):
        getattr(denoiser, act_on)(state_of(name, torch.float32), TIMES[1])
        mine, its = (getattr(d, act_on)(state_of(name), TIMES[1]) for d in (denoiser, fresh))
        assert torch.equal(mine, its)
