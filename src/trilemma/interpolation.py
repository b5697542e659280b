r"""Paths through noise: between samples, around a sample, and from data back to noise.

A sample is a function of the normal numbers that were drawn for it: the noise that sampling starts
from, the codes of a generator, the noise of every random step. For independent draws eps_j,

.. math:: \sum_j w_j\,\epsilon_j \quad\text{with}\quad \sum_j w_j^2 = 1

is standard normal again, so along a path of such weights every frame is an ordinary sample of the
model, under any sampler. Here *all* draws of a frame are combined, and its ends are exact:

- between two samples, s from 0 to 1: w = (cos pi s / 2, sin pi s / 2);
- around a sample, on a circle of the angle a: w = (cos a, sin a cos phi, sin a sin phi).

*Data* have noise too. The probability flow is an ordinary differential equation; followed from
data, at the end of the sampling grid, to t = 1 it reaches the one state from which it leads back.
Stochastic samplers and denoising diffusion GANs have no such inverse. The noises of two data need
not be independent: with the angle Omega between them

.. math:: w = \frac{(\sin (1 - s)\Omega,\; \sin s\Omega)}{\sin\Omega},

which is the formula above at a right angle (slerp; Shoemake, 1985).

Equal angles are not equal steps in what is drawn: the flow pushes noise towards the modes of the
data, so frames stay alike for long and then change at once. With z(s) for the clean state that the
noise at s leads to, a picture or its latents, frames at equal *lengths* of the same arc lie at

.. math:: s_i = L^{-1}\big(\tfrac{i}{n - 1} L(1)\big), \qquad
          L(s) = \int_0^s \left\|\frac{dz}{ds}\right\| ds ,

where L is the length of the chords between draws on the way. These are put where equal lengths are
guessed to be, in rounds of n. The path is the same, but its places are chosen by what is drawn
there: states between modes, rare among samples, get their share of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.methods.base import Method, prior_sample
from trilemma.methods.vae import LatentMethod, unwrap
from trilemma.processes import act
from trilemma.processes.base import cholesky
from trilemma.rng import Pairing, Rng, SampleRng, mix_seed
from trilemma.samplers.ode import ODE
from trilemma.sampling import Drawn, Walk, labels_for
from trilemma.solver import solve
from trilemma.typing import Event, Labels, State, Times

__all__ = [
    "Arc",
    "KnownRng",
    "MixedRng",
    "Noise",
    "Path",
    "Spacing",
    "around",
    "between_noises",
    "between_samples",
    "draw_path",
    "encode_to_noise",
    "equal_lengths",
    "from_noise",
    "invertible",
    "loop_weights",
    "reconstruct",
    "slerp_weights",
    "spacing_for",
]

TOLERANCE = 1e-4
"""Of the default solver: images come back to a fraction of a grey level, on average."""
OFFSETS = (3 / 8, 7 / 8, 1 / 8, 5 / 8)
"""Where in equal pieces of a path the rounds after the first draw; apart from each other, as chords
between draws that all but coincide would be rounding errors."""
Spacing = Literal["length", "angle"]
"""What frames are equally far apart in: clean states on the way, or the angle of their noise."""
Source = Callable[[slice, torch.device], Rng]
"""Makes the draws of some frames of a path: one row for each of them, or one that they share."""


class MixedRng:
    """Weighted sums of the draws of several sources, row by row.

    Args:
        sources: each with one row, which all share, or as many as there are weights.
        weights: (b, m), of the m sources in each row; a weight of one takes a draw as it is.
    """

    def __init__(self, sources: Sequence[Rng], weights: Tensor) -> None:
        self.sources, self.weights = sources, weights

    def normal(self, *event: int) -> Tensor:
        """Standard normal numbers (b, *event) where squared weights sum to one."""
        total: Tensor | None = None
        for source, weight in zip(self.sources, self.weights.unbind(1), strict=True):
            draw = source.normal(*event)
            part = weight.to(draw).view(-1, *(1 for _ in event)) * draw
            total = part if total is None else total + part
        assert total is not None
        return total

    def integers(self, high: int) -> Tensor:
        """Integers of the source with the largest weight."""
        return self._nearest([source.integers(high) for source in self.sources])

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Uniform numbers of the source with the largest weight."""
        return self._nearest([source.uniform(pairing) for source in self.sources])

    def _nearest(self, draws: list[Tensor]) -> Tensor:
        table = torch.stack([draw.expand(len(self.weights)) for draw in draws], dim=1)
        return table.gather(1, self.weights.argmax(1, keepdim=True).to(table.device))[:, 0]


