"""Laws of pixels: recorded numbers, exact sums, fifty digits in the tails, samples."""

import itertools
import math
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mpmath import mp
from oracles import below
from safetensors.torch import load_file

from trilemma.autoencoders.images import ImageLaw
from trilemma.autoencoders.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    Laplace,
    Logistic,
    LogisticMixture,
    NormalLikelihood,
    likelihood_named,
    soft_clamp,
)
from trilemma.errors import ConfigError
from trilemma.rng import BatchRng

GOLDEN = Path(__file__).parent.parent / "golden" / "lsgm"
SMALL_MASS = 1e-5
"""Where a cell's mass is no larger, the reference takes the density times the cell's width."""


@cache
def _golden():
    return load_file(GOLDEN / "decoder_distributions.safetensors")


def golden(name):
    return below(_golden(), f"{name}/")


# -------------------------------------------------------------- recorded numbers


def cells(x, location, log_scale, levels):
    """Log-mass of cells by the reference's rule, whether that is exact, and its rounding.

    The reference subtracts two sigmoids in float32.
    """
    x, location, log_scale = x.double(), location.double(), log_scale.double()
    rate, half = torch.exp(-log_scale), 1 / (levels - 1)
    middle = rate * (x - location)
    above, below_ = rate * (x - location + half), rate * (x - location - half)
    mass = above.sigmoid() - below_.sigmoid()
    density = middle - log_scale - 2 * F.softplus(middle) - math.log((levels - 1) / 2)
    is_exact = (mass > SMALL_MASS) | (x.abs() > 0.999)
    inner = torch.where(mass > SMALL_MASS, mass.clamp(min=1e-10).log(), density)
    log_mass = torch.where(x > 0.999, F.logsigmoid(-below_), inner)
    log_mass = torch.where(x < -0.999, F.logsigmoid(above), log_mass)
    is_difference = (mass > SMALL_MASS) & (x.abs() <= 0.999)
    rounding = torch.where(is_difference, 2 * torch.finfo(torch.float32).eps / mass, 0.0)
    return log_mass, is_exact, rounding


def assert_within(found, expected, bound):
    error = (found.double() - expected.double()).abs()
    assert (error <= bound).all(), float((error - bound).max())


def test_logistic_where_the_cell_has_mass_and_where_it_has_not():
    file = golden("dl")
    law = Logistic(file["param"])
    reference, is_exact, rounding = cells(file["x"], law.location, law.log_scale, 256)
    bound = 1e-5 + 1e-5 * file["log_p"].abs() + rounding
    assert_within(reference, file["log_p"], bound)
    ours = law.log_probs(file["x"])
    assert_within(ours[is_exact], file["log_p"][is_exact], bound[is_exact])
    assert_within(ours[is_exact], reference[is_exact], 1e-5 + 1e-5 * reference[is_exact].abs())
    assert is_exact.sum() > 20
    assert (~is_exact).sum() > 20


@pytest.mark.parametrize(("name", "bits"), [("dml8", 8), ("dml5", 5)])
def test_logistic_mixture(name, bits):
    file = golden(name)
    law = LogisticMixture(file["param"], bits)
    x = file["x"][:, :, None]
    locations = law._conditional(file["x"])
    reference, is_exact, rounding = cells(x, locations, law.log_scales, 2**bits)
    weighted = reference.sum(1) + law.log_weights.double()
    share = weighted.softmax(1)  # of each component in the mixture
    bound = 1e-5 + (share * rounding.sum(1)).sum(1)
    assert_within(torch.logsumexp(weighted, dim=1), file["log_p"], bound)
    ours = law.log_probs(file["x"])
    approximated = (share * (~is_exact).any(1)).sum(1)
    same = approximated < 1e-6
    assert_within(ours[same], file["log_p"][same], bound[same])
    assert same.sum() > 10
    torch.testing.assert_close(law.mean, file["mean"], rtol=0, atol=2e-6)


def test_normal():
    file = golden("normal")
    law = NormalLikelihood(file["param"])
    torch.testing.assert_close(
        law.log_probs(golden("dl")["x"]), file["log_p"], rtol=1e-5, atol=1e-5
    )


