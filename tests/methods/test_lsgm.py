"""Latent score-based models: their bound and its gradient in closed form, phases, training."""

import copy
import math

import numpy as np
import pytest
import runs
import torch
from oracles import ExactScore, Mixture, name_of
from test_latent_likelihood import COV, MEAN, LinearGaussian, points
from test_method_laws import PointVAE
from torch import nn

from trilemma.config import build_method, resolve
from trilemma.data import Toy
from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.methods import (
    CLDSGM,
    DDGAN,
    DDPM,
    EDM,
    LSGM,
    VAE,
    Importance,
    KLSchedule,
    Likelihood,
    Reweighted,
    UniformTimes,
    UniformWeight,
)
from trilemma.methods.score import ScoreMatching
from trilemma.networks import MixedScore, PointDiscriminator, PointGenerator, PointScore
from trilemma.parametrisation import Predict, VelocityNoise
from trilemma.pipeline import load, save_pipeline
from trilemma.processes import CLD, VP, GeometricVP
from trilemma.rng import BatchRng
from trilemma.training import Adam

# ------------------------------------------------------------- the bound of a linear-Gaussian model

DATA = Mixture(MEAN[None], COV[None])
"""The law of the latents, whose exact score is the prior."""


class ExactNetwork(nn.Module):
    """Predicts the noise of some blocks of diffused Gaussian latents without error."""

    num_classes = 0

    def __init__(self, process, parametrisation):
        super().__init__()
        self.event_shape = (process.num_blocks * DATA.dim,)
        self.blocks = parametrisation.output_blocks(process)
        self.exact = ExactScore(DATA, process, parametrisation=parametrisation)

    def forward(self, u, t, code=None, label=None):
        (time,) = set(t.tolist())
        state = u.unflatten(1, (-1, DATA.dim)).double()
        return self.exact.eps(state, time)[:, self.blocks].flatten(1)


class Nodes:
    """Numbers given in advance: latents, one place in the density of times, noise."""

    def __init__(self, latents, place, noise):
        self.normals, self.place = [latents, noise], place

    def normal(self, *event):
        drawn = self.normals.pop(0)
        assert drawn.shape[1:] == event
        return drawn

    def uniform(self, pairing="independent"):
        return torch.full((len(self.normals[0]),), self.place, dtype=torch.float64)

    def integers(self, high):
        raise AssertionError("a score draws no integers")


def symmetric_points(dim):
    """Points (2 dim, dim) whose plain mean is exact for quadratic functions of N(0, I)."""
    corners = dim**0.5 * torch.eye(dim, dtype=torch.float64)
    return torch.cat([corners, -corners])


def expected_total(method, x, num_times):
    """Mean of the loss over times (Gauss-Legendre) and all noise (exact: it is quadratic)."""
    dim, blocks = DATA.dim, method.process.num_blocks
    drawn = symmetric_points(dim * (1 + blocks))
    rows = x.repeat_interleave(len(drawn), 0)
    drawn = drawn.repeat(len(x), 1)
    latents, noise = drawn[:, :dim], drawn[:, dim:].unflatten(1, (blocks, dim))
    places, weights = np.polynomial.legendre.leggauss(num_times)
    total = torch.zeros((), dtype=torch.float64)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        rng = Nodes(latents, float(place), noise)
        total = total + float(weight) * method.bound(rows, None, rng, 0).total
    return total


def kernel_of(method, t):
    """Mean matrix (k d, d) and covariance (k d, k d) of q(u_t | z), the law of p_t."""
    prior, identity = method.prior, torch.eye(DATA.dim, dtype=torch.float64)
    kernel = prior.parametrisation.kernel(prior.process, torch.tensor(t, dtype=torch.float64))
    (mean,), (cov,) = DATA.diffused(prior.process, t)
    on_datum = torch.kron(kernel.mean_matrix[:, :1], identity)
    return on_datum, torch.kron(kernel.cov, identity), mean, cov


def gaussian_cross_entropy(mean, cov, other_mean, other_cov):
    """E -log N(u; other) for u ~ N(mean, cov), one mean per row."""
    inverse = torch.linalg.inv(other_cov)
    apart = mean - other_mean
    square = ((apart @ inverse) * apart).sum(1) + (inverse @ cov).trace()
    return (square + torch.logdet(2 * math.pi * other_cov)) / 2


