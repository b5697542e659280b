"""Learning rates are functions of the images seen."""

import math

import pytest
import torch
from torch import nn

from trilemma.errors import ConfigError
from trilemma.training import Adam


def test_constant():
    recipe = Adam(2e-4)
    assert {recipe.rate(n) for n in (0, 1, 10**9)} == {2e-4}


@pytest.mark.parametrize("images", [0, 1, 250, 500, 999, 1000, 5000])
def test_cosine(images):
    recipe = Adam(1e-3, decay_images=1000, final_lr=1e-5)
    done = min(images / 1000, 1)
    expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * done)) / 2
    assert recipe.rate(images) == pytest.approx(expected)


def test_ends_of_the_cosine():
    recipe = Adam(1e-3, decay_images=1000, final_lr=1e-5)
    assert recipe.rate(0) == 1e-3
    assert recipe.rate(1000) == pytest.approx(1e-5)
    assert recipe.rate(10**9) == pytest.approx(1e-5)


def test_the_rate_changes_every_so_many_images():
    """As a scheduler that steps once an epoch does."""
    recipe = Adam(1e-3, decay_images=1000, decay_every=100, final_lr=1e-5)
    smooth = Adam(1e-3, decay_images=1000, final_lr=1e-5)
    for images in range(0, 1100, 7):
        assert recipe.rate(images) == smooth.rate(images // 100 * 100)


def test_equals_the_scheduler_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], 1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=1e-5)
    recipe = Adam(1e-3, decay_images=10 * 64, decay_every=64, final_lr=1e-5)
    for epoch in range(10):
        assert recipe.rate(64 * epoch + 63) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_warmup_is_linear_and_multiplies():
    recipe = Adam(1e-3, warmup_images=100)
    assert recipe.rate(0) == 0
    assert recipe.rate(25) == pytest.approx(2.5e-4)
    assert recipe.rate(100) == recipe.rate(10**6) == 1e-3
    both = Adam(1e-3, warmup_images=100, decay_images=1000)
    assert both.rate(50) == pytest.approx(0.5 * Adam(1e-3, decay_images=1000).rate(50))


def test_build():
    parameters = [nn.Parameter(torch.zeros(2))]
    plain = Adam(1e-3, adam_betas=(0.5, 0.9), eps=1e-6).build(parameters)
    assert type(plain) is torch.optim.Adam
    group = plain.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.5, 0.9), 1e-6)
    decoupled = Adam(1e-3, weight_decay=0.1).build(parameters)
    assert type(decoupled) is torch.optim.AdamW
    assert decoupled.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"adam_betas": (0.5, 1.0)}, "adam_betas"),
        ({"decay_every": 0}, "decay_every"),
        ({"decay_images": -1}, "decay_images"),
        ({"warmup_images": -1}, "warmup_images"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"final_lr": -1.0}, "final_lr"),
        ({"eps": -1.0}, "eps"),
    ],
    ids=str,
)
def test_errors_name_the_argument(arguments, name):
    with pytest.raises(ConfigError, match=name):
        Adam(**{"lr": 1e-3, **arguments})
