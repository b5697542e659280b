import math

import pytest
import torch

from trilemma.data import Toy
from trilemma.data.toy import TOYS
from trilemma.errors import ConfigError

NAMES = list(TOYS)
SMOOTH = [name for name in NAMES if name != "checkerboard"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def cell_grid(low, high, num):
    """Centres of num x num cells, and the area of one."""
    edge = torch.linspace(low, high, num + 1, dtype=torch.float64)
    middle = (edge[1:] + edge[:-1]) / 2
    return torch.cartesian_prod(middle, middle), ((high - low) / num) ** 2


@pytest.mark.parametrize("name", SMOOTH)
def test_score_is_the_gradient_of_log_prob(name):
    toy = Toy(name)
    near = toy.sample(40, rng())
    far = torch.tensor([[9.0, -7.0], [0.0, 0.0], [30.0, 1.0]], dtype=torch.float64)
    x = torch.cat([near, near + 3 * toy.std, far]).requires_grad_()
    (gradient,) = torch.autograd.grad(toy.log_prob(x).sum(), x)
    torch.testing.assert_close(toy.score(x.detach()), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "box", "num"),
    [
        ("ring8", 2.2, 440),
        ("rings", 3.4, 200),
        ("two_moons", 2.5, 150),
        ("swiss_roll", 18.0, 100),
        ("checkerboard", 5.0, 100),
    ],
)
def test_density_integrates_to_one(name, box, num):
    x, area = cell_grid(-box, box, num)
    assert math.isclose(Toy(name).log_prob(x).exp().sum().item() * area, 1.0, rel_tol=1e-6)


def test_grid25_integrates_to_one_over_one_mode():
    x, area = cell_grid(-0.5, 0.5, 100)
    for centre in ([0.0, 0.0], [4.0, -2.0]):
        mass = Toy("grid25").log_prob(x + torch.tensor(centre)).exp().sum().item() * area
        assert math.isclose(mass, 1 / 25, rel_tol=1e-6)


def test_rings_agree_with_the_bessel_formula():
    """A circle of radius r under noise has density exp(-(q - r)^2 / 2 s^2) i0e(qr / s^2) / ..."""
    toy, var = Toy("rings"), 0.05**2
    x = toy.sample(200, rng(1))
    radius = x.norm(dim=1)
    log_p = [
        -((radius - r) ** 2) / (2 * var)
        + torch.special.i0e(radius * r / var).log()
        - math.log(2 * math.pi * var * 3)
        for r in (1.0, 2.0, 3.0)
    ]
    expected = torch.stack(log_p).logsumexp(0)
    torch.testing.assert_close(toy.log_prob(x), expected, rtol=1e-8, atol=1e-8)


def test_single_mode_has_the_textbook_density_and_score():
    toy = Toy("grid25")
    x = torch.tensor([[4.1, -2.05]], dtype=torch.float64)
    log_p = -(0.1**2 + 0.05**2) / (2 * 0.05**2) - math.log(2 * math.pi * 0.05**2) - math.log(25)
    torch.testing.assert_close(toy.log_prob(x).item(), log_p)
    expected = torch.tensor([[-0.1, 0.05]], dtype=torch.float64) / 0.05**2
    torch.testing.assert_close(toy.score(x), expected)


def exact_moments(name):
    """Mean and covariance by quadrature nodes, or of the squares."""
    toy = Toy(name)
    if name == "checkerboard":
        x, area = cell_grid(-4, 4, 800)
        weight, var = toy.log_prob(x).exp() * area, 0.0
    else:
        x, weight, var = toy._nodes.centres, toy._nodes.weights, toy.std**2
    mean = weight @ x
    return mean, (x * weight[:, None]).T @ x - torch.outer(mean, mean) + var * torch.eye(2)