def reconstruction_of(model, x):
    """E -log p(x | z), in closed form."""
    mean, log_std = model.encode(x)
    spread = (2 * log_std[0]).exp()
    centred = x - mean @ model.weight.mT - model.bias
    square = centred.square().sum(1) + (model.weight.square() * spread).sum()
    constant = math.log(2 * math.pi * model.std**2)
    return (square / model.std**2 + len(model.weight) * constant) / 2


def entropy_of(model):
    """-E log q(z | x)."""
    return (model.log_std + (1 + math.log(2 * math.pi)) / 2).sum()


def closed_form(method, x, coefficient=1.0):
    """What the loss must be: the bound on the model whose score is exact from t_min to 1.

    The cross entropy of q at t_min with p at t_min, less what the two differ by at t = 1, where
    the loss takes them for equal, given the latents.
    """
    model, prior, identity = method.autoencoder, method.prior, torch.eye(2, dtype=torch.float64)
    mean, log_std = model.encode(x)
    spread = (2 * log_std[0]).exp().diag()
    on_datum, noise, other_mean, other_cov = kernel_of(method, prior.t_min)
    cov = on_datum @ spread @ on_datum.mT + noise
    cross = gaussian_cross_entropy(mean @ on_datum.mT, cov, other_mean, other_cov)
    at_start = prior.process.marginal(torch.tensor(prior.t_min)).cov[1:, 1:]
    velocities = torch.kron(at_start, identity)
    if len(velocities):
        cross = cross - torch.logdet(2 * math.pi * math.e * velocities) / 2
    on_datum, noise, other_mean, other_cov = kernel_of(method, 1.0)
    cov = on_datum @ spread @ on_datum.mT + noise
    left = gaussian_cross_entropy(mean @ on_datum.mT, cov, other_mean, other_cov)
    left = left - torch.logdet(2 * math.pi * math.e * noise) / 2
    kl = cross - left - entropy_of(model)
    return (reconstruction_of(model, x) + coefficient * kl).mean()


def true_bound(method, x):
    """The negative evidence bound with N(MEAN, COV) itself as the prior."""
    mean, log_std = method.autoencoder.encode(x)
    spread = (2 * log_std[0]).exp().diag()
    cross = gaussian_cross_entropy(mean, spread, MEAN, COV)
    kl = cross - entropy_of(method.autoencoder)
    return (reconstruction_of(method.autoencoder, x) + kl).mean()


def exact_model(process, times=None, t_min=1e-5, weight=None, **more):
    """An LSGM whose prior's network is right."""
    options = {"t_min": t_min, "weight": weight or Likelihood()}
    if process.num_blocks == 1:
        prior = DDPM(ExactNetwork(process, Predict("eps")), process, **options)
    else:
        network = ExactNetwork(process, VelocityNoise(mixed_score=False))
        prior = CLDSGM(network, process, mixed_score=False, **options)
    return LSGM(LinearGaussian(), prior, times=times, **more)


SOLVED = {
    "VP": (VP(), Importance(Likelihood()), 1e-5, 2e-3),
    "VP, uniform": (VP(), None, 0.05, None),
    "GeometricVP": (GeometricVP(var_max=0.99999), None, 1e-5, 2e-3),
    "GeometricVP, importance": (GeometricVP(), Importance(Likelihood()), 1e-2, None),
    "CLD": (CLD(), Importance(Likelihood()), 1e-5, 1e-2),
}
"""Process, density of times, t_min, and how near the true bound is at this t_min."""