class KnownRng:
    """Hands out known normal numbers in order, and the mean of the law, zero, after them.

    Args:
        draws: tensors (b, *event), in the order in which they will be asked for.
        num_rows: b.
    """

    def __init__(self, draws: Sequence[Tensor], num_rows: int) -> None:
        self.draws, self.num_rows = list(draws), num_rows

    def normal(self, *event: int) -> Tensor:
        """The next known numbers (b, *event), or zeros."""
        if not self.draws:
            return torch.zeros(self.num_rows, *event)
        draw = self.draws.pop(0)
        if tuple(draw.shape[1:]) != event:
            raise ConfigError(f"noise of shape {tuple(draw.shape[1:])} given, {event} needed")
        return draw

    def integers(self, high: int) -> Tensor:
        """Zeros."""
        return torch.zeros(self.num_rows, dtype=torch.int64)

    def uniform(self, pairing: Pairing = "independent") -> Tensor:
        """Halves."""
        return torch.full((self.num_rows,), 0.5, dtype=torch.float64)


class Noise(NamedTuple):
    """What data were made of, standard normal for samples of the model.

    Args:
        state: the state at t = 1, whitened (n, k, *state_shape).
        others: latents of the groups that keep a standard normal prior, each (n, *group).
    """

    state: Tensor
    others: tuple[Tensor, ...] = ()

    def row(self, i: int) -> Noise:
        """Noise of one datum (1, ...)."""
        return Noise(self.state[i : i + 1], tuple(other[i : i + 1] for other in self.others))


@dataclass(frozen=True)
class Path:
    """Frames whose noise is combined from that of a few sources.

    Args:
        sources: where the draws come from (m).
        weights: (n, m), of each frame.
        indices: sample whose class label a frame shows (n).
    """

    sources: tuple[Source, ...]
    weights: Tensor
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Arc:
    """The shortest arc between the noises of two ends.

    Args:
        sources: where the draws of the two ends come from.
        indices: samples whose class labels the two halves show.
        angle: between the two noises, radians in [0, pi).
    """

    sources: tuple[Source, Source]
    indices: tuple[int, int] = (0, 0)
    angle: float = math.pi / 2

    def path(self, frames: int | Tensor) -> Path:
        """Frames at equal angles, or at shares of the angle.

        Args:
            frames: how many, >= 2, or shares (n) in [0, 1], float64.

        Raises:
            ConfigError: as for ``slerp_weights``.
        """
        share = _even(frames) if isinstance(frames, int) else frames
        indices = tuple(self.indices[int(s > 0.5)] for s in share.tolist())
        return Path(self.sources, _arc_weights(share, self.angle), indices)


def slerp_weights(num: int, angle: float = math.pi / 2) -> Tensor:
    """Weights (num, 2) of the ends along an arc, float64; (1, 0) first and (0, 1) last, exactly.

    Args:
        num: frames, >= 2.
        angle: between the two ends, radians in [0, pi).

    Raises:
        ConfigError: for less than two frames, or opposite ends, which no shortest arc joins.
    """
    return _arc_weights(_even(num), angle)


def _even(num: int) -> Tensor:
    """Equal shares (num) from 0 to 1, the same from either end."""
    if num < 2:
        raise ConfigError(f"a path of {num} frames: at least 2 are needed")
    share = torch.linspace(0, 1, num, dtype=torch.float64)
    return (share + (1 - share.flip(0))) / 2