def test_bernoulli():
    file = golden("bin")
    law = Bernoulli(file["param"])
    torch.testing.assert_close(law.log_probs(file["x"]), file["log_p"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(law.mean, file["mean"], rtol=0, atol=1e-6)
    cropped = ImageLaw("bernoulli", 1, binarise=True, crop=2)(file["param"])
    torch.testing.assert_close(-cropped.log_prob(file["x"]), file["recon_nll_cropped"])
    assert torch.equal(cropped.mean, law.mean)


def test_colour_depth():
    file = golden("bits")
    x = 2 * file["x_unit"].view(1, 1, 16, 16) - 1
    prepared = ImageLaw("logistic", 1, bits=5).prepare(x, BatchRng(0, 1))
    torch.testing.assert_close((prepared.flatten() + 1) / 2, file["x5"], rtol=0, atol=1e-7)
    assert torch.equal(ImageLaw("logistic", 1).prepare(x, BatchRng(0, 1)), x)


def test_soft_clamp():
    file = golden("soft_clamp")
    torch.testing.assert_close(soft_clamp(file["x"]), file["clamp5"])
    torch.testing.assert_close(soft_clamp(file["x"], 3.0), file["clamp3"])


# ---------------------------------------------------------------------- fifty digits


def exact_log_cell(x, location, log_scale, levels):
    """Log-mass of a cell in fifty digits."""
    with mp.workdps(50):
        rate, half = mp.e ** (-mp.mpf(log_scale)), mp.mpf(1) / (levels - 1)
        offset = mp.mpf(x) - mp.mpf(location)
        # 1 / (1 + e^-a) - 1 / (1 + e^-b), on the side where nothing cancels.
        a, b = rate * (offset - half), rate * (offset + half)
        if x < -0.999:
            return float(-mp.log1p(mp.e**-b))
        if x > 0.999:
            return float(-mp.log1p(mp.e**a))
        if a > 0:
            a, b = -b, -a
        low, high = 1 / (1 + mp.e**-a), 1 / (1 + mp.e**-b)
        return float(mp.log(high - low))


@pytest.mark.parametrize("levels_bits", [8, 5])
def test_cells_in_fifty_digits(levels_bits):
    levels = 2**levels_bits
    xs = [2 * i / (levels - 1) - 1 for i in (0, 1, 3, levels // 2, levels - 2, levels - 1)]
    numbers = list(itertools.product(xs, (-1.5, -0.3, 0.0, 0.7), (-7.0, -4.0, -1.0, 2.0)))
    x, location, log_scale = torch.tensor(numbers).T
    parameters = torch.stack([location, log_scale])[None, :, None]
    ours = Logistic(parameters, levels_bits).log_probs(x[None, None, None])[0, 0, 0]
    exact = [
        exact_log_cell(*row, levels)
        for row in zip(*map(torch.Tensor.tolist, (x, location, log_scale)), strict=True)
    ]
    torch.testing.assert_close(ours, torch.tensor(exact), rtol=2e-5, atol=2e-5)


def test_recorded_tails_in_fifty_digits():
    """Where the reference approximates, our number is the mass itself."""
    file = golden("dl")
    law = Logistic(file["param"])
    reference, is_exact, _ = cells(file["x"], law.location, law.log_scale, 256)
    ours = law.log_probs(file["x"])[~is_exact][:40]
    picked = (
        t.expand_as(is_exact)[~is_exact][:40].tolist()
        for t in (file["x"], law.location, law.log_scale)
    )
    exact = torch.tensor([exact_log_cell(*row, 256) for row in zip(*picked, strict=True)])
    torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-3)
    assert (reference[~is_exact][:40] - exact).abs().max() > 0.5  # the two do differ


# ------------------------------------------------------------------------------ sums


def all_levels(bits, channels):
    """Every value of a pixel (levels^channels, channels, 1, 1)."""
    line = torch.linspace(-1, 1, 2**bits)
    grid = torch.cartesian_prod(*[line] * channels).view(-1, channels)
    return grid[:, :, None, None]


def probabilities(kind, parameters, bits, channels):
    """Values of a pixel and how probable they are, from the parameters (p) of one pixel."""
    values = all_levels(bits, channels)
    law = kind(parameters[None, :, None, None].expand(len(values), -1, 1, 1), bits)
    return values.flatten(1).double(), law.log_prob(values).double().exp()


DISCRETE = {
    "bernoulli": (Bernoulli, 1, 1),
    "logistic": (Logistic, 8, 1),
    "logistic of 2 bits": (Logistic, 2, 1),
    "grey mixture": (LogisticMixture, 8, 1),
    "grey mixture of 5 bits": (LogisticMixture, 5, 1),
    "colour mixture": (LogisticMixture, 3, 3),
    "categorical": (Categorical, 8, 1),
    "categorical of 3 bits": (Categorical, 3, 1),
}


def parameters_of(kind, bits, channels, seed=0, spread=1.0):
    count = kind.num_parameters(channels)
    if kind is Categorical:
        count = channels * 2**bits
    return spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one(name, spread):
    kind, bits, channels = DISCRETE[name]
    for seed in range(4):
        parameters = parameters_of(kind, bits, channels, seed, spread)
        _, share = probabilities(kind, parameters, bits, channels)
        assert float(share.sum()) == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_densities_integrate_to_one(name):
    kind = likelihood_named(name)
    parameters = torch.tensor([0.3, -0.7])[None, :, None, None]
    x = torch.linspace(-12, 12, 100_001)
    density = kind(parameters).log_probs(x.view(1, 1, 1, -1)).double().exp().flatten()
    assert float(torch.trapezoid(density, x.double())) == pytest.approx(1, abs=1e-5)


# --------------------------------------------------------------------------- samples

DRAWS = 40_000


def draw(kind, parameters, bits=8):
    law = kind(parameters[None, :, None, None].expand(DRAWS, -1, 1, 1), bits)
    return law, law.sample(BatchRng(1, DRAWS)).flatten(1).double()


def check_mean(sample, mean):
    error = (sample.mean(0) - mean).abs()
    assert (error <= 5 * sample.std(0) / math.sqrt(len(sample)) + 1e-7).all(), (error, mean)


@pytest.mark.parametrize("name", [name for name in DISCRETE if "colour" not in name])
def test_samples_have_the_probabilities_of_their_levels(name):
    kind, bits, channels = DISCRETE[name]
    parameters = parameters_of(kind, bits, channels, spread=0.7)
    law, sample = draw(kind, parameters, bits)
    values, share = probabilities(kind, parameters, bits, channels)
    assert (sample[:, :, None] - values.T[None]).abs().min(2).values.max() < 1e-6
    check_mean(sample, share @ values)
    check_mean(sample.square(), share @ values.square())
    for value in values[:, 0][:: max(1, len(values) // 8)]:
        is_it = ((sample - value).abs() < 1e-6).double()
        check_mean(is_it, share[(values[:, 0] - value).abs() < 1e-6].sum())
    if kind in (Bernoulli, Categorical):
        torch.testing.assert_close(law.mean[0].flatten().double(), share @ values)


def test_samples_of_the_colour_mixture():
    parameters = parameters_of(LogisticMixture, 8, 3, spread=0.1)
    parameters[10:].view(3, 3, 10)[:, 1] -= 4  # narrow enough to stay within [-1, 1]
    parameters[10:].view(3, 3, 10)[:, 2] += 0.5
    law, sample = draw(LogisticMixture, parameters)
    levels = (sample + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4
    # The first colour is a grey mixture of its own; the others lean on those before them.
    values, share = probabilities(LogisticMixture, parameters[:30], 8, 1)
    check_mean(sample[:, :1], share @ values)
    weights = law.log_weights[0, :, 0, 0].double().exp()
    red, green, blue = law.locations[0, :, :, 0, 0].double()
    first, second, third = law.coefficients[0, :, :, 0, 0].double()
    green = green + first * red
    blue = blue + second * red + third * green
    check_mean(sample, torch.stack([weights @ red, weights @ green, weights @ blue]))


@pytest.mark.parametrize("kind", [NormalLikelihood, Laplace])
def test_samples_of_densities(kind):
    parameters = torch.tensor([0.2, -0.1, -3.0, -2.5])
    law, sample = draw(kind, parameters)
    mean = law.mean[0].flatten().double()
    check_mean(sample, mean)
    variance = (2 * law.log_scale[0].flatten().double()).exp() * (2 if kind is Laplace else 1)
    check_mean((sample - mean).square(), variance)
    assert sample.abs().max() <= 1


def test_binarising_draws_white_with_the_brightness():
    law = ImageLaw("bernoulli", 1, binarise=True)
    grey = torch.tensor([-1.0, -0.5, 0.2, 1.0]).view(1, 1, 2, 2).expand(DRAWS, -1, -1, -1)
    drawn = law.prepare(grey, BatchRng(0, DRAWS)).flatten(1).double()
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    check_mean(drawn, grey[0].flatten().double())
    assert drawn[:, 0].unique().tolist() == [-1]
    assert drawn[:, 3].unique().tolist() == [1]


# ---------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shapes(name, channels):
    law_of = ImageLaw(name, channels, bits=4, binarise=name == "bernoulli", crop=1)
    law = law_of(torch.randn(2, law_of.num_parameters, 6, 5))
    x = law_of.prepare(torch.rand(2, channels, 6, 5) * 2 - 1, BatchRng(0, 2))
    assert law.log_prob(x).shape == (2,)
    assert torch.isfinite(law.log_prob(x)).all()
    assert law.mean.shape == law.sample(BatchRng(0, 2)).shape == x.shape
    assert law.mean.abs().max() <= 1 or name == "normal"
    changed = x.clone()
    changed[..., 0, :] *= -1
    assert torch.equal(law.log_prob(changed), law.log_prob(x))  # the border does not count


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_finite_far_away(name):
    law_of = ImageLaw(name, 1, binarise=name == "bernoulli")
    parameters = torch.full((1, law_of.num_parameters, 1, 3), -30.0, requires_grad=True)
    x = torch.tensor([-1.0, 1 / 255, 1.0]).view(1, 1, 1, 3)
    x = x.sign() if name == "bernoulli" else x
    law_of(parameters).log_prob(x).sum().backward()
    assert torch.isfinite(parameters.grad).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: likelihood_named("logistics"), "did you mean 'logistic'"),
        (lambda: ImageLaw("bernoulli", 1), "binarise=True"),
        (lambda: ImageLaw("logistic", 1, bits=0), "bits=0"),
        (lambda: ImageLaw("logistic", 1, crop=-1), "crop=-1"),
        (lambda: ImageLaw("logistic_mixture", 2), "1 or 3 channels"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