@pytest.mark.parametrize("name", SOLVED)
def test_the_bound_and_its_gradient_are_exact(name):
    """The expected loss is the closed form, and so is its gradient in encoder and decoder."""
    process, times, t_min, near = SOLVED[name]
    method, x = exact_model(process, times, t_min), points(3)
    found, expected = expected_total(method, x, 40), closed_form(method, x)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-6, atol=0)
    weights = dict(method.autoencoder.named_parameters())
    gradients = torch.autograd.grad(found, list(weights.values()))
    analytic = torch.autograd.grad(expected, list(weights.values()))
    for key, one, other in zip(weights, gradients, analytic, strict=True):
        error = float((one - other).norm() / other.norm())
        assert error < 1e-6, (key, error)
    if near is not None:
        exact = true_bound(method, x)
        assert abs(float((exact - expected).detach())) < near
        true = torch.autograd.grad(exact, list(weights.values()))
        for key, one, other in zip(weights, gradients, true, strict=True):
            assert float((one - other).norm() / other.norm()) < 5 * near, key


@pytest.mark.parametrize("weight", [UniformWeight(), Reweighted()], ids=name_of)
@pytest.mark.parametrize("process", [VP(), CLD()], ids=name_of)
def test_tied_times_train_the_autoencoder_on_the_bound(process, weight):
    """The prior's weight is another, and the gradient in encoder and decoder the same as before."""
    kl = KLSchedule(0.6, 0.6)
    method, x = exact_model(process, t_min=0.05, weight=weight, kl=kl), points(3)
    weights = list(method.autoencoder.parameters())
    found = torch.autograd.grad(expected_total(method, x, 40), weights)
    expected = torch.autograd.grad(closed_form(method, x, 0.6), weights)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-6


@pytest.mark.parametrize("kind", ["position", "velocity"])
def test_tied_times_train_the_prior_on_its_own_loss(kind):
    prior = mixed() if kind == "position" else langevin()
    method, x = LSGM(PointVAE(), prior, kl=KLSchedule(0.3, 0.3)).eval(), torch.randn(8, 2)
    weights, rng = list(prior.network.parameters()), BatchRng(0, 8)
    loss = method.loss(x, None, "joint", BatchRng(0, 8), 0)
    found = torch.autograd.grad(loss.total, weights)
    with torch.no_grad():
        z = method.encode(x, rng)
    expected = torch.autograd.grad(prior.loss(z, None, "score", rng, 0).total, weights)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        own = LSGM(method.autoencoder, prior, times=prior.proposal).eval()
        bound = own.bound(x, None, BatchRng(0, 8), 0)
    torch.testing.assert_close(loss.parts["nelbo"], bound.parts["nelbo"])


def test_random_times_and_noise_give_the_bound_on_average():
    """The same through the random numbers of training, within the error of the mean."""
    process, num = VP(), 64
    method, x = exact_model(process, Importance(Likelihood())), points(1)
    with torch.no_grad():
        losses = [method.bound(x.expand(8, 4), None, PerBatch(i, 8), 0) for i in range(num)]
        totals = [float(loss.total) for loss in losses]
        mean, error = np.mean(totals), np.std(totals) / num**0.5
        assert abs(mean - float(closed_form(method, x))) < 4 * error
    assert error < 1


class PerBatch(BatchRng):
    """One time per batch, in its own part of all: the exact network has a score at one time."""

    def __init__(self, part, rows, parts=64):
        super().__init__(part, rows)
        self.part, self.parts = part, parts

    def uniform(self, pairing="independent"):
        place = (self.part + float(super().uniform()[0])) / self.parts
        return torch.full((self.num_rows,), place, dtype=torch.float64)


def test_the_coefficient_scales_the_divergence_alone():
    process = VP()
    plain = exact_model(process, Importance(Likelihood()))
    half = LSGM(plain.autoencoder, plain.prior, times=plain.times, kl=KLSchedule(0.5, 0.5))
    with torch.no_grad():
        losses = [m.bound(points(4), None, PerBatch(0, 4), 0) for m in (plain, half)]
    reconstruction, kl = (losses[0].parts[name] for name in ("reconstruction", "kl"))
    assert float(losses[0].total) == pytest.approx(float(reconstruction + kl))
    assert float(losses[1].total) == pytest.approx(float(reconstruction + kl / 2))
    assert losses[1].parts["nelbo"] == losses[0].parts["nelbo"]


# ------------------------------------------------------------------------------- phases and errors


def score(dim=3, **options):
    return DDPM(PointScore(dim, width=16, num_layers=2), **options)


def gan(dim=3):
    return DDGAN(PointGenerator(dim, width=16), PointDiscriminator(dim, width=16), num_steps=2)


