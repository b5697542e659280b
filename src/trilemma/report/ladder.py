"""Which ways to draw are compared: the ladder of samplers and calls of each kind of model.

A rung is a sampler and a number of steps, or a tolerance for the adaptive ``ode``. Every model is
measured as it draws by default; the named ladders add what a reader asks of its family next. A
ladder of one's own is written in the same words: ``default gddim:10,20,50 sscs:50 ode:1e-3``. A
model whose mathematics does not allow a rung says so in that row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trilemma.errors import ConfigError, nearest
from trilemma.methods import CLDSGM, DDGAN, DDPM, EDM, LSGM, VAE, Method
from trilemma.samplers import SAMPLERS
from trilemma.samplers.ode import ODE
from trilemma.sampling import Walk

__all__ = ["LADDERS", "Rung", "family_of", "read_ladder", "rungs_for"]

LADDERS: dict[str, dict[str, str]] = {
    "quick": {
        "lsgm": "gddim:10",
        "ddpm": "gddim:20",
        "cld": "sscs:20 euler_maruyama:20",
        "edm": "heun:9",
    },
    "standard": {
        "lsgm": "gddim:5,10,20 ode:1e-2",
        "ddpm": "gddim:5,10,20,50 ancestral:50,100",
        "cld": "gddim:10,20,50 sscs:20,50,100 euler_maruyama:20,50,100",
        "edm": "heun:5,9,18 gddim:10,20,50",
    },
    "full": {
        "lsgm": "gddim:5,10,20,50 ode:1e-2,1e-5 ancestral:100",
        "ddpm": "gddim:5,10,20,50,100 dpm_solver:10,20 ancestral:50,100,1000 ode:1e-2,1e-5",
        "cld": "gddim:10,20,50,100 sscs:20,50,100,200 euler_maruyama:20,50,100,200 ode:1e-2,1e-5",
        "edm": "heun:5,9,18,40 gddim:10,20,50 ode:1e-2,1e-5",
    },
}
"""Rungs beside the default, by ladder and family; a family that is not named has its default."""


@dataclass(frozen=True)
class Rung:
    """A sampler and how far it is driven; what is None is the model's default.

    Args:
        sampler: name.
        steps: steps of the grid.
        tolerance: relative and absolute, of the adaptive ``ode``.
    """

    sampler: str | None = None
    steps: int | None = None
    tolerance: float | None = None

    @property
    def name(self) -> str:
        """Short name, also of files: ``gddim-20``, ``ode-0.01``."""
        parts = [self.sampler or "default"]
        parts += [f"{n:g}" for n in (self.steps, self.tolerance) if n is not None]
        return "-".join(parts)

    def walk(self) -> Walk:
        """The same as an argument of sampling."""
        if self.tolerance is None:
            return Walk(self.sampler, self.steps)
        return Walk(ODE(rtol=self.tolerance, atol=self.tolerance))

    def resolved(self, method: Method) -> Rung:
        """The rung with the method's names and numbers in the place of defaults."""
        if self.tolerance is not None:
            return self
        name: Any = self.sampler or method.default_sampler
        return Rung(name, self.steps or len(method.grid()) - 1)


def family_of(method: Method) -> str:
    """Key of ``record.FAMILIES``, or the class's name for a method of the user's own."""
    if isinstance(method, DDGAN):
        return "gan" if method.default_steps == 1 else "ddgan"
    for kind, name in ((LSGM, "lsgm"), (VAE, "vae"), (CLDSGM, "cld"), (DDPM, "ddpm"), (EDM, "edm")):
        if isinstance(method, kind):
            return name
    return type(method).__name__.lower()


def read_ladder(words: Sequence[str]) -> str | tuple[Rung, ...]:
    """Understand a ladder: the name of one, or rungs.

    Args:
        words: ``["standard"]``, or such as ``["default", "gddim:10,20", "ode:1e-3"]``.

    Raises:
        ConfigError: for an unknown ladder or sampler, or numbers that do not fit.
    """
    if len(words) == 1 and words[0] in LADDERS:
        return words[0]
    return tuple(rung for word in words for rung in _rungs(word))


def rungs_for(method: Method, ladder: str | Iterable[Rung]) -> dict[Rung, bool]:
    """Rungs of one model without repetition, and whether each is its default.

    Args:
        method: of the model.
        ladder: a key of ``LADDERS``, or rungs.
    """
    if isinstance(ladder, str):
        ladder = (Rung(), *read_ladder(LADDERS[ladder].get(family_of(method), "").split()))
    own = Rung().resolved(method)
    return {full: full == own for full in (rung.resolved(method) for rung in ladder)}


def _rungs(word: str) -> list[Rung]:
    """Rungs of one word, such as ``gddim:10,20``."""
    name, _, numbers = word.partition(":")
    name = name.replace("-", "_")
    if word == "default":
        return [Rung()]
    if name not in SAMPLERS:
        raise ConfigError(
            f"ladder {word!r}: no ladder or sampler {name!r}; "
            f"{nearest(name, ['default', *LADDERS, *SAMPLERS])}"
        )
    adaptive = name == "ode"
    kind, meaning = (
        (float, "tolerances, as in ode:1e-2,1e-5")
        if adaptive
        else (int, "steps, as in gddim:10,20")
    )
    try:
        given: list[Any] = [kind(number) for number in numbers.split(",")]
    except ValueError as error:
        raise ConfigError(f"ladder {word!r}: after the colon come {meaning}") from error
    if not all(number > 0 for number in given):
        raise ConfigError(f"ladder {word!r}: {meaning}, must be positive")
    return [Rung(name, tolerance=n) if adaptive else Rung(name, n) for n in given]
