"""Bounds of latent models: against the evidence of linear-Gaussian ones, and how they are told."""

import json
import math

import pytest
import torch
from oracles import ExactScore, Mixture, ReplayRng
from torch import nn

from trilemma.autoencoders import Autoencoder, Inferred, Latent, Normal
from trilemma.autoencoders.likelihoods import Likelihood
from trilemma.data import Batch, Data
from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.evaluation import likelihood
from trilemma.likelihood import latent_negative_log_likelihood
from trilemma.methods import CLDSGM, DDGAN, DDPM, LSGM, VAE
from trilemma.networks import PointDiscriminator, PointGenerator, PointScore
from trilemma.parametrisation import Predict, VelocityNoise
from trilemma.pipeline import Pipeline
from trilemma.processes import CLD, VP, GeometricVP, SubVP
from trilemma.rng import BatchRng

# ------------------------------------------------------------------ a model that is solved exactly


class RoundLaw(Likelihood):
    """N(mean, std^2 I), or pretended to be a law of the data themselves."""

    def __init__(self, mean, std, is_discrete=False):
        self._mean, self.std, self.is_discrete = mean, std, is_discrete

    def log_prob(self, x):
        standard = (x - self._mean) / self.std
        constant = math.log(self.std) + math.log(2 * math.pi) / 2
        return -(standard.square() / 2 + constant).flatten(1).sum(1)

    @property
    def mean(self):
        return self._mean

    def sample(self, rng):
        return self._mean + self.std * rng.normal(*self._mean.shape[1:]).to(self._mean)


class LinearGaussian(Autoencoder):
    """x = W z + b + noise, encoded linearly with a constant spread; W has orthogonal columns."""

    def __init__(self, latent=2, data=4, std=0.6, seed=0, dtype=torch.float64, is_discrete=False):
        super().__init__()
        self.event_shape, self.latent_shape = (data,), (latent,)
        self.std, self.is_discrete = std, is_discrete
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        columns = torch.linalg.qr(draw(data, latent))[0] * (0.5 + draw(latent).abs())
        self.weight, self.bias = nn.Parameter(columns.to(dtype)), nn.Parameter(draw(data).to(dtype))
        self.gain = nn.Parameter((0.4 * draw(latent, data)).to(dtype))
        self.offset = nn.Parameter((0.3 * draw(latent)).to(dtype))
        self.log_std = nn.Parameter((-0.7 + 0.3 * draw(latent)).to(dtype))

    def encode(self, x):
        mean = x @ self.gain.mT + self.offset
        return Normal(mean, self.log_std.expand_as(mean))

    def decode(self, z, others=()):
        return RoundLaw(z @ self.weight.mT + self.bias, self.std, self.is_discrete)

    @torch.no_grad()
    def infer_exactly(self, mean, variance):
        """Make the encoder the true posterior under a prior N(mean, diag(variance))."""
        precision = 1 / variance + self.weight.square().sum(0) / self.std**2
        self.log_std.copy_(-precision.log() / 2)
        self.gain.copy_(self.weight.mT / self.std**2 / precision[:, None])
        self.offset.copy_(mean / variance / precision - self.gain @ self.bias)
        return self

    def evidence(self, x, mean, cov):
        """log p(x) under a prior N(mean, cov)."""
        noise = self.std**2 * torch.eye(len(self.weight), dtype=x.dtype)
        marginal = self.weight @ cov @ self.weight.mT + noise
        centre = self.weight @ mean + self.bias
        return torch.distributions.MultivariateNormal(centre, marginal).log_prob(x).detach()


class WithOther(LinearGaussian):
    """A second group with a prior of its own, which shifts the first number of the data."""

    other_shapes = ((3, 1),)

    def infer(self, x, rng):
        first = super().infer(x, rng).prior
        law = Normal(first.z.mean(1)[:, None, None].expand(-1, 3, 1), torch.full((3, 1), -0.5))
        z = law.sample(rng.normal(3, 1).to(x))
        return Inferred(first, (Latent(z, law.log_prob(z)),))

    def decode(self, z, others=()):
        law = super().decode(z)
        return RoundLaw(law.mean + others[0].mean((1, 2))[:, None], law.std)


MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
COV = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
VARIANCE = torch.tensor([0.5, 0.2], dtype=torch.float64)
TIGHT = {"divergence": "exact", "rtol": 1e-6, "atol": 1e-6}
LOOSE = {"divergence": "exact", "rtol": 1e-5, "atol": 1e-5}