def langevin(**options):
    return CLDSGM(PointScore(6, 3, width=16, num_layers=2), **options)


def mixed(dim=3, logit=-2.0, **options):
    network = MixedScore(PointScore(dim, width=16, num_layers=2), dim, logit=logit)
    return DDPM(network, mixed_score=True, **options)


PHASES = {
    "joint": (lambda: LSGM(PointVAE(), score(weight=Likelihood())), ["joint"]),
    "joint, velocities": (lambda: LSGM(PointVAE(), langevin(weight=Likelihood())), ["joint"]),
    "other weight": (lambda: LSGM(PointVAE(), score(weight=Reweighted())), ["joint"]),
    "other weight, velocities": (lambda: LSGM(PointVAE(), langevin()), ["joint"]),
    "own times": (
        lambda: LSGM(PointVAE(), score(weight=Likelihood()), times=UniformTimes()),
        ["autoencoder", "prior"],
    ),
    "averages": (
        lambda: LSGM(PointVAE(), score(), times=UniformTimes(), averaged_prior=True),
        ["autoencoder", "prior"],
    ),
    "frozen": (
        lambda: LSGM(PointVAE(), score(weight=Likelihood()), train_autoencoder=False),
        ["prior"],
    ),
    "gan": (
        lambda: LSGM(PointVAE(), gan(), train_autoencoder=False),
        ["discriminator", "generator"],
    ),
}


@pytest.mark.parametrize("name", PHASES)
def test_phases_follow_from_what_is_asked_for(name):
    make, phases = PHASES[name]
    method = make()
    assert list(method.phases) == phases
    stepped = method.optimizer_networks()
    if phases == ["joint"]:
        assert stepped == {"autoencoder": ("autoencoder",), "prior": ("prior.network",)}
    else:
        prior = "network" if "prior" in phases else None
        expected = {p: (f"prior.{prior or p}",) for p in phases if p != "autoencoder"}
        if "autoencoder" in phases:
            expected["autoencoder"] = ("autoencoder",)
        assert stepped == expected
    assert method.averaged == ("prior.generator" if name == "gan" else "prior.network",)
    assert method.kept == ("autoencoder",)
    assert method.averaged_in == (("autoencoder",) if name == "averages" else ())


@pytest.mark.parametrize("name", PHASES)
def test_gradients_of_each_phase(name):
    """The encoder learns through the prior's network, whose weights stay out of it."""
    method = PHASES[name][0]().train()
    x = torch.randn(8, 2)
    for phase in method.phases:
        method.zero_grad(set_to_none=True)
        method.train_only(phase)
        method.loss(x, None, phase, BatchRng(0, 8), 0).total.backward()
        reached = {
            part
            for part in ("autoencoder.encoder", "autoencoder.decoder", "prior")
            for p in method.get_submodule(part).parameters()
            if p.grad is not None and float(p.grad.abs().max()) > 0
        }
        latent = {"autoencoder.encoder", "autoencoder.decoder"}
        expected = {"joint": {*latent, "prior"}, "autoencoder": latent}.get(phase, {"prior"})
        assert reached == expected, phase


