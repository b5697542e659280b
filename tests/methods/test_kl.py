"""Coefficients and balancing of the divergence: recorded numbers, and what defines them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import below
from test_lsgm_golden import golden

from trilemma.errors import ConfigError
from trilemma.methods import KLSchedule
from trilemma.methods.kl import group_sizes

TENSORS, CONFIG = golden("kl_utils")


def shapes(scales, groups, smallest=4, channels=3):
    """Groups of square maps, from the smallest resolution on, each next one twice as wide."""
    sides = [smallest * 2**scale for scale in range(scales) for _ in range(groups)]
    return [(channels, side, side) for side in sides]


@pytest.mark.parametrize(("scales", "groups"), [(1, 2), (1, 20), (2, 10), (3, 8)])
def test_recorded_sizes(scales, groups):
    recorded = TENSORS[f"alpha/square/scales{scales}_groups{groups}"]
    assert torch.equal(group_sizes(shapes(scales, groups)), recorded)


@pytest.mark.parametrize("coefficient", [0.3, 0.999, 1.0])
def test_recorded_balance(coefficient):
    recorded = below(TENSORS, f"balancer/coeff_{coefficient}/")
    divergences, sizes = TENSORS["balancer/kl_per_group"], group_sizes(shapes(2, 3))
    schedule = KLSchedule(coefficient, coefficient, balance=True)
    weights = schedule.weights(divergences, sizes, 0)
    torch.testing.assert_close(weights, recorded["group_coeffs"], rtol=2e-6, atol=0)
    balanced = schedule.coefficient(0) * (weights * divergences).sum(1)
    torch.testing.assert_close(balanced, recorded["balanced_kl"], rtol=2e-6, atol=2e-6)
    means = divergences.mean(0)
    torch.testing.assert_close(means, recorded["group_means"], rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("stage", "schedule"),
    [
        ("vae_stage", {"start": 1e-4, "end": 0.7, "steps": 1.0, "constant_steps": 1e-4}),
        ("lsgm_stage", {"start": 0.7, "end": 1.0, "steps": 0.1, "constant_steps": 0.0}),
    ],
)
def test_recorded_schedules(stage, schedule):
    """Steps are portions of the whole; a ten-thousandth of a thousand steps is less than one."""
    total = CONFIG["total_iters"]
    made = KLSchedule(schedule["start"], schedule["end"], steps=int(schedule["steps"] * total))
    share = schedule["constant_steps"] * total
    for step, expected in zip(TENSORS["schedule/step"], TENSORS[f"schedule/{stage}"], strict=True):
        late = share * (schedule["end"] - schedule["start"]) / total
        clipped = made.start < expected < made.end
        found = made.coefficient(int(step)) - (late if clipped else 0.0)
        assert found == pytest.approx(float(expected), abs=1e-12 if clipped else late + 1e-12)


# -------------------------------------------------------------------------------------- properties


@given(
    st.floats(0, 1),
    st.floats(1e-3, 1),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 200),
)
def test_coefficients_rise_from_the_first_to_the_last(start, rise, steps, constant, step):
    end = start + rise
    schedule = KLSchedule(start, end, steps=steps, constant_steps=constant)
    value = schedule.coefficient(step)
    assert start <= value <= end
    assert value <= schedule.coefficient(step + 1)
    if steps == 0 or step >= constant + steps:
        assert value == pytest.approx(end)
    elif step <= constant:
        assert value == start
    else:
        share = (step - constant) / steps
        assert value == pytest.approx(start + share * (end - start))


def test_nothing_is_balanced_by_default_or_at_a_coefficient_of_one():
    divergences, sizes = 10 * torch.randn(5, 3), torch.tensor([1.0, 1.0, 4.0])
    for schedule in (KLSchedule(), KLSchedule(0.5, 0.5), KLSchedule(balance=True)):
        assert torch.equal(schedule.weights(divergences, sizes, 0), torch.ones(3))
    rising = KLSchedule(0.5, 1.0, steps=10, balance=True)
    assert not torch.equal(rising.weights(divergences, sizes, 9), torch.ones(3))
    assert torch.equal(rising.weights(divergences, sizes, 10), torch.ones(3))


def test_weights_have_mean_one_and_follow_the_divergence_by_its_size():
    divergences, sizes = 10 * torch.randn(6, 4), torch.tensor([1.0, 2.0, 4.0, 4.0])
    divergences.requires_grad_()
    weights = KLSchedule(0.5, 0.5, balance=True).weights(divergences, sizes, 3)
    assert not weights.requires_grad
    assert float(weights.mean()) == pytest.approx(1.0)
    per_size = weights * sizes / (divergences.detach().abs().mean(0) + 0.01)
    torch.testing.assert_close(per_size, per_size[0].expand(4))


@given(st.lists(st.sampled_from([(3,), (2, 5), (2, 5, 5), (7, 10, 10)]), min_size=1, max_size=8))
def test_sizes_are_relative_to_the_smallest(shapes):
    """A resolution counts once, however many groups share it; vectors have one position."""
    sizes = group_sizes(shapes)
    assert float(sizes.min()) == 1.0
    positions = {(3,): 1, (2, 5): 5, (2, 5, 5): 25, (7, 10, 10): 100}
    whole = {}
    for shape, size in zip(shapes, sizes.tolist(), strict=True):
        whole[shape] = whole.get(shape, 0.0) + size
    unit = {shape: total / positions[shape] for shape, total in whole.items()}
    assert max(unit.values()) == pytest.approx(min(unit.values()))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((-0.1, 1.0), {}, "start=-0.1"),
        ((0.5, 0.4), {}, "end=0.4"),
        ((0.0, 0.0), {}, "end > 0"),
        ((), {"steps": -1}, "steps=-1"),
        ((), {"constant_steps": -2}, "constant_steps=-2"),
    ],
)
def test_mistakes(arguments, options, words):
    with pytest.raises(ConfigError, match=words):
        KLSchedule(*arguments, **options)