def prior(process, cov=COV, parametrisation=None):
    """The exact score of N(MEAN, cov)."""
    return ExactScore(Mixture(MEAN[None], cov[None]), process, parametrisation=parametrisation)


def normal_nats(z, mean, cov):
    return -torch.distributions.MultivariateNormal(mean, cov).log_prob(z)


def flow_nats(process, z, t_min, cov=COV):
    """-log p(z) of the flow from N(0, prior) to t_min, which is linear for a Gaussian (k = 1)."""
    times = torch.tensor([t_min, 1.0], dtype=torch.float64)
    kernel = process.marginal(times)
    alpha, noise = kernel.mean_matrix[:, 0, 0], kernel.cov[:, 0, 0]
    variance, axes = torch.linalg.eigh(cov)
    start, end = alpha[:, None].square() * variance + noise[:, None]
    stretch = (end / start).sqrt()
    latest = alpha[1] * MEAN + ((z - alpha[0] * MEAN) @ axes * stretch) @ axes.mT
    at_end = normal_nats(latest, torch.zeros(2).double(), process.prior_cov() * torch.eye(2))
    return at_end - stretch.log().sum()


def points(num, seed=0):
    return torch.randn(num, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --------------------------------------------------------------------------------- the exact value


@pytest.mark.parametrize("process", [VP(), SubVP(), GeometricVP()], ids=repr)
def test_the_bound_is_its_three_terms_at_the_drawn_latents(process):
    """-log p(x | z) + log q(z | x) - log p(z), each known; encoder and prior are any."""
    model, x, eps = LinearGaussian(), points(5), noise(5, 2)
    found = latent_negative_log_likelihood(
        model, prior(process), x, ReplayRng(eps), t_min=1e-3, **TIGHT
    )
    with torch.no_grad():
        posterior = model.encode(x)
        z = posterior.mean + posterior.log_std.exp() * eps
        log_q = -(eps.square() / 2 + posterior.log_std + math.log(2 * math.pi) / 2).sum(1)
        spread = model.std**2 * torch.eye(4).double()
        reconstruction = normal_nats(x, z @ model.weight.mT + model.bias, spread)
    kl = log_q + flow_nats(process, z, 1e-3)
    torch.testing.assert_close(found.reconstruction, reconstruction, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.kl, kl, rtol=0, atol=5e-5)
    torch.testing.assert_close(found.nats, reconstruction + kl, rtol=0, atol=5e-5)
    assert found.nfe > 20
    assert (found.num_draws, found.num_dims) == (1, 4)


def test_the_bound_with_velocities_is_that_of_the_joint_density():
    """-log p(z) becomes -log p(z, v) - H(v), with the joint density at t_min."""
    process, t_min, model, x = CLD(6.0), 1e-2, LinearGaussian(), points(2)
    eps, speed = noise(2, 2), noise(2, 1, 2, seed=4)
    exact = prior(process, COV, VelocityNoise())
    found = latent_negative_log_likelihood(
        model, exact, x, ReplayRng(eps, speed), t_min=t_min, **LOOSE
    )
    with torch.no_grad():
        posterior = model.encode(x)
        z = posterior.mean + posterior.log_std.exp() * eps
        log_q = -(eps.square() / 2 + posterior.log_std + math.log(2 * math.pi) / 2).sum(1)
    (mean,), (cov,) = exact.data.diffused(process, t_min)
    variance = float(process.initial_cov()[1, 1])
    joint = normal_nats(torch.cat([z, variance**0.5 * speed[:, 0]], 1), mean, cov)
    entropy = 1 + math.log(2 * math.pi * variance)
    torch.testing.assert_close(found.kl, log_q + joint - entropy, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("process", "num_draws", "t_min", "atol"),
    [(VP(0.1, 50.0), 1, 1e-6, 1e-4), (VP(0.1, 50.0), 2, 1e-6, 1e-4), (CLD(6.0), 1, 1e-5, 5e-3)],
    ids=str,
)
def test_the_true_posterior_gives_the_evidence_at_every_draw(process, num_draws, t_min, atol):
    """One draw and several; velocities of unit size have exactly their mean log-density."""
    model, x = LinearGaussian().infer_exactly(MEAN, VARIANCE), points(4)
    parametrisation = VelocityNoise() if process.num_blocks == 2 else None
    exact = prior(process, VARIANCE.diag(), parametrisation)
    draws, options = [], TIGHT if process.num_blocks == 1 else LOOSE
    for i in range(num_draws):
        draws.append(noise(4, 2, seed=i))
        if process.num_blocks == 2:
            draws.append(noise(4, 1, 2, seed=10 + i).sign())
    found = latent_negative_log_likelihood(
        model, exact, x, ReplayRng(*draws), num_draws=num_draws, t_min=t_min, **options
    )
    expected = -model.evidence(x, MEAN, VARIANCE.diag())
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=atol)
    torch.testing.assert_close(found.reconstruction + found.kl, expected, rtol=0, atol=atol)


