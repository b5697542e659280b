"""What the tests compare with: golden files, replayed noise, Gaussian problems solved exactly."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import torch
from mpmath import matrix as mp_matrix
from mpmath import mp
from safetensors import safe_open
from torch import Tensor, nn

from trilemma.denoiser import Denoiser, ScoreDenoiser
from trilemma.parametrisation import Parametrisation, Predict
from trilemma.processes import LinearSDE, act

GOLDEN = Path(__file__).parent / "golden" / "ddgan"


# ---------------------------------------------------------------- golden files


def golden(name: str) -> dict[str, Tensor]:
    """Tensors of a golden file, a fresh copy each time."""
    return {key: value.clone() for key, value in _golden(name)[0].items()}


def golden_config(name: str) -> dict:
    """Header of a golden file: every entry is JSON."""
    return copy.deepcopy(_golden(name)[1])


@cache
def _golden(name: str) -> tuple[dict[str, Tensor], dict]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, {k: json.loads(v) for k, v in (file.metadata() or {}).items()}


def listing(name: str):
    """One of the key listings: official name to [shape, dtype], or the official arguments."""
    return json.loads((GOLDEN / "state_dicts" / f"{name}.json").read_text())


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries whose name starts with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


# ------------------------------------------------------------------ randomness


class ReplayRng:
    """Hands out recorded draws in order, and refuses to be asked for anything else."""

    def __init__(self, *draws: Tensor) -> None:
        self.draws = list(draws)

    def _next(self, shape: tuple[int, ...]) -> Tensor:
        draw = self.draws.pop(0)
        # Recorded noise has the shape of the data; states carry one block more.
        assert draw.numel() == torch.Size((len(draw), *shape)).numel(), (draw.shape, shape)
        return draw.reshape(len(draw), *shape)

    def normal(self, *event: int) -> Tensor:
        draw = self._next(event)
        assert draw.is_floating_point()
        return draw

    def integers(self, high: int) -> Tensor:
        draw = self._next(())
        assert draw.dtype == torch.int64
        assert int(draw.max()) < high
        return draw

    def uniform(self, pairing: str = "independent") -> Tensor:
        raise AssertionError("a sampler draws no uniform numbers")


class BasisRng:
    """Makes an affine function of its noise show its matrix.

    Row 0 of the batch gets zeros; row i of the others gets a one at the i-th number drawn, all the
    draws of a run counted through, and zeros elsewhere. Running any affine computation once on
    these rows yields its offset and its columns, so the law of its result is known exactly.
    """

    def __init__(self, num_inputs: int) -> None:
        self.num_inputs, self.used = num_inputs, 0

    def normal(self, *event: int) -> Tensor:
        size = torch.Size(event).numel()
        rows = torch.zeros(1 + self.num_inputs, size, dtype=torch.float64)
        for i in range(size):
            rows[1 + self.used + i, i] = 1.0
        self.used += size
        return rows.view(-1, *event)

    def integers(self, high: int) -> Tensor:
        raise AssertionError("an affine computation draws no integers")

    def uniform(self, pairing: str = "independent") -> Tensor:
        raise AssertionError("a sampler draws no uniform numbers")


def affine_law(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a result from its values on the rows of a ``BasisRng``."""
    rows = rows.flatten(1)
    columns = (rows[1:] - rows[0]).T
    return rows[0], columns @ columns.T


# ---------------------------------------------------------- processes by F and G


class Langevin(LinearSDE):
    """A damped oscillator with a time-dependent rate, k = 2, noise on the velocity alone.

    Made up for the tests and stated by F and G only, so that everything comes from the base class.
    """

    num_blocks = 2

    def __init__(self, rate: float = 4.0, mass: float = 0.25, friction: float = 1.0) -> None:
        self.rate, self.mass, self.friction = rate, mass, friction

    def _beta(self, t):
        return self.rate * (0.5 + t)

    def drift_matrix(self, t):
        unit = torch.tensor(
            [[0.0, 1 / self.mass], [-1.0, -self.friction / self.mass]], dtype=torch.float64
        )
        return self._beta(t)[..., None, None] * unit

    def diffusion_matrix(self, t):
        unit = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        return (2 * self.friction * self._beta(t)).sqrt()[..., None, None] * unit

    def prior_cov(self):
        return torch.diag(torch.tensor([1.0, self.mass], dtype=torch.float64))


class Coupled(LinearSDE):
    """Two blocks whose drift matrices at different times do not commute, with full-rank noise."""

    num_blocks = 2

    def drift_matrix(self, t):
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        rows = [torch.stack([-one, 3 * t], -1), torch.stack([2 - 4 * t, -0.5 + zero], -1)]
        return torch.stack(rows, -2)

    def diffusion_matrix(self, t):
        one = torch.ones_like(t)
        rows = [torch.stack([one, 0.3 * t], -1), torch.stack([-0.2 * one, 1 + t], -1)]
        return torch.stack(rows, -2)


