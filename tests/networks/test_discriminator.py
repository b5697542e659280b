"""Discriminators: minibatch statistics, shapes, conditioning, errors."""

import pytest
import torch

from trilemma.errors import ConfigError
from trilemma.networks import Discriminator, StridedDiscriminator
from trilemma.networks.discriminator import minibatch_stddev

TINY = {"channels": 4, "embed_dim": 8, "widths": (1, 2), "downs": (False, True)}


def plain_stddev(x, size=4):
    """Sample i is grouped with i + b/g, i + 2b/g, ...; biased spread, averaged over features."""
    batch = len(x)
    group = min(batch, size)
    stride = batch // group
    column = torch.zeros(batch)
    for i in range(batch):
        members = [i % stride + j * stride for j in range(group)]
        total = 0.0
        for c in range(x.shape[1]):
            for h in range(x.shape[2]):
                for w in range(x.shape[3]):
                    values = [float(x[m, c, h, w]) for m in members]
                    mean = sum(values) / group
                    variance = sum((v - mean) ** 2 for v in values) / group
                    total += (variance + 1e-8) ** 0.5
        column[i] = total / x[0].numel()
    return column


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8, 12])
def test_minibatch_stddev_equals_a_plain_loop(batch):
    x = torch.randn(batch, 3, 2, 2)
    y = minibatch_stddev(x)
    assert torch.equal(y[:, :3], x)
    expected = plain_stddev(x)[:, None, None].expand(batch, 2, 2)
    torch.testing.assert_close(y[:, 3], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [5, 6, 7, 9, 10])
def test_batches_that_do_not_group_are_refused(batch):
    with pytest.raises(ConfigError, match=rf"{batch} images.*multiple of 4"):
        minibatch_stddev(torch.zeros(batch, 1, 2, 2))


def test_groups_survive_dealing_the_batch_over_processes():
    """Rows v, v + V, ... of a batch form the same groups as in the whole batch."""
    x = torch.randn(16, 2, 2, 2)
    whole = minibatch_stddev(x)
    for shard in range(2):
        torch.testing.assert_close(minibatch_stddev(x[shard::2]), whole[shard::2])


def test_minibatch_stddev_differentiates_twice():
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(minibatch_stddev, (x,))
    assert torch.autograd.gradgradcheck(lambda u: minibatch_stddev(u).square(), (x,))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resample": "mean"},
        {"num_classes": 3},
        {"patch_size": 2},
        {"image_channels": 1, "stem_width": 1},
        {"downs": (False, False)},
    ],
    ids=str,
)
def test_logits_and_gradients_of_every_option(options):
    network = Discriminator(**{**TINY, **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    c = options.get("image_channels", 3)
    u_s = torch.randn(4, c, 8, 8, requires_grad=True)
    label = torch.tensor([0, 1, 2, 0]) if "num_classes" in options else None
    logits = network(u_s, torch.arange(4), torch.randn(4, c, 8, 8), label)
    assert logits.shape == (4, 1)
    (gradient,) = torch.autograd.grad(logits.sum(), u_s, create_graph=True)
    (logits.square().sum() + gradient.square().sum()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_the_cleaner_image_comes_first():
    network = Discriminator(**TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.stem.weight.data[:, 3:] = 0  # blind to the second image
    t, first, second = torch.zeros(2, dtype=torch.int64), *torch.randn(2, 2, 3, 8, 8)
    assert torch.equal(network(first, t, second), network(first, t, second + 1))
    assert not torch.equal(network(first, t, second), network(first + 1, t, second))


@pytest.mark.parametrize("what", ["u_s", "t", "u_t", "label"])
def test_every_input_matters(what):
    network = Discriminator(**TINY, num_classes=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = {
        "u_s": torch.randn(2, 3, 8, 8),
        "t": torch.tensor([0, 1]),
        "u_t": torch.randn(2, 3, 8, 8),
        "label": torch.tensor([0, 1]),
    }
    other = {**inputs, what: inputs[what] + 1}
    assert not torch.allclose(network(**inputs), network(**other))


def test_an_untrained_published_discriminator_is_undecided():
    """The generator's initial loss is log 2, because logits start at almost zero."""
    network = Discriminator.small(3, 8, 16)
    logits = network(torch.randn(4, 3, 32, 32), torch.arange(4), torch.randn(4, 3, 32, 32))
    assert float(logits.detach().abs().max()) < 1e-2


def test_errors_name_the_argument():
    with pytest.raises(ConfigError, match="widths"):
        Discriminator(widths=(1, 2), downs=(True,))
    with pytest.raises(ConfigError, match="resample"):
        Discriminator(**TINY, resample="area")
    t, image = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3, 8, 8)
    with pytest.raises(ConfigError, match="0 classes"):
        Discriminator(**TINY)(image, t, image, t)
    with pytest.raises(ConfigError, match="3 classes"):
        Discriminator(**TINY, num_classes=3)(image, t, image)


@pytest.mark.parametrize("kind", [Discriminator, StridedDiscriminator])
def test_one_step_serves_the_whole_batch(kind):
    network = kind(**TINY) if kind is Discriminator else kind(8, 3, channels=4, num_layers=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    u_s, u_t = torch.randn(2, 4, 3, 8, 8)
    each = network(u_s, torch.full((4,), 2), u_t)
    assert torch.equal(network(u_s, 2, u_t), each)
    assert torch.equal(network(u_s, torch.tensor(2), u_t), each)
    assert not torch.equal(network(u_s, 1, u_t), each)