def _arc_weights(share: Tensor, angle: float) -> Tensor:
    """Weights (n, 2) of the ends at shares (n) of the angle between them."""
    if math.pi - angle < 1e-3:
        raise ConfigError("the noises of the two ends are opposite: no shortest path joins them")
    pair = torch.stack([1 - share, share], dim=1)
    unit = angle / math.pi
    return pair * torch.sinc(pair * unit) / torch.sinc(torch.tensor(unit, dtype=torch.float64))


def loop_weights(num: int, radius: float) -> Tensor:
    """Weights (num, 3) of a centre and two directions along a closed circle, float64.

    Args:
        num: frames, >= 2; the one after the last would be the first.
        radius: angle between the centre and every frame, radians in (0, pi / 2].

    Raises:
        ConfigError: for values outside their range.
    """
    if num < 2:
        raise ConfigError(f"a walk of {num} frames: at least 2 are needed")
    if not 0 < radius <= math.pi / 2 + 1e-9:
        raise ConfigError(f"radius={radius} must lie in (0, pi/2]: the angle of the circle")
    phi = torch.arange(num, dtype=torch.float64) * (2 * math.pi / num)
    centre = torch.full_like(phi, math.cos(radius))
    return torch.stack([centre, math.sin(radius) * phi.cos(), math.sin(radius) * phi.sin()], dim=1)


def between_samples(first: int, second: int, seed: int) -> Arc:
    """Arc from one sample to another; frames show the class of the nearer end.

    Raises:
        ConfigError: for an arc from a sample to itself.
    """
    if first == second:
        raise ConfigError(f"the path from sample {first} to itself does not move: give two samples")
    return Arc((_sample_source(seed, first), _sample_source(seed, second)), (first, second))


def between_noises(ends: Noise) -> Arc:
    """Arc between the noises of two data, which are the two rows."""
    flat = torch.cat([part.flatten(1) for part in (ends.state, *ends.others)], 1).double()
    first, second = torch.nn.functional.normalize(flat)
    angle = 2 * math.atan2(float((first - second).norm()), float((first + second).norm()))
    return Arc((_noise_source(ends.row(0)), _noise_source(ends.row(1))), angle=angle)


def around(centre: int | Noise, num: int, radius: float, seed: int) -> Path:
    """Closed path around a sample, or around the noise of one datum."""
    index, source = 0, None
    if isinstance(centre, Noise):
        source = _noise_source(centre)
    else:
        index, source = centre, _sample_source(seed, centre)
    directions = [_sample_source(mix_seed(seed, "direction", i), index) for i in range(2)]
    return Path((source, *directions), loop_weights(num, radius), (index,) * num)


def from_noise(noise: Noise) -> Path:
    """The noises of data as the frames of a path."""
    num = len(noise.state)
    return Path((_noise_source(noise),), torch.ones(num, 1), tuple(range(num)))


def _sample_source(seed: int, index: int) -> Source:
    """The draws of one sample."""
    return lambda frames, device: SampleRng(seed, [index], device)


def _noise_source(noise: Noise) -> Source:
    """Known noise, of one datum that all frames share or of one datum for each."""

    def make(frames: slice, device: torch.device) -> Rng:
        chosen = slice(None) if len(noise.state) == 1 else frames
        draws = [part[chosen].to(device) for part in (noise.state, *noise.others)]
        return KnownRng(draws, len(draws[0]))

    return make


def draw_path(
    method: Method,
    path: Path,
    walk: Walk,
    label: Labels | None = None,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Drawn]:
    """Yield batches of the frames of a path.

    Args:
        method: trained method, in eval mode, on the device to sample on.
        path: the frames.
        walk: sampler, grid and guidance.
        label: class labels (n) of the frames, or None.
        batch_size: frames per network call.
        progress: called with the number of frames after each batch.
    """
    for u, rng, chosen, nfe in _walk_path(method, path, walk, label, batch_size):
        data = method.decode(u[:, 0], rng)
        if progress is not None:
            progress(len(data))
        yield Drawn(data, chosen, nfe)