def test_the_encoder_learns_through_the_network():
    """Its gradient changes with the prior's weights: it does not stop at the perturbed latents."""
    method = PHASES["own times"][0]().eval()
    x, weights = torch.randn(8, 2), list(method.autoencoder.encoder.parameters())

    def gradient():
        loss = method.loss(x, None, "autoencoder", BatchRng(0, 8), 0)
        return torch.autograd.grad(loss.total, weights)

    before = gradient()
    with torch.no_grad():
        for parameter in method.prior.parameters():
            parameter.mul_(2)
    assert not any(torch.equal(*pair) for pair in zip(before, gradient(), strict=True))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LSGM(PointVAE(), score(2)), r"latents of shape \(3,\).*takes \(2,\)"),
        (lambda: LSGM(PointVAE(), gan()), "DDGAN has no density.*train_autoencoder=False"),
        (
            lambda: LSGM(PointVAE(), gan(), train_autoencoder=False, drop_inactive=0.1),
            "DDGAN has no density",
        ),
        (lambda: LSGM(PointVAE(), score(), drop_inactive=0.1), "needs a MixedScore"),
        (lambda: LSGM(PointVAE(), score(), prior_penalty=-1.0), "prior_penalty=-1.0"),
        (lambda: LSGM(PointVAE(), mixed(), drop_inactive=-1.0), "drop_inactive=-1.0"),
        (lambda: LSGM(PointVAE(), score(), penalty=-1.0), "penalty=-1.0"),
        (
            lambda: LSGM(PointVAE(), score(), kl=KLSchedule(balance=True)),
            "balanced divergence needs `times`",
        ),
        (
            lambda: LSGM(PointVAE(), score(), averaged_prior=True),
            r"^averaged_prior=True is for .* phase of its own: give its `times` .*$",
        ),
        (
            lambda: LSGM(
                PointVAE(),
                score(),
                times=UniformTimes(),
                train_autoencoder=False,
                averaged_prior=True,
            ),
            r"^averaged_prior=True is for .* leave train_autoencoder=True, .*$",
        ),
        (lambda: VAE(nn.Linear(2, 2)), "an Autoencoder is needed, got Linear"),
        (lambda: VAE(PointVAE()).grid(3), "without a step"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_several_predicted_blocks_need_times_of_their_own():
    prior = DDPM(PointScore(6, width=8), CLD())
    method, x = LSGM(PointVAE(), prior), torch.randn(4, 2)
    with pytest.raises(ConfigError, match="several blocks cannot share times"):
        method.loss(x, None, "joint", BatchRng(0, 4), 0)
    apart = LSGM(PointVAE(), prior, times=UniformTimes())
    assert torch.isfinite(apart.loss(x, None, "autoencoder", BatchRng(0, 4), 0).total)


def test_a_network_of_two_blocks_fits_latents_of_one():
    with pytest.raises(ConfigError, match="takes 3 channels"):
        LSGM(PointVAE(), CLDSGM(PointScore(3, 3, width=8)))
    assert LSGM(PointVAE(), langevin()).state_shape == (3,)


# --------------------------------------------------------------------------------- the mixed score


@pytest.mark.parametrize("kind", ["position", "velocity"])
def test_shares_blend_the_network_with_the_gaussian(kind):
    """(1 - a) Gauss + a net, exactly, for every channel, in the loss's eyes and the sampler's."""
    dim, u, t = 3, torch.randn(5, 2, 3, dtype=torch.float64), 0.3
    if kind == "position":
        process, network, u = VP(), PointScore(dim, width=16), u[:, :1]
        build = lambda net, **o: DDPM(net, process, **o)  # noqa: E731
    else:
        process, network = CLD(), PointScore(2 * dim, dim, width=16)
        build = lambda net, **o: CLDSGM(net, process, **o)  # noqa: E731
    shares = MixedScore(network, dim)
    with torch.no_grad():
        shares.mixing_logit.copy_(torch.tensor([[-6.0, 0.5, 3.0]]))
        together = build(shares, mixed_score=True)
        learnt = build(network, mixed_score=False).denoiser().eps(u, t)[:, -1]
        gauss = build(lambdas(network), mixed_score=True).denoiser().eps(u, t)[:, -1]
        a = shares.share.double()
        torch.testing.assert_close(
            together.denoiser().eps(u, t)[:, -1], (1 - a) * gauss + a * learnt, rtol=0, atol=1e-6
        )
        if kind == "position":
            sigma = process.marginal(t).cov[0, 0].sqrt()
            torch.testing.assert_close(gauss, sigma * u[:, 0], rtol=0, atol=1e-6)
        places, x0 = torch.linspace(0.1, 0.9, 5).double(), torch.randn(5, dim)
        rng = [Given(places, 7), Given(places, 7)]
        blended = together.cross_entropy(x0, None, rng[0])
        own = Blended(network, a.float(), process, together.parametrisation)
        own = build(own, mixed_score=False)
        expected = own.cross_entropy(x0, None, rng[1])
        torch.testing.assert_close(blended, expected, rtol=1e-4, atol=1e-5)


def lambdas(network):
    """A network of the same shape that says nothing."""
    silent = copy.deepcopy(network)
    for parameter in silent.parameters():
        nn.init.zeros_(parameter)
    return silent


class Given(BatchRng):
    """Uniform numbers given in advance."""

    def __init__(self, places, seed):
        super().__init__(seed, len(places))
        self.places = places

    def uniform(self, pairing="independent"):
        return self.places


class Blended(nn.Module):
    """(1 - a) Gauss + a net as one network that predicts the noise itself."""

    num_classes = 0

    def __init__(self, network, share, process, parametrisation):
        super().__init__()
        self.network, self.share = network, share
        self.process, self.parametrisation = process, parametrisation
        self.event_shape = network.event_shape

    def forward(self, u, t, code=None, label=None):
        readout = self.parametrisation.readout(self.process, t.double())
        state = u.unflatten(1, (self.process.num_blocks, -1))
        gauss = (readout.gaussian.to(u) @ state)[:, 0]
        return (1 - self.share) * gauss + self.share * self.network(u, t)


def test_a_mixed_score_needs_a_method_with_one():
    x = torch.randn(4, 3)
    for method in (
        DDPM(MixedScore(PointScore(3, width=8), 3)),
        EDM(MixedScore(PointScore(3, width=8, log_time=False), 3)),
        CLDSGM(MixedScore(PointScore(6, 3, width=8), 3), mixed_score=False),
    ):
        with pytest.raises(ConfigError, match="mixed_score=True"):
            method.loss(x, None, "score", BatchRng(0, 4), 0)
    with pytest.raises(ConfigError, match="channels=0"):
        MixedScore(PointScore(3), 0)


@pytest.mark.parametrize("blocks", [1, 2])
def test_closed_channels_neither_influence_nor_are_influenced(blocks):
    """Their noise is the Gaussian's whatever the network says, which does not see them."""
    network = MixedScore(PointScore(3 * blocks, 3, width=16), 3, logit=1.0)
    network.close(torch.tensor([False, True, False]))
    build = DDPM if blocks == 1 else CLDSGM
    denoiser = build(network, mixed_score=True).denoiser()
    silent = build(lambdas(network.network), mixed_score=True).denoiser()
    u = torch.randn(4, blocks, 3)
    other = u.clone()
    other[:, :, 1] += 3
    with torch.no_grad():
        first, second = denoiser.eps(u, 0.4), denoiser.eps(other, 0.4)
        gauss = silent.eps(u, 0.4)
    torch.testing.assert_close(first[..., [0, 2]], second[..., [0, 2]], rtol=0, atol=0)
    torch.testing.assert_close(first[..., 1], gauss[..., 1], rtol=0, atol=1e-5)
    assert (first[..., 0] - gauss[..., 0]).abs().max() > 1e-3


def test_closed_channels_stay_closed_under_training():
    """Adam turns the smallest gradient into whole steps: only none keeps a channel closed."""
    prior = mixed(logit=1.0, weight=Likelihood())
    prior.network.close(torch.tensor([False, True, False]))
    optimizer = Adam(0.1).build(prior.parameters())
    for i in range(5):
        prior.loss(torch.randn(8, 3), None, "score", BatchRng(i, 8), i).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    logit = prior.network.mixing_logit.detach()
    assert float(logit[0, 1]) == -15.0
    assert (logit[0, [0, 2]] != 1.0).all()


def test_shares_are_not_decayed():
    network = MixedScore(PointScore(2, width=8), 2, logit=-15.0)
    weight = network.network.layers[0].weight.detach().clone()
    for recipe in (Adam(0.1, weight_decay=0.5), Adam(0.1, weight_decay=0.5, maximum=True)):
        optimizer = recipe.build(network.parameters())
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in network.parameters()}
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert (network.mixing_logit == -15.0).all()
        assert not torch.equal(network.network.layers[0].weight, weight)
    assert len(Adam(0.1).build(network.parameters()).param_groups) == 1