class BareVP(LinearSDE):
    """VP(0.1, 20) by F and G alone, without its closed form."""

    def drift_matrix(self, t):
        return (-(0.1 + 19.9 * t) / 2)[..., None, None]

    def diffusion_matrix(self, t):
        return (0.1 + 19.9 * t).sqrt()[..., None, None]


def examples(base: type) -> list:
    """One small instance of every public concrete subclass of the package, found by import."""
    import inspect

    found, queue = [], [base]
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        is_ours = cls.__module__.startswith("trilemma.") and not cls.__name__.startswith("_")
        if is_ours and not inspect.isabstract(cls):
            found.append(cls.example() if hasattr(cls, "example") else cls())
    assert found, f"no subclass of {base.__name__} found"
    return sorted(found, key=lambda item: type(item).__name__)


def name_of(item) -> str:
    """Test id of an instance."""
    return type(item).__name__


def bayes_posterior(psi_s, q_s, psi, q) -> tuple[Tensor, Tensor, Tensor]:
    """q(u_s | u_t, u_o) by conditioning the joint Gaussian of (u_s, u_t) given u_o, in 60 digits.

    Args:
        psi_s, q_s: kernel u_s | u_o, (k, k) float64, taken as exact.
        psi, q: kernel u_t | u_s.

    Returns:
        Matrices on u_o and u_t, and the covariance.
    """
    with mp.workdps(60):
        psi_s, q_s, psi, q = (mp_matrix(x.tolist()) for x in (psi_s, q_s, psi, q))
        cross = q_s * psi.T
        gain = cross * (psi * q_s * psi.T + q) ** -1
        parts = (psi_s - gain * psi * psi_s, gain, q_s - gain * cross.T)
        return tuple(torch.tensor(x.tolist(), dtype=torch.float64) for x in parts)


# ------------------------------------------------------------ Gaussian problems