def _walk_path(
    method: Method, path: Path, walk: Walk, label: Labels | None, batch_size: int
) -> Iterator[tuple[State, Rng, Labels | None, int]]:
    """Yield the last states of the frames, batch by batch, with what is left to draw from."""
    grid, sampler = walk.grid_for(method), walk.sampler_for(method)
    device = next(method.parameters()).device
    table = method.denoiser(None)  # coefficients of the grid, shared by all batches
    for first in range(0, len(path.weights), batch_size):
        frames = slice(first, first + batch_size)
        rng = MixedRng([source(frames, device) for source in path.sources], path.weights[frames])
        chosen = None if label is None else label[frames]
        on_device = None if chosen is None else chosen.to(device)
        denoiser = method.denoiser(on_device, guidance=walk.guidance)
        denoiser.adopt(table)
        u = walk.temperature * prior_sample(method.process, method.state_shape, rng)
        if len(grid) > 1:
            u = sampler.run(denoiser, u, grid, rng, final=walk.final_for(method))
        yield u, rng, chosen, denoiser.nfe


def spacing_for(method: Method, spacing: Spacing | None) -> Spacing:
    """Return the spacing of frames: by default "length" in latents, where a draw is cheap.

    Raises:
        ConfigError: for an unknown word.
    """
    if spacing is None:
        return "length" if isinstance(method, LatentMethod) else "angle"
    if spacing not in get_args(Spacing):
        raise ConfigError(f"spacing={spacing!r}: 'length' or 'angle' is needed")
    return spacing