class Maps(LinearGaussian):
    """Latent maps (2, 1, 1) of which the second channel says nothing."""

    def __init__(self, as_map):
        super().__init__(dtype=torch.float32)
        self.latent_shape = (2, 1, 1) if as_map else (2,)
        with torch.no_grad():
            self.gain[1], self.offset[1], self.log_std[1] = 0.0, 0.0, 0.0

    def encode(self, x):
        law = super().encode(x)
        return type(law)(*(part.reshape(len(x), *self.latent_shape) for part in law))

    def decode(self, z, others=()):
        return super().decode(z.flatten(1))


class MapNetwork(nn.Module):
    """Fully connected, on latent maps."""

    num_classes, event_shape = 0, (2, 1, 1)

    def __init__(self):
        super().__init__()
        self.own = PointScore(2, width=8)

    def forward(self, u, t, code=None, label=None):
        return self.own(u.flatten(1), t).view_as(u)


@pytest.mark.parametrize("as_map", [True, False])
def test_channels_that_carry_nothing_are_closed_at_the_beginning(as_map):
    network = MixedScore(MapNetwork() if as_map else PointScore(2, width=8), 2, logit=-3.0)
    prior = DDPM(network, mixed_score=True, weight=Likelihood())
    method = LSGM(Maps(as_map), prior, drop_inactive=1e-4)
    with torch.no_grad():
        method.begin(iter(points(40).float().split(16)))
    logit, active = network.mixing_logit.flatten(), network.is_active.flatten()
    assert logit.tolist() == [-3.0, -15.0]
    assert active.tolist() == [1.0, 0.0]
    again = MixedScore(MapNetwork() if as_map else PointScore(2, width=8), 2)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.is_active, network.is_active)
    kept = LSGM(Maps(as_map), DDPM(again, mixed_score=True, weight=Likelihood()))
    with torch.no_grad():
        kept.begin(iter(points(40).float().split(16)))
    assert torch.equal(again.mixing_logit, network.mixing_logit)