def test_a_mixed_score_without_a_network_is_the_standard_normal_prior():
    model, x = LinearGaussian(), points(6)
    score = Predict("eps", mixed_score=True)
    denoiser = ScoreDenoiser(lambda u, *_: torch.zeros_like(u), VP(), score)
    plain = latent_negative_log_likelihood(model, None, x, ReplayRng(noise(6, 2)))
    found = latent_negative_log_likelihood(model, denoiser, x, ReplayRng(noise(6, 2)), **TIGHT)
    torch.testing.assert_close(found.nats, plain.nats, rtol=0, atol=1e-9)
    assert plain.nfe == 0
    assert found.nfe > 0


# -------------------------------------------------------------------------------------- the bounds


def test_more_draws_come_closer_and_stay_above():
    """E NELBO is known; K draws lie between it and the evidence, and fall with K."""
    model, num = LinearGaussian(), 4000
    x = points(1).expand(num, 4)
    found = [
        latent_negative_log_likelihood(model, None, x, BatchRng(k, num), num_draws=k)
        for k in (1, 4, 64)
    ]
    means = [float(bound.nats.mean()) for bound in found]
    errors = [float(bound.nats.std()) / num**0.5 for bound in found]
    with torch.no_grad():
        mean, log_std = (part[0] for part in model.encode(x))
        spread = torch.diag((2 * log_std).exp())
        centred = x[0] - model.weight @ mean - model.bias
        square = centred.square().sum() + (model.weight @ spread @ model.weight.mT).trace()
        reconstruction = square / (2 * model.std**2) + 4 * math.log(
            model.std * (2 * math.pi) ** 0.5
        )
        kl = (mean.square() + spread.diag() - 1 - 2 * log_std).sum() / 2
    evidence = -float(model.evidence(x[:1], torch.zeros(2).double(), torch.eye(2).double()))
    assert abs(means[0] - float(reconstruction + kl)) < 4 * errors[0]
    assert abs(float(found[0].kl.mean() - kl)) < 4 * float(found[0].kl.std()) / num**0.5
    assert means[0] > means[1] + 4 * errors[0] > means[2]
    assert means[2] > evidence - 4 * errors[2]
    assert means[2] - evidence < 0.2 * (means[0] - evidence)


def test_several_draws_are_joined_by_their_weights():
    model, x = LinearGaussian(), points(3)
    draws = [noise(3, 2, seed=i) for i in range(4)]
    alone = [latent_negative_log_likelihood(model, None, x, ReplayRng(draw)) for draw in draws]
    found = latent_negative_log_likelihood(model, None, x, ReplayRng(*draws), num_draws=4)
    weights = torch.stack([torch.exp(-bound.nats) for bound in alone])
    torch.testing.assert_close(found.nats, -weights.mean(0).log(), rtol=1e-12, atol=0)
    mean = torch.stack([bound.kl for bound in alone]).mean(0)
    torch.testing.assert_close(found.kl, mean, rtol=1e-12, atol=0)
    assert "4 draws" in found.kind


