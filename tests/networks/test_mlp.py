"""Networks for points."""

import math

import pytest
import torch

from trilemma.networks import PointDiscriminator, PointGenerator


def test_shapes():
    generator = PointGenerator(2, code_dim=3, width=16, num_layers=2)
    y = generator(torch.randn(5, 2), torch.arange(5), torch.randn(5, 3))
    assert y.shape == (5, 2)
    assert (generator.code_dim, generator.num_classes, generator.event_shape) == (3, 0, (2,))
    discriminator = PointDiscriminator(2, width=16, num_layers=2)
    assert discriminator(y, torch.arange(5), torch.randn(5, 2)).shape == (5, 1)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_published_size(num_layers):
    network = PointGenerator(width=512, num_layers=num_layers)
    hidden = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][:-1]
    assert [layer.out_features for layer in hidden] == [512] * num_layers


@pytest.mark.parametrize("what", range(3))
def test_every_input_matters(what):
    inputs = [torch.randn(5, 2), torch.arange(5), torch.randn(5, 2)]
    other = [x + 1 if i == what else x for i, x in enumerate(inputs)]
    waved = {"width": 16, "frequencies": [2.0]}
    networks = PointGenerator(width=16), PointDiscriminator(width=16)
    for network in (*networks, PointGenerator(**waved), PointDiscriminator(**waved)):
        assert not torch.allclose(network(*inputs), network(*other))


def test_frequencies_are_radians_per_unit():
    """A point moved by a whole period of every frequency changes the linear part alone."""
    frequencies = (2.0, 6.0)
    network = PointDiscriminator(2, width=16, frequencies=frequencies)
    u = torch.randn(5, 2)
    shifted, waves = network.waves(u + math.pi), network.waves(u)
    assert waves.shape == (5, 2 * network.waves.factor) == (5, 10)
    torch.testing.assert_close(shifted[:, :2], waves[:, :2] + math.pi)
    torch.testing.assert_close(shifted[:, 2:], waves[:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(waves[:, 4], (6.0 * u[:, 0]).sin())
    torch.testing.assert_close(waves[:, 7], (2.0 * u[:, 1]).cos())
    step = torch.arange(5)
    assert not torch.allclose(network(u, step, u), network(u, step, u + math.pi))


def test_waves_are_no_part_of_the_weights():
    plain, waved = PointGenerator(width=16), PointGenerator(width=16, frequencies=[2.0])
    assert plain.state_dict().keys() == waved.state_dict().keys()


def test_a_residual_generator_adds_its_input():
    torch.manual_seed(0)
    plain = PointGenerator(2, width=16, frequencies=[2.0])
    residual = PointGenerator(2, width=16, frequencies=[2.0], residual=True)
    residual.load_state_dict(plain.state_dict())
    inputs = torch.randn(5, 2), torch.arange(5), torch.randn(5, 2)
    torch.testing.assert_close(residual(*inputs), plain(*inputs) + inputs[0])