# ---------------------------------------------------------------------------------------- training


class Recorder(PointVAE):
    """Notes in which mode it was called."""

    def __init__(self):
        super().__init__()
        self.modes = set()

    def infer(self, x, rng):
        self.modes.add(self.training)
        return super().infer(x, rng)


FROZEN = {
    "score": lambda own: LSGM(own, score(), train_autoencoder=False),
    "gan": lambda own: LSGM(own, gan(), train_autoencoder=False),
    "cld": lambda own: LSGM(own, langevin(), train_autoencoder=False),
}


@pytest.mark.parametrize("name", FROZEN)
def test_an_autoencoder_that_is_not_trained_stays_as_it_is(name, tmp_path):
    """Weights and running means bit for bit, and evaluation mode at every step."""
    autoencoder = Recorder()
    method = FROZEN[name](autoencoder)
    before = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    prior = {k: v.clone() for k, v in method.prior.state_dict().items()}
    assert train(method, Toy("grid25", num_points=64, scale=1.0), tmp_path)
    assert autoencoder.modes == {False}
    assert not runs.differing(before, autoencoder.state_dict())
    assert runs.differing(prior, method.prior.state_dict())


def train(method, data, out, num_steps=4, **options):
    recipes = {key: Adam(**runs.CUT) for key in method.optimizer_networks()}
    trainer = runs.make_trainer(num_steps, optimizers=recipes, batch_size=8)
    return trainer.fit(method, data, out, **options)


AUTOENCODER = {
    "class_path": "ResidualVAE",
    "init_args": {
        "image_size": 8,
        "image_channels": 1,
        "channels": 4,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "latent_channels": 2,
        "dropout": 0.1,
    },
}


def entry(name, **arguments):
    return {"class_path": name, "init_args": arguments}


def latent_network(inputs=2, outputs=2, **more):
    sizes = {"image_size": 4, "channels": 4, "channel_mult": [1], "num_res_blocks": 1}
    sizes |= {"in_channels": inputs, "out_channels": outputs, "time_embedding": "fourier"}
    return entry("NCSNpp", **sizes, **more)


def shares(network):
    return entry("MixedScore", network=network, channels=2, logit=-1.0)


