import math

import pytest
import torch

from trilemma.autoencoders.table import TableLaw, TableVAE
from trilemma.errors import ConfigError
from trilemma.rng import SampleRng

CATEGORIES = (0, 3, 0, 2)


def law(rows=1):
    """Means 1 and -2, standard deviations 0.5 and 2, probabilities (1, 2, 5) / 8 and (3, 1) / 4."""
    logits = torch.tensor([1.0, 2.0, 5.0, 3.0, 1.0]).log() + 0.7
    parameters = torch.cat([torch.tensor([1.0, -2.0]), logits]).expand(rows, -1)
    return TableLaw(parameters, torch.tensor([0.5, 2.0]).log(), CATEGORIES)


def test_log_prob_is_the_sum_of_textbook_laws():
    x = torch.tensor([[1.5, 2.0, 2.0, 1.0]])
    first = -0.5 * 1**2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    third = -0.5 * 2**2 - math.log(2.0) - 0.5 * math.log(2 * math.pi)
    expected = torch.tensor([[first, math.log(5 / 8), third, math.log(1 / 4)]])
    torch.testing.assert_close(law().log_probs(x), expected)
    torch.testing.assert_close(law().log_prob(x), expected.sum(1))
    assert not law().is_discrete


def test_probabilities_of_categories_sum_to_one():
    rows = torch.tensor([[i, j] for i in range(3) for j in range(2)], dtype=torch.float32)
    discrete = TableLaw(torch.randn(1, 5).expand(6, -1), torch.zeros(0), (3, 2))
    assert discrete.is_discrete
    torch.testing.assert_close(discrete.log_prob(rows).exp().sum(), torch.tensor(1.0))


def test_mean_and_sample_moments():
    torch.testing.assert_close(law().mean, torch.tensor([[1.0, 2.0, -2.0, 0.0]]))
    num = 4000
    drawn = law(num).sample(SampleRng(0, range(num))).double()
    error = 5 / math.sqrt(num)
    for column, mean, std in ((0, 1.0, 0.5), (2, -2.0, 2.0)):
        assert abs(drawn[:, column].mean() - mean) < error * std
        assert abs(drawn[:, column].std() - std) < error * std
    for column, shares in ((1, (1 / 8, 2 / 8, 5 / 8)), (3, (3 / 4, 1 / 4))):
        for code, share in enumerate(shares):
            found = (drawn[:, column] == code).double().mean()
            assert abs(found - share) < error * math.sqrt(share * (1 - share))
    joint = drawn - drawn.mean(0)
    correlation = (joint.T @ joint / num) / (joint.std(0)[:, None] * joint.std(0))
    assert (correlation - torch.eye(4)).abs().max() < error


def test_samples_belong_to_their_index():
    many = law(5).sample(SampleRng(3, range(5)))
    torch.testing.assert_close(many[2:4], law(2).sample(SampleRng(3, [2, 3])))


def test_shapes_and_gradients():
    vae = TableVAE(CATEGORIES, latent_dim=4, width=16)
    assert vae.event_shape == (4,) and vae.latent_shape == (4,) and vae.draws
    x = torch.tensor([[0.3, 2.0, -1.0, 0.0], [0.0, 0.0, 0.1, 1.0]])
    expected = torch.tensor([[0.3, -1.0, 0, 0, 1, 1, 0], [0.0, 0.1, 1, 0, 0, 0, 1]])
    torch.testing.assert_close(vae.indicators(x), expected)
    inferred = vae.infer(x, SampleRng(0, range(2)))
    assert inferred.prior.z.shape == inferred.prior.log_q.shape == (2, 4)
    vae.decode(inferred.prior.z).log_prob(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


def test_spread_starts_at_one_and_is_bounded():
    vae = TableVAE((0, 0), min_std=0.2)
    torch.testing.assert_close(vae.log_std, torch.zeros(2))
    with torch.no_grad():
        vae.raw_log_std.copy_(torch.tensor([-50.0, 50.0]))
    torch.testing.assert_close(vae.log_std, torch.tensor([math.log(0.2), 1.0]))
    assert vae.raw_log_std.no_decay


def test_learns_a_spread_and_a_dependence():
    """x0 picks the category of x1; the numeric column x2 is noise of deviation 0.3 alone."""
    torch.manual_seed(0)
    code = torch.randint(2, (256,)).float()
    x = torch.stack([2 * code - 1 + 0.1 * torch.randn(256), code, 0.3 * torch.randn(256)], 1)
    vae = TableVAE((0, 2, 0), latent_dim=2, width=32, dropout=0.0)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    for _ in range(200):
        posterior = vae.encode(x)
        z = posterior.sample(torch.randn_like(posterior.mean))
        prior = -z.square() / 2 - math.log(2 * math.pi) / 2
        bound = vae.decode(z).log_prob(x) - (posterior.log_prob(z) - prior).sum(1)
        optimizer.zero_grad()
        (-bound.mean()).backward()
        optimizer.step()
    assert abs(vae.log_std[1].exp() - 0.3) < 0.05
    drawn = vae.eval().decode(torch.randn(2000, 2)).sample(SampleRng(0, range(2000)))
    assert ((drawn[:, 0] > 0) == (drawn[:, 1] > 0.5)).double().mean() > 0.95
    assert 0.4 < drawn[:, 1].mean() < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categories": []}, "one entry a column"),
        ({"categories": [0, -1]}, "0 for a numeric one"),
        ({"categories": [0], "latent_dim": 0}, "latent_dim=0"),
        ({"categories": [0], "dropout": 1.0}, "dropout=1.0"),
        ({"categories": [0], "min_std": 0.0}, "min_std=0.0"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TableVAE(**arguments)


def test_tables_of_one_kind():
    for categories in ((0, 0), (2, 3)):
        vae = TableVAE(categories, width=8)
        x = torch.zeros(3, 2)
        drawn = vae.decode(vae.encode(x).mean).sample(SampleRng(0, range(3)))
        assert (
            drawn.shape == (3, 2)
            and torch.isfinite(vae.decode(torch.zeros(3, 8)).log_prob(x)).all()
        )