def equal_lengths(
    method: Method,
    arc: Arc,
    num: int,
    walk: Walk,
    class_label: int | None = None,
    *,
    batch_size: int = 64,
) -> tuple[Path, int]:
    """Space frames equally along what is drawn: latents of a latent model, else data.

    Draws measure the arc first: ``num`` of them at equal angles, then for each of ``OFFSETS`` as
    many, or one less if that is odd, at equal lengths as far as these are known by then. Where the
    class changes, at the middle, the jump counts for nothing.

    Args:
        method: trained method, in eval mode, on the device to sample on.
        arc: between the two ends.
        num: frames, >= 2.
        walk: sampler, grid and guidance.
        class_label: one class for all frames, or None for those of the two ends.
        batch_size: draws per network call.

    Returns:
        The frames, and the network calls of all measuring draws together.

    Raises:
        ConfigError: for less than two frames, or opposite noises.
    """
    even = _even(num)
    share, chords, calls = even, torch.zeros(0), 0
    if num == 2:
        return arc.path(even), calls
    states = torch.zeros(0, math.prod(method.state_shape))
    for offset in (None, *OFFSETS):
        new = even
        if offset is not None:
            half = (torch.arange(num // 2, dtype=torch.float64) + offset) / (2 * (num // 2))
            new = _at_lengths(share, chords, torch.cat([half, 1 - half.flip(0)]))
        path, parts = arc.path(new), [states]
        label = labels_for(method.num_classes, path.indices, class_label)
        for u, _, _, nfe in _walk_path(method, path, walk, label, batch_size):
            parts.append(u[:, 0].flatten(1).float().cpu())
            calls += nfe * len(u)
        share, order = (new if offset is None else torch.cat([share, new])).sort(stable=True)
        states = torch.cat(parts)[order]
        chords = states.diff(dim=0).double().norm(dim=1)
        label = labels_for(method.num_classes, arc.path(share).indices, class_label)
        if label is not None:
            chords[label.diff() != 0] = 0
    inner = _at_lengths(share, chords, even[1:-1])
    return arc.path(torch.cat([even[:1], inner, even[-1:]])), calls


def _at_lengths(share: Tensor, chords: Tensor, target: Tensor) -> Tensor:
    """Shares at which a path of chords (n - 1) between shares (n) has come parts of its length."""
    length = torch.cat([chords.new_zeros(1), chords.cumsum(0)])
    if length[-1] == 0:  # nothing moves
        return target
    reached = target * length[-1]
    right = torch.searchsorted(length, reached).clamp(1, len(chords))
    part = (reached - length[right - 1]) / chords[right - 1]
    return torch.lerp(share[right - 1], share[right], part)


def invertible(method: Method, walk: Walk) -> Walk:
    """Return the walk with a solver of the probability flow, the default for data.

    Raises:
        ConfigError: for another sampler.
    """
    if walk.sampler is None:
        return replace(walk, sampler=ODE(rtol=TOLERANCE, atol=TOLERANCE))
    if not isinstance(walk.sampler_for(method), ODE):
        raise ConfigError(
            f"the sampler {type(walk.sampler_for(method)).__name__} has no inverse: data follow "
            "the probability flow; leave the sampler out, or use ode"
        )
    return walk


def encode_to_noise(
    method: Method, x0: Event, walk: Walk, rng: Rng, label: Labels | None = None
) -> Noise:
    """Follow data along the probability flow to t = 1.

    Data enter at the last time of the sampling grid, with the noise that the process has put on
    them by then, and velocities where there are any. Both are drawn: clean data lie outside the law
    of that time, and their noise would have the wrong length. Latents are the means of their
    posteriors.

    Args:
        method: trained method, in eval mode.
        x0: data (b, *event) on the method's device.
        walk: from ``invertible``; the same one leads back.
        rng: random numbers, one row per datum.
        label: class labels (b), or None.

    Raises:
        ConfigError: for a method without a probability flow.
        NumericalError: if the solver gives up.
    """
    solver = walk.sampler_for(method)
    assert isinstance(solver, ODE)
    process, grid = method.process, method.grid(walk.num_steps, walk.grid)
    denoiser = method.denoiser(label, guidance=walk.guidance)
    with torch.no_grad():
        z, others = _latents(method, x0)
        u = process.lift(z)
        if len(grid) > 1:
            u = process.marginal(grid[-1]).sample(u, rng.normal(*u.shape[1:]).to(u))
            u = _follow(denoiser, u, solver.thin(grid).flip(0), solver)
        return Noise(act(torch.linalg.inv(cholesky(process.prior_cov())), u), others)


def _latents(method: Method, x0: Event) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What is diffused, and the latents of all other groups: means of the posterior."""
    if not isinstance(method, LatentMethod):
        return x0, ()
    own, mean = unwrap(method.autoencoder), KnownRng((), len(x0))
    inferred = own.infer(own.prepare(x0, mean), mean)
    return inferred.prior.z, tuple(other.z for other in inferred.others)


def _follow(denoiser: Denoiser, u: State, times: Times, solver: ODE) -> State:
    """Integrate the probability flow over increasing times."""
    if not isinstance(denoiser, ScoreDenoiser):
        raise ConfigError(
            "a denoising diffusion GAN has no probability flow from data back to noise: give the "
            "numbers of samples instead of data"
        )
    start, end = float(times[0]), float(times[-1])

    def slope(time: Tensor, state: Tensor) -> Tensor:
        return denoiser.flow(state, min(max(float(time), start), end))

    solved = solve(
        slope,
        u,
        times.to(u.device),
        solver=solver.solver,
        rtol=solver.rtol,
        atol=solver.atol,
    )
    return solved[-1]


def reconstruct(method: Method, x0: Event) -> Event:
    """Encode data to the means of their latents and decode them to the mean of their law.

    Raises:
        ConfigError: for a method without an autoencoder.
    """
    if not isinstance(method, LatentMethod):
        raise ConfigError(
            f"{type(method).__name__} has no autoencoder: reconstructions need a latent model"
        )
    with torch.no_grad():
        z, others = _latents(method, x0)
        return unwrap(method.autoencoder).decode(z, others).mean