def test_groups_without_a_learned_prior_count_against_a_normal_law():
    model, x, first, second = WithOther(), points(3), noise(3, 2), noise(3, 3, 1, seed=2)
    with torch.no_grad():
        inferred = model.infer(x, ReplayRng(first, second))
        (other,) = inferred.others
        law = model.decode(inferred.prior.z, [other.z])
        standard = torch.distributions.Normal(0.0, 1.0)
        kl = (inferred.prior.log_q - standard.log_prob(inferred.prior.z)).sum(1)
        kl = kl + (other.log_q - standard.log_prob(other.z)).sum((1, 2))
    found = latent_negative_log_likelihood(model, None, x, ReplayRng(first, second))
    torch.testing.assert_close(found.kl, kl, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.reconstruction, -law.log_prob(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("is_discrete", [True, False])
def test_bits_are_given_for_laws_of_the_data_alone(is_discrete):
    model = LinearGaussian(is_discrete=is_discrete)
    found = latent_negative_log_likelihood(model, None, points(3), BatchRng(0, 3))
    assert "upper bound on the NLL: negative evidence bound (NELBO)" in found.kind
    assert ("density" in found.kind) != is_discrete
    if is_discrete:
        torch.testing.assert_close(found.bits_per_dim, found.nats / (4 * math.log(2)))
    else:
        assert found.bits_per_dim is None


def test_no_draw_and_no_density_are_refused():
    with pytest.raises(ConfigError, match="num_draws=0"):
        latent_negative_log_likelihood(
            LinearGaussian(), None, points(2), BatchRng(0, 2), num_draws=0
        )
    gan = DDGAN(PointGenerator(width=8))
    with pytest.raises(ConfigError, match="no density"):
        latent_negative_log_likelihood(LinearGaussian(), gan.denoiser(), points(2), BatchRng(0, 2))


# ------------------------------------------------------------------------------------- whole models


class Rows(Data):
    """Vectors without labels."""

    event_shape, num_classes = (4,), 0

    def __len__(self):
        return 12

    def fetch(self, indices):
        return Batch(points(12).float()[torch.as_tensor(indices)], None)

    def images_uint8(self, indices):
        raise AssertionError("latent models take the data as they are")

    def split(self, name):
        return self


def single(**options):
    return LinearGaussian(dtype=torch.float32, **options)


def network(inputs=2, outputs=None):
    made = PointScore(inputs, outputs, width=8, num_layers=2)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


METHODS = {
    "vae": lambda **o: VAE(single(**o)),
    "lsgm": lambda **o: LSGM(single(**o), DDPM(network(), mixed_score=True)),
    "cld": lambda **o: LSGM(single(**o), CLDSGM(network(4, 2))),
}


@pytest.mark.parametrize("name", ["vae", "lsgm"])
def test_noise_of_a_datum_depends_on_its_index_alone(name):
    """More data, or other batches, change nothing for a datum but the solver's common steps."""
    model = Pipeline(METHODS[name](), (4,))
    found = likelihood(model, Rows(), 7, batch_size=7, tolerance=1e-3, num_draws=2)
    again = likelihood(model, Rows(), 5, batch_size=2, tolerance=1e-3, num_draws=2)
    atol = 1e-4 if name == "vae" else 0.05
    torch.testing.assert_close(again.nats, found.nats[:5], rtol=0, atol=atol)
    other = likelihood(model, Rows(), 5, batch_size=2, tolerance=1e-3, num_draws=2, seed=1)
    assert (other.nats - again.nats).abs().max() > 0.1


@pytest.mark.parametrize("is_discrete", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_a_result_says_what_it_is(name, is_discrete):
    model = Pipeline(METHODS[name](is_discrete=is_discrete), (4,))
    found = likelihood(model, Rows(), 12, tolerance=1e-3)
    text, values = "\n".join(found.lines("test")), found.as_dict()
    json.dumps(values, allow_nan=False)
    assert ("of a density in the units of the network's data" in text) != is_discrete
    assert ("bits per dimension" in text) == is_discrete == ("bits_per_dim" in values)
    assert "dequantised" not in text
    assert ("network calls" in text) == (name != "vae")
    terms = f"reconstruction {values['reconstruction']:.2f} ± "
    assert terms in text
    assert f"KL {values['kl']:.2f} ± " in text
    assert values["nats"] == pytest.approx(values["reconstruction"] + values["kl"], rel=1e-6)
    assert values["num_draws"] == 1
    assert f"{values['nats']:.2f} ± {values['nats_interval']:.2f} nats per datum" in text


def test_several_draws_are_told_apart_from_one():
    model = Pipeline(METHODS["lsgm"](), (4,))
    one, four = (likelihood(model, Rows(), 12, tolerance=1e-3, num_draws=draws) for draws in (1, 4))
    assert float(four.nats.mean()) < float(one.nats.mean())
    assert "importance-weighted bound of 4 draws" in four.kind
    assert "each and per draw" in "\n".join(four.lines("test"))
    assert four.nfe == pytest.approx(one.nfe, rel=0.5)


def test_draws_need_latents_and_a_prior_a_density():
    plain = Pipeline(DDPM(PointScore(4, width=8, num_layers=2)), (4,))
    with pytest.raises(ConfigError, match="2 draws: DDPM has no autoencoder"):
        likelihood(plain, Rows(), 4, num_draws=2)
    gan = DDGAN(PointGenerator(width=8), PointDiscriminator(width=8))
    latent = Pipeline(LSGM(single(), gan, train_autoencoder=False), (4,))
    with pytest.raises(ConfigError, match="no density"):
        likelihood(latent, Rows(), 4)