LIKELIHOOD = entry("Likelihood")
GENERATOR = entry(
    "NCSNpp", image_size=4, in_channels=2, channels=4, channel_mult=[1], code_dim=3, style_dim=4
)
DISCRIMINATOR = entry(
    "Discriminator", image_channels=2, channels=4, embed_dim=8, widths=[1, 2], downs=[False, True]
)
ARRANGEMENTS = {
    "first stage": entry(
        "VAE",
        autoencoder=AUTOENCODER,
        kl=entry("KLSchedule", start=0.1, end=1.0, steps=3, balance=True),
        penalty=1e-2,
    ),
    "joint": entry(
        "LSGM",
        autoencoder=AUTOENCODER,
        prior=entry("DDPM", network=shares(latent_network()), mixed_score=True, weight=LIKELIHOOD),
        drop_inactive=1e6,
        penalty=1e-2,
        prior_penalty=1e-2,
    ),
    "tied": entry(
        "LSGM",
        autoencoder=AUTOENCODER,
        prior=entry("DDPM", network=shares(latent_network()), mixed_score=True),
        kl=entry("KLSchedule", start=0.7, end=1.0, steps=3),
    ),
    "two phases": entry(
        "LSGM",
        autoencoder=AUTOENCODER,
        prior=entry("DDPM", network=latent_network(num_classes=3), pairing="stratified"),
        times=entry("Importance", weight=LIKELIHOOD),
    ),
    "averages": entry(
        "LSGM",
        autoencoder=AUTOENCODER,
        prior=entry(
            "DDPM", network=shares(latent_network(dropout=0.2)), mixed_score=True, weight=LIKELIHOOD
        ),
        times=entry("Importance", weight=LIKELIHOOD),
        averaged_prior=True,
        prior_penalty=1e-2,
    ),
    "velocities": entry(
        "LSGM",
        autoencoder=AUTOENCODER,
        prior=entry("CLDSGM", network=shares(latent_network(4)), weight=LIKELIHOOD),
    ),
    "gan": entry(
        "LSGM",
        autoencoder=AUTOENCODER,
        prior=entry("DDGAN", generator=GENERATOR, discriminator=DISCRIMINATOR, num_steps=2),
        train_autoencoder=False,
    ),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_training_resumes_bit_for_bit_and_samples(name, tmp_path):
    """Four steps in one go, and two and two; the exported file draws images and encodes them."""
    config = resolve({"method": ARRANGEMENTS[name]})["method"]
    data = runs.Pictures(24)

    def make():
        torch.manual_seed(0)
        return build_method(config)

    def export(path, method):
        save_pipeline(path, method, config, data.event_shape)

    method = make()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    assert train(method, data, tmp_path / "whole", export=export)
    assert train(make(), data, tmp_path / "parts", 2)
    assert train(make(), data, tmp_path / "parts", 4, resume=True)
    whole, parts = (runs.final_state(tmp_path / part) for part in ("whole", "parts"))
    assert not runs.differing(whole, parts)
    trained = [network for phase in method.phases.values() for network in phase]
    for network in trained:
        own = {k for k in before if k.startswith(f"{network}.")}
        assert any(not torch.equal(before[k], method.state_dict()[k]) for k in own)
    if name == "joint":
        assert not whole["method.prior.network.is_active"].any()
        assert not whole["ema.prior.network.is_active"].any()
    model = load(tmp_path / "whole" / "model.safetensors")
    samples = model.sample(3, num_steps=None if name in ("first stage", "gan") else 2)
    assert samples.shape == (3, 1, 8, 8)
    assert torch.isfinite(samples).all()
    assert samples.abs().max() <= 1
    if name != "first stage":
        variations = model.edit(samples, 0.5, num_steps=None if name == "gan" else 4)
        assert variations.shape == samples.shape


def test_one_prior_is_seen_alike_by_every_method_of_latents():
    """Its own loss on encoded data is that of the method alone."""
    method = LSGM(PointVAE(), score(), train_autoencoder=False).eval()
    assert isinstance(method.prior, ScoreMatching)
    assert isinstance(method.denoiser(), ScoreDenoiser)
    x = torch.randn(8, 2)
    found = method.loss(x, None, "prior", BatchRng(0, 8), 0).total
    rng = BatchRng(0, 8)
    z = method.encode(x, rng)
    expected = method.prior.loss(z, None, "score", rng, 0).total
    assert torch.equal(found, expected)