@pytest.mark.parametrize("name", NAMES)
def test_sample_moments_within_five_standard_errors(name):
    num = 100_000
    x = Toy(name).sample(num, rng(3))
    mean, cov = exact_moments(name)
    assert ((x.mean(0) - mean).abs() < 5 * (cov.diagonal() / num).sqrt()).all()
    centred = x - mean
    products = centred[:, :, None] * centred[:, None, :]
    error = (products.mean(0) - cov).abs()
    assert (error < 5 * products.std(0) / math.sqrt(num) + 1e-4).all()


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_density(name):
    """The mean of log p over samples is the negative entropy, found on a fine grid."""
    toy = Toy(name)
    box, num = {
        "grid25": (4.4, 440),
        "ring8": (2.2, 440),
        "rings": (3.4, 200),
        "swiss_roll": (17.0, 100),
        "two_moons": (2.2, 100),
        "checkerboard": (4.0, 100),
    }[name]
    x, area = cell_grid(-box, box, num)
    log_p = toy.log_prob(x)
    exact = torch.where(log_p > -700, log_p * log_p.exp(), 0.0).sum().item() * area
    num_points = 5_000
    drawn = toy.log_prob(toy.sample(num_points, rng(5)))
    assert torch.isfinite(drawn).all()
    assert abs(drawn.mean().item() - exact) < 5 * drawn.std().item() / math.sqrt(num_points) + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_scaled_points_have_about_unit_size(name):
    x0 = Toy(name, num_points=20_000).fetch(range(20_000)).x0
    assert x0.dtype == torch.float32 and x0.shape == (20_000, 2)
    assert 0.95 < x0.var(0).mean().sqrt() < 1.05


@pytest.mark.parametrize("name", NAMES)
def test_points_depend_on_seed_and_split_only(name):
    def points(**settings):
        return Toy(name, num_points=100, **settings).fetch(range(100)).x0

    assert torch.equal(points(), points())
    assert not torch.equal(points(), points(seed=1))
    assert not torch.equal(points(), points(split="test"))
    assert torch.equal(
        points(split="test"), Toy(name, num_points=100).split("test").fetch(range(100)).x0
    )


def test_units_go_there_and_back():
    toy = Toy("swiss-roll", num_points=10, scale=4.0)
    x0 = toy.fetch([3, 1]).x0
    torch.testing.assert_close(toy.from_data_units(toy.to_data_units(x0)), x0)
    assert toy.name == "swiss_roll" and toy.scale == toy.split("test").scale == 4.0


def test_fetch_stays_near_the_modes():
    toy = Toy("grid25", num_points=5000)
    x = toy.to_data_units(toy.fetch(range(5000)).x0.double())
    distance, nearest = torch.cdist(x, toy.modes).min(dim=1)
    assert len(nearest.unique()) == 25
    share = (distance < 3 * toy.std).double().mean().item()
    assert abs(share - (1 - math.exp(-4.5))) < 5 * math.sqrt(0.011 / 5000)


def test_checkerboard_alternates():
    toy = Toy("checkerboard")
    x = torch.tensor([[-3.0, -3.0], [-1.0, -3.0], [1.0, 1.0], [5.0, 1.0]])
    inside = -math.log(32.0)
    assert toy.log_prob(x).tolist() == pytest.approx([inside, -math.inf, inside, -math.inf])
    with pytest.raises(ConfigError, match="no score"):
        toy.score(x)


def test_shapes_are_kept():
    toy = Toy("rings")
    assert toy.log_prob(torch.zeros(3, 4, 2)).shape == (3, 4)
    assert toy.score(torch.zeros(3, 4, 2)).shape == (3, 4, 2)
    assert toy.log_prob(torch.zeros(2)).shape == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "grid52"}, "did you mean 'grid25'"),
        ({"name": "rings", "split": "val"}, "Allowed: 'test', 'train'"),
        ({"name": "rings", "num_points": 0}, "num_points is 0"),
        ({"name": "rings", "scale": 0.0}, "scale above 0"),
    ],
)
def test_bad_arguments_name_the_allowed_ones(settings, message):
    with pytest.raises(ConfigError, match=message):
        Toy(**settings)


def test_no_modes_and_no_pictures():
    with pytest.raises(ConfigError, match="grid25, ring8"):
        _ = Toy("rings").modes
    with pytest.raises(ConfigError, match="points, not pictures"):
        Toy("rings").images_uint8([0])
    with pytest.raises(IndexError, match="use 0 to 9"):
        Toy("rings", num_points=10).fetch([10])
    with pytest.raises(ConfigError, match="not streamed"):
        Toy("rings").stream()
