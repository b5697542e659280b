r"""Densities in the plane whose log-density and score are known, for tests and pictures.

All but the checkerboard are Gaussian noise around a set of centres,

$$ p(x) = \sum_j w_j \, \mathcal N(x; c_j, \sigma^2 I), \qquad
   \nabla \log p(x) = \sum_j r_j(x) \, (c_j - x) / \sigma^2, $$

where r_j is the posterior weight of centre j. For `grid25` and `ring8` the centres are finitely
many modes. For `rings`, `swiss_roll` and `two_moons` they fill curves; the integral along a curve
is replaced by quadrature (the trapezoidal rule on circles, Gauss and Legendre's on arcs) whose
nodes lie closer than sigma, which makes it exact to rounding, while samples are drawn from the
curve itself.

**Units.** `fetch` returns points divided by `scale`, so that each axis has a standard deviation
of about 1, as diffusion wants it. Everything else, `log_prob`, `score`, `modes` and `std`, is in
the density's own *data units*, in which thresholds such as "within three standard deviations of a
mode" are published; `to_data_units` and `from_data_units` translate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data.base import Batch, Data, to_indices
from trilemma.errors import ConfigError, nearest

__all__ = ["TOYS", "Toy"]

SPLITS = ("train", "test")
CHUNK = 2048
"""Points whose distances to all centres are held in memory together."""


@dataclass(frozen=True)
class Nodes:
    """Centres and weights of a mixture, and how to draw centres.

    Args:
        centres: centres, or quadrature nodes (m, 2), float64, data units.
        weights: their weights (m), float64, sum 1.
        draw: returns n random centres (n, 2), given n and a generator.
    """

    centres: Tensor
    weights: Tensor
    draw: Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """A density.

    Args:
        nodes: makes its centres; None for the checkerboard.
        std: standard deviation of the noise around a centre, data units.
        scale: data units per unit of `fetch`: the standard deviation of an axis, rounded.
        has_modes: whether the centres are modes.
    """

    nodes: Callable[[], Nodes] | None
    std: float
    scale: float
    has_modes: bool = False


def _modes(centres: Tensor) -> Nodes:
    count = len(centres)
    weights = torch.full((count,), 1.0 / count, dtype=torch.float64)
    return Nodes(
        centres, weights, lambda n, rng: centres[torch.randint(count, (n,), generator=rng)]
    )


def _grid25() -> Nodes:
    axis = torch.arange(-4.0, 4.1, 2.0, dtype=torch.float64)
    return _modes(torch.cartesian_prod(axis, axis))


def _ring8() -> Nodes:
    return _modes(2.0 * _direction(torch.arange(8, dtype=torch.float64) * (math.pi / 4)))


def _direction(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _rings() -> Nodes:
    radius = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    num_nodes = [148, 296, 444]  # 0.85 std apart, where the trapezoidal rule errs by 1e-12
    circles = [torch.arange(n, dtype=torch.float64) * (2 * math.pi / n) for n in num_nodes]
    centres = torch.cat([r * _direction(a) for r, a in zip(radius, circles, strict=True)])
    weights = torch.cat([torch.full_like(angle, 1 / (3 * len(angle))) for angle in circles])

    def draw(num: int, rng: torch.Generator) -> Tensor:
        which = torch.randint(3, (num,), generator=rng)
        return radius[which, None] * _direction(2 * math.pi * _uniform(num, rng))

    return Nodes(centres, weights, draw)


def _arcs(curves: Sequence[Callable[[Tensor], Tensor]], num_nodes: int) -> Nodes:
    """Curves over a parameter in [0, 1], uniform in it and equally likely."""
    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(num_nodes))
    centres = torch.cat([curve((node + 1) / 2) for curve in curves])
    weights = torch.cat([weight / (2 * len(curves)) for _ in curves])

    def draw(num: int, rng: torch.Generator) -> Tensor:
        which = torch.randint(len(curves), (num,), generator=rng)
        place = _uniform(num, rng)
        return torch.stack([curve(place) for curve in curves])[which, torch.arange(num)]

    return Nodes(centres, weights, draw)


def _roll(place: Tensor) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * place)
    return angle[:, None] * _direction(angle)


def _upper_moon(place: Tensor) -> Tensor:
    return _direction(math.pi * place) - torch.tensor([0.5, 0.25], dtype=torch.float64)


def _lower_moon(place: Tensor) -> Tensor:
    return -_upper_moon(place)


def _uniform(num: int, rng: torch.Generator) -> Tensor:
    return torch.rand(num, generator=rng, dtype=torch.float64)


TOYS: dict[str, Recipe] = {
    "grid25": Recipe(_grid25, std=0.05, scale=2.83, has_modes=True),
    "ring8": Recipe(_ring8, std=0.02, scale=1.41, has_modes=True),
    "rings": Recipe(_rings, std=0.05, scale=1.53),
    "swiss_roll": Recipe(lambda: _arcs([_roll], 600), std=0.5, scale=6.8),
    "two_moons": Recipe(lambda: _arcs([_upper_moon, _lower_moon], 200), std=0.1, scale=0.7),
    "checkerboard": Recipe(None, std=0.0, scale=2.31),
}
"""The densities by name.

