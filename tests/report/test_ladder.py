"""Ladders: what is understood, what is refused, and what each kind of model gets."""

import pytest

from trilemma.errors import ConfigError
from trilemma.pipeline import load
from trilemma.report.ladder import LADDERS, Rung, family_of, read_ladder, rungs_for
from trilemma.report.record import FAMILIES
from trilemma.samplers.ode import ODE


def test_words_become_rungs():
    words = ["default", "gddim:10,20", "euler-maruyama:5", "ode:1e-3"]
    assert read_ladder(words) == (
        Rung(),
        Rung("gddim", 10),
        Rung("gddim", 20),
        Rung("euler_maruyama", 5),
        Rung("ode", tolerance=1e-3),
    )
    assert read_ladder(["full"]) == "full"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quik"], "no ladder or sampler 'quik'; .*quick"),
        (["gdim:10"], "no ladder or sampler 'gdim'; .*gddim"),
        (["gddim"], "steps, as in gddim:10,20"),
        (["gddim:ten"], "steps, as in gddim:10,20"),
        (["gddim:1.5"], "steps, as in gddim:10,20"),
        (["gddim:0"], "must be positive"),
        (["ode:-1e-3"], "must be positive"),
        (["ode"], "tolerances"),
        (["standard", "gddim:10"], "no ladder or sampler 'standard'"),
    ],
)
def test_what_is_no_ladder_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        read_ladder(words)


@pytest.mark.parametrize("name", LADDERS)
def test_named_ladders_are_made_of_words_and_known_families(name):
    assert set(LADDERS[name]) <= set(FAMILIES)
    for words in LADDERS[name].values():
        assert read_ladder(words.split())


def test_a_default_is_named_once_and_marked():
    method = load("ddpm-mnist").method
    own = f"{method.default_sampler}:{len(method.grid()) - 1}"
    rungs = rungs_for(method, read_ladder(["default", own, "gddim:7"]))
    assert rungs == {
        Rung(method.default_sampler, len(method.grid()) - 1): True,
        Rung("gddim", 7): False,
    }


def test_a_tolerance_reaches_the_solver():
    walk = Rung("ode", tolerance=3e-3).walk()
    assert isinstance(walk.sampler, ODE)
    assert (walk.sampler.rtol, walk.sampler.atol) == (3e-3, 3e-3)
    assert Rung("ode", tolerance=1e-3).name == "ode-0.001"


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("ddgan-mnist", "ddgan"),
        ("ddpm-mnist", "ddpm"),
        ("cld-mnist", "cld"),
        ("lsgm-mnist", "lsgm"),
    ],
)
def test_families(model, family):
    assert family_of(load(model).method) == family
