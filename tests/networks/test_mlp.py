"""Networks for points."""

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
    for network in (PointGenerator(width=16), PointDiscriminator(width=16)):
        assert not torch.allclose(network(*inputs), network(*other))