- `grid25`: 25 Gaussians of standard deviation 0.05 on {-4, -2, 0, 2, 4} squared
  (Xiao et al., 2022, Fig. 6);
- `ring8`: 8 Gaussians of standard deviation 0.02 on a circle of radius 2 (Metz et al., 2017);
- `rings`: circles of radius 1, 2 and 3, equally likely, noise 0.05;
- `swiss_roll`: (a cos a, a sin a), a uniform in [1.5 pi, 4.5 pi], noise 0.5;
- `two_moons`: two half circles of radius 1 that grip each other, centred at 0, noise 0.1;
- `checkerboard`: uniform on 8 of the 16 squares of side 2 in [-4, 4] squared; no score.
"""


class Toy(Data):
    """Points in the plane from a known density, the same ones for the same seed.

    Args:
        name: ``"grid25"``, ``"ring8"``, ``"rings"``, ``"swiss_roll"``, ``"two_moons"`` or
            ``"checkerboard"``; a hyphen may stand for the underscore.
        num_points: number of points, at least 1.
        seed: decides the points, at least 0.
        scale: data units per unit of `fetch`, above 0; None takes the density's own.
        split: ``"train"`` or ``"test"``, which are independent draws.

    Raises:
        ConfigError: an unknown name or split, or a number out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        num_points: int = 100_000,
        seed: int = 0,
        scale: float | None = None,
        split: str = "train",
    ) -> None:
        key = name.replace("-", "_")
        if key not in TOYS:
            raise ConfigError(f"there is no toy density {name!r}; {nearest(key, TOYS)}")
        if split not in SPLITS:
            raise ConfigError(f"{name} has no split {split!r}; {nearest(split, SPLITS)}")
        if num_points < 1 or seed < 0 or (scale is not None and not scale > 0):
            raise ConfigError(
                f"num_points is {num_points}, seed {seed}, scale {scale}; allowed: num_points 1 "
                "or more, seed 0 or more, scale above 0 or null"
            )
        self.name, self.part, self.seed = key, split, seed
        self.num_points = num_points
        self.scale = TOYS[key].scale if scale is None else float(scale)

    def __repr__(self) -> str:
        return f"Toy({self.name!r}, split={self.part!r})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """A point has two coordinates."""
        return (2,)

    @property
    def num_classes(self) -> int:
        """Toys are unlabelled."""
        return 0

    @property
    def std(self) -> float:
        """Standard deviation of the noise around a centre, in data units."""
        return TOYS[self.name].std

    @property
    def modes(self) -> Tensor:
        """Centres of the mixture (m, 2), float64, in data units; only for `grid25` and `ring8`."""
        if not TOYS[self.name].has_modes:
            having = [name for name, recipe in TOYS.items() if recipe.has_modes]
            raise ConfigError(f"{self.name} has no modes; those that have: {', '.join(having)}")
        return self._nodes.centres.clone()

    def __len__(self) -> int:
        return self.num_points

    def fetch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return points by number, in data units divided by ``scale``.

        Args:
            indices: point numbers (b), each in [0, num_points).

        Returns:
            The points (b, 2), float32, without labels.

        Raises:
            IndexError: an index lies outside [0, num_points).
        """
        return Batch(self._points[to_indices(indices, len(self))])

    def split(self, name: str) -> "Toy":
        """Return the other draw from the same density.

        Args:
            name: ``"train"`` or ``"test"``.

        Returns:
            As many points, independent of the other part's.

        Raises:
            ConfigError: any other name.
        """
        return Toy(
            self.name, num_points=self.num_points, seed=self.seed, scale=self.scale, split=name
        )

    def to_data_units(self, x: Tensor) -> Tensor:
        """Undo the scaling of `fetch`.

        Args:
            x: points (\\*, 2) as `fetch` returns them, or as a network trained on them makes them.

        Returns:
            The points (\\*, 2) in data units.
        """
        return x * self.scale

    def from_data_units(self, x: Tensor) -> Tensor:
        """Scale points as `fetch` does.

        Args:
            x: points (\\*, 2) in data units.

        Returns:
            The points (\\*, 2), divided by ``scale``.
        """
        return x / self.scale

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw fresh points from the density itself.

        Args:
            num: how many.
            rng: a generator on the CPU.

        Returns:
            Points (num, 2), float64, in data units.
        """
        if self.name == "checkerboard":
            return _draw_checkerboard(num, rng)
        centres = self._nodes.draw(num, rng)
        return centres + self.std * torch.randn(num, 2, generator=rng, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Evaluate log p(x), in nats per point, for the density in data units.

        The density of what `fetch` returns is log_prob(to_data_units(x0)) + 2 log(scale).

        Args:
            x: points (\*, 2) in data units.

        Returns:
            Log-densities (\*), float64; -inf outside the checkerboard's squares.
        """
        points = x.to(torch.float64)
        if self.name == "checkerboard":
            return _checkerboard_log_prob(points)
        return self._by_chunks(points, lambda chunk: self._joint(chunk).logsumexp(-1))

    def score(self, x: Tensor) -> Tensor:
        r"""Evaluate the gradient of log p(x), per data unit.

        Args:
            x: points (\*, 2) in data units.

        Returns:
            Scores (\*, 2), float64.

        Raises:
            ConfigError: for the checkerboard, whose density jumps.
        """
        if self.name == "checkerboard":
            raise ConfigError("checkerboard is uniform on squares and has no score; use log_prob")
        return self._by_chunks(x.to(torch.float64), self._score)

    def _score(self, points: Tensor) -> Tensor:
        share = self._joint(points).softmax(-1)
        return (share @ self._nodes.centres.to(points.device) - points) / self.std**2

    def _joint(self, points: Tensor) -> Tensor:
        """Evaluate log w_j N(x; c_j) for all points and centres (n, m)."""
        centres, weights = (a.to(points.device) for a in (self._nodes.centres, self._nodes.weights))
        exact = "donot_use_mm_for_euclid_dist"  # the fast way cancels between far modes
        distance = torch.cdist(points, centres, compute_mode=exact)
        constant = weights.log() - math.log(2 * math.pi * self.std**2)
        return constant - (distance / self.std).square() / 2

    @staticmethod
    def _by_chunks(points: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        chunks = [function(chunk) for chunk in points.reshape(-1, 2).split(CHUNK)]
        return torch.cat(chunks).reshape(points.shape[:-1] + chunks[0].shape[1:])

    @cached_property
    def _nodes(self) -> Nodes:
        make: Any = TOYS[self.name].nodes
        return make()

    @cached_property
    def _points(self) -> Tensor:
        key = np.random.SeedSequence([self.seed, SPLITS.index(self.part)])
        rng = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]) >> 1)
        return (self.sample(self.num_points, rng) / self.scale).to(torch.float32)


def _draw_checkerboard(num: int, rng: torch.Generator) -> Tensor:
    square = torch.randint(8, (num,), generator=rng)
    column = square // 2
    row = 2 * (square % 2) + column % 2
    corner = torch.stack([column, row], dim=-1).to(torch.float64)
    return 2 * (corner + torch.rand(num, 2, generator=rng, dtype=torch.float64)) - 4


def _checkerboard_log_prob(points: Tensor) -> Tensor:
    square = ((points + 4) / 2).floor()
    inside = ((square >= 0) & (square < 4)).all(-1) & (square.sum(-1) % 2 == 0)
    uniform = torch.full_like(points[..., 0], -math.log(32.0))
    return torch.where(inside, uniform, -math.inf)
