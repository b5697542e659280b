"""Draw samples from a method: prior, grid, sampler, in batches.

What sample i looks like depends on the seed and on i alone. Labels are part of that: unless one is
asked for, a conditional model draws class i mod num_classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trilemma.denoiser import ScoreDenoiser
from trilemma.errors import ConfigError, NumericalError, nearest
from trilemma.methods.base import Method, prior_sample
from trilemma.processes import VP, LinearSDE, make_grid
from trilemma.rng import Rng, SampleRng
from trilemma.samplers import SAMPLERS, Sampler
from trilemma.typing import Final, Times

__all__ = [
    "Drawn",
    "Start",
    "Walk",
    "labels_for",
    "make_sampler",
    "sample_indices",
    "sampler_class",
]


STRENGTHS = VP()
"""The process whose times are the strengths of edits."""


@dataclass(frozen=True)
class Walk:
    """How to sample: with which sampler, on which grid, guided how strongly, finished how.

    Args:
        sampler: a sampler, its name, or None for the method's own.
        num_steps: steps of the grid; the method's default where None.
        grid: name of the time grid; the method's own where None.
        final: how the walk ends: "none", "drift" or "x0"; what suits the method where None.
        guidance: weight of classifier-free guidance; 1 for none.
        temperature: scale of the noise that sampling starts from; 1 is the prior itself.
    """

    sampler: Sampler | str | None = None
    num_steps: int | None = None
    grid: str | None = None
    final: Final | None = None
    guidance: float = 1.0
    temperature: float = 1.0

    def sampler_for(self, method: Method) -> Sampler:
        """Return the sampler.

        Raises:
            ConfigError: for an unknown name.
        """
        chosen = method.default_sampler if self.sampler is None else self.sampler
        return chosen if isinstance(chosen, Sampler) else make_sampler(chosen)

    def final_for(self, method: Method) -> Final:
        """Return how the walk ends."""
        return method.default_final if self.final is None else self.final

    def grid_for(self, method: Method) -> Times:
        """Return the times to walk; where it ends in clean data, "x0", that is the last step.

        Raises:
            ConfigError: for a grid that the method does not know, or that leaves nothing to walk.
        """
        grid = method.grid(self.num_steps, self.grid)
        ends_clean = len(grid) < 2 or float(grid[-1]) == method.denoiser().origin
        chooses = len(self.sampler_for(method).thin(make_grid("uniform", method.process, 2))) < 3
        if self.final_for(method) != "x0" or ends_clean or chooses:
            return grid
        if len(grid) == 2:
            raise ConfigError(
                "1 step is the prediction of clean data alone, which leaves nothing to walk: take "
                "2 steps or more, or final 'none'"
            )
        return method.grid(len(grid) - 2, self.grid)


def sampler_class(name: str, arguments: Iterable[str] = ()) -> type[Sampler]:
    """Return the class of a sampler, having checked its name and those of its arguments.

    Raises:
        ConfigError: for an unknown name or argument.
    """
    key = name.replace("-", "_")
    if key not in SAMPLERS:
        raise ConfigError(f"there is no sampler {name!r}; {nearest(key, SAMPLERS)}")
    allowed = set(inspect.signature(SAMPLERS[key]).parameters)
    for argument in arguments:
        if argument not in allowed:
            raise ConfigError(
                f"sampler {name}: no argument {argument!r}; {nearest(argument, allowed)}"
            )
    return SAMPLERS[key]


def make_sampler(name: str, **arguments: Any) -> Sampler:
    """Build a sampler by name.

    Raises:
        ConfigError: for an unknown name or argument, or a value outside its range.
    """
    return sampler_class(name, arguments)(**arguments)


@dataclass
class Drawn:
    """One batch of samples.

    Args:
        data: samples (b, *event).
        label: their labels (b), or None.
        nfe: network calls per sample.
        trajectory: data block of the states from the start to the end (n, b, *event), if kept.
    """

    data: Tensor
    label: Tensor | None
    nfe: int
    trajectory: Tensor | None = None


def sample_indices(
    method: Method,
    indices: Sequence[int],
    walk: Walk = Walk(),
    *,
    seed: int = 0,
    class_label: int | None = None,
    batch_size: int = 64,
    start: Start | None = None,
    keep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Drawn]:
    """Yield batches of samples for the given sample indices.

    Args:
        method: trained method, in eval mode, on the device to sample on.
        indices: which samples to draw.
        walk: sampler, grid and guidance.
        seed: seed shared by all samples.
        class_label: one class for all samples of a conditional method.
        batch_size: samples per network call.
        start: data to start from instead of the prior, and how far to go back.
        keep: keep the trajectory.
        progress: called with the number of samples after each batch.

    Raises:
        ConfigError: for a class label that the method does not know, or a sampler that does not
            fit.
        NumericalError: for samples that are not finite.
    """
    grid, sampler = walk.grid_for(method), walk.sampler_for(method)
    final = walk.final_for(method)
    if start is not None:
        knows_all = isinstance(method.denoiser(None), ScoreDenoiser)
        grid = start.shorten(grid, method.process if knows_all else None)
    device = next(method.parameters()).device
    table = method.denoiser(None)  # coefficients of the grid, shared by all batches
    for first in range(0, len(indices), batch_size):
        chunk = indices[first : first + batch_size]
        rng = SampleRng(seed, chunk, device)
        label = labels_for(method.num_classes, chunk, class_label)
        on_device = None if label is None else label.to(device)
        denoiser = method.denoiser(on_device, guidance=walk.guidance)
        denoiser.adopt(table)
        if start is None:
            u = walk.temperature * prior_sample(method.process, method.state_shape, rng)
        else:
            with torch.inference_mode():
                x0 = method.encode(start.x0[first : first + len(chunk)].to(device), rng)
            u = start.noise(method.process, x0, float(grid[0]), denoiser.origin, rng)
        states = [u[:, 0].cpu()] if keep else []

        def record(n: int, state: Tensor, states: list[Tensor] = states) -> None:
            states.append(state[:, 0].cpu())

        if len(grid) > 1:  # a prior that needs no network is a grid of one time
            u = sampler.run(denoiser, u, grid, rng, record if keep else None, final=final)
        if keep and final != "none":
            states.append(u[:, 0].cpu())
        with torch.inference_mode():
            data = method.decode(u[:, 0], rng)
            path = [method.decode(z.to(data), rng).cpu() for z in states[:-1]] + [data.cpu()]
        if not bool(path[-1].isfinite().all()):
            raise NumericalError(
                f"samples {chunk[0]} to {chunk[-1]} hold numbers that are not finite: the model's "
                "weights are broken, or the walk is too coarse; take more steps or another sampler"
            )
        if progress is not None:
            progress(len(chunk))
        yield Drawn(data, label, denoiser.nfe, torch.stack(path) if keep else None)


@dataclass(frozen=True)
class Start:
    """Data to edit: they are noised to a level and denoised from there.

    Args:
        x0: data (n, *event), one per sample.
        strength: how far to go back, in (0, 1]: to the ratio of signal to noise that ``STRENGTHS``
            has at that time, whatever the model's own clock; 1 forgets the data almost fully.
    """

    x0: Tensor
    strength: float

    def shorten(self, grid: Times, process: LinearSDE | None = None) -> Times:
        """Return the times to walk: the level of the strength, then those of the grid below it.

        Args:
            grid: decreasing, of the whole walk.
            process: of a model that knows every time. None for one that knows those of the grid
                alone, which then starts at the nearest of them.

        Raises:
            ConfigError: for a strength outside (0, 1].
        """
        if not 0 < self.strength <= 1:
            raise ConfigError(f"strength={self.strength} must lie in (0, 1]")
        if process is None or self.strength == 1:
            return grid[int((grid[:-1] - self.strength).abs().argmin()) :]
        t = process.time_of_log_snr(STRENGTHS.log_snr(self.strength))
        t = t.clamp(2 * float(grid[-1]), float(grid[0]))
        return torch.cat([t[None], grid[grid < t]])

    @staticmethod
    def noise(process: LinearSDE, x0: Tensor, t: float, origin: float, rng: Rng) -> Tensor:
        """Perturb data (b, *event) to the states at time t."""
        u_0 = process.lift(x0)
        return process.marginal(t, origin).sample(u_0, rng.normal(*u_0.shape[1:]).to(u_0))


def labels_for(num_classes: int, indices: Sequence[int], class_label: int | None) -> Tensor | None:
    """Class labels (b) of samples: the given one, or index mod num_classes; None if there are none.

    Raises:
        ConfigError: if a label is given to an unconditional model or lies outside its classes.
    """
    if num_classes == 0:
        if class_label is not None:
            raise ConfigError(f"class_label={class_label}: this model was trained without labels")
        return None
    if class_label is None:
        return torch.tensor([i % num_classes for i in indices])
    if not 0 <= class_label < num_classes:
        raise ConfigError(f"class_label={class_label} is not in 0..{num_classes - 1}")
    return torch.full((len(indices),), class_label)