class GaussianData:
    """Data x0 ~ N(mean, cov) in R^d; everything about its diffusion is known in closed form."""

    def __init__(self, dim: int = 3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mean = torch.randn(dim, generator=generator, dtype=torch.float64)
        factor = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
        self.cov = factor @ factor.T + 0.05 * torch.eye(dim, dtype=torch.float64)
        self.dim = dim

    def diffused(self, process: LinearSDE, t: float, origin: float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of u_t."""
        kernel = process.marginal(t, origin)
        alpha, variance = float(kernel.mean_matrix), float(kernel.cov)
        eye = torch.eye(self.dim, dtype=torch.float64)
        return alpha * self.mean, alpha**2 * self.cov + variance * eye

    def denoising(
        self, process: LinearSDE, t: float, origin: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """p(x0 | u_t) = N(gain u_t + offset, factor factor^T)."""
        alpha = float(process.marginal(t, origin).mean_matrix)
        mean, cov = self.diffused(process, t, origin)
        gain = torch.linalg.solve(cov, alpha * self.cov).T
        rest = self.cov - gain @ (alpha * self.cov)
        factor = torch.linalg.cholesky((rest + rest.T) / 2)
        return gain, self.mean - gain @ mean, factor


class ExactDenoiser(Denoiser):
    """Draws from the true p(x0 | u_t) of Gaussian data: a perfect implicit denoising model."""

    def __init__(self, data: GaussianData, process: LinearSDE, origin: float) -> None:
        self.data, self.process, self.origin = data, process, origin

    def x0(self, u, t, rng):
        gain, offset, factor = self.data.denoising(self.process, float(t), self.origin)
        eps = rng.normal(self.data.dim).double()
        self.nfe += 1
        return (u[:, 0].double() @ gain.T + offset + eps @ factor.T)[:, None].to(u)


class ExactGenerator(nn.Module):
    """The same as a generator network, so that a method can be put together around it."""

    num_classes = 0

    def __init__(self, data: GaussianData, process: LinearSDE, times: Tensor) -> None:
        super().__init__()
        self.code_dim, self.event_shape = data.dim, (data.dim,)
        self.laws = [data.denoising(process, float(t), float(times[0])) for t in times[1:]]
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, u, step, code, label=None):
        (index,) = set(step.tolist())
        gain, offset, factor = self.laws[index]
        return u @ gain.T + offset + code @ factor.T


class ConstantDiscriminator(nn.Module):
    """Logit ``value`` whatever it sees."""

    num_classes = 0

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, u_s, step, u_t, label=None):
        return self.value + 0 * u_s.flatten(1).sum(1, keepdim=True)


# ------------------------------------------------- mixtures and their exact scores


def golden_cld(name: str) -> dict[str, Tensor]:
    """Tensors of a golden file of Langevin diffusion, a fresh copy each time."""
    return {key: value.clone() for key, value in _golden_cld(name).items()}


@cache
def _golden_cld(name: str) -> dict[str, Tensor]:
    with safe_open(GOLDEN.parent / "cld" / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


class Mixture:
    """A Gaussian mixture in R^d, float64: means (n, d), covariances (n, d, d), weights (n)."""

    def __init__(self, means: Tensor, covs: Tensor, weights: Tensor | None = None) -> None:
        self.means, self.covs = means.double(), covs.double()
        weights = torch.ones(len(means)) if weights is None else weights
        self.weights = weights.double() / weights.sum()
        self.dim = means.shape[1]

    @classmethod
    def gaussian(cls, data: GaussianData) -> Mixture:
        """One component."""
        return cls(data.mean[None], data.cov[None])

    @classmethod
    def round(cls, means: Tensor, sd: Tensor, weights: Tensor | None = None) -> Mixture:
        """Components with covariance sd^2 I."""
        covs = sd.double().square()[:, None, None] * torch.eye(means.shape[1], dtype=torch.float64)
        return cls(means, covs, weights)

    @classmethod
    def example(cls) -> Mixture:
        """Three components in the plane."""
        means = torch.tensor([[-0.8, 0.3], [0.5, 0.9], [0.4, -0.7]])
        covs = [[[0.2, 0.05], [0.05, 0.1]], [[0.1, 0.0], [0.0, 0.3]], [[0.25, -0.1], [-0.1, 0.15]]]
        return cls(means, torch.tensor(covs), torch.tensor([0.5, 0.2, 0.3]))

    def diffused(self, process: LinearSDE, t: float) -> tuple[Tensor, Tensor]:
        """Means (n, k d) and covariances (n, k d, k d) of the components at time t."""
        kernel = process.marginal(t)
        signal = kernel.mean_matrix[:, 0]
        means = (signal[:, None] * self.means[:, None, :]).flatten(1)
        noise = torch.kron(kernel.cov, torch.eye(self.dim, dtype=torch.float64))
        spread = [torch.kron(torch.outer(signal, signal), cov) for cov in self.covs]
        return means, torch.stack(spread) + noise


class ExactScore(ScoreDenoiser):
    """The true score of a mixture under a process of any number of blocks, in float64.

    Args:
        data: mixture at time 0.
        process: process whose coefficients the sampler sees.
        law: process whose marginals define the score, if another one.
        parametrisation: only for what it says about the blocks.
    """

    def __init__(
        self,
        data: Mixture,
        process: LinearSDE,
        law: LinearSDE | None = None,
        parametrisation: Parametrisation | None = None,
    ) -> None:
        super().__init__(torch.nn.Identity(), process, parametrisation or Predict("eps"))
        self.data, self.law = data, law or process
        self._laws: dict[float, tuple[Tensor, ...]] = {}

    def _at(self, t: float) -> tuple[Tensor, ...]:
        if t not in self._laws:
            means, covs = self.data.diffused(self.law, t)
            level = self.data.weights.log() - torch.linalg.slogdet(covs)[1] / 2
            times = torch.tensor(t, dtype=torch.float64)
            chol = self.parametrisation.kernel(self.process, times).chol()
            self._laws[t] = means, torch.linalg.inv(covs), level, chol
        return self._laws[t]

    def eps(self, u, t):
        self.nfe += 1
        means, precisions, level, chol = self._at(float(t))
        apart = means - u.double().flatten(1)[:, None]
        pulls = torch.einsum("nij,bnj->bni", precisions, apart)
        share = torch.softmax(level - (apart * pulls).sum(-1) / 2, dim=1)
        score = (share[..., None] * pulls).sum(1).view(u.shape)
        return -act(chol.mT, score).to(u)


# ---------------------------------------------------------- past the type checker


def unchecked(cls: type, *args, **kwargs):
    """Make an object without the suite's run-time types, so that its own errors are seen."""
    import inspect

    made = cls.__new__(cls)
    inspect.unwrap(cls.__init__)(made, *args, **kwargs)
    return made


# ------------------------------------------------ the authors' networks for points


def official_points(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a recorded network for points: every second module of ``main`` is linear."""
    ours = {}
    for name, value in tensors.items():
        stem, number, kind = name.split(".")
        ours[f"layers.{int(number) // (2 if stem == 'main' else 1)}.{kind}"] = value
    return ours
