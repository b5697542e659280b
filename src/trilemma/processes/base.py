r"""Linear diffusion processes with block coefficients.

Every forward process here is a linear stochastic differential equation on a state of k blocks,

.. math:: du = F(t)\,u\,dt + G(t)\,dw, \qquad t \in [0, 1],

where F(t) and G(t) are k x k and act on the block axis alone, as the identity on everything else:
k = 1 for diffusions of the data, k = 2 for position and velocity. Its transitions are Gaussian,

.. math:: u_t \mid u_s \sim \mathcal N(\Psi(t, s)\,u_s,\; Q(t, s)), \qquad
          \dot\Psi = F\Psi,\quad \dot Q = FQ + QF^\top + GG^\top,

and a new process is right as soon as it states F and G: the base class integrates these moment
equations in float64 by Gauss-Legendre collocation. A closed form is an override, and the test
suite holds it to the integral. From transitions follows the Gaussian *posterior*
q(u_s | u_t, u_o), the law of an intermediate state given a later one and an earlier one, which is
what ancestral samplers draw from: DDPM on a fine grid, denoising diffusion GANs on a grid of T
large steps.

All coefficients are float64 and are cast once, where they meet a state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.typing import Blocks, Event, SomeBlocks, State, Times

__all__ = ["LinearSDE", "Posterior", "Transition", "act", "as_times", "cholesky"]


NUM_PANELS = 8
"""Panels with which the default integration of the moment equations starts."""
MAX_HALVINGS = 21
"""How often a panel is halved at most."""
MAX_ENTRIES = 2**21
"""Entries of the linear systems that are solved at once; 16 MiB."""
TOLERANCE = 1e-12
"""Agreement of a panel with its halves, relative to the largest entry; halves are much closer."""


EARLIEST = 1e-12
"""Earliest time that a noise level is taken for."""
ROUNDING = 1e-6
"""Times out of [0, 1] by no more stand for its ends: rounding, that of float32 at worst."""


class Transition(NamedTuple):
    """Gaussian kernel u_t | u_s ~ N(mean_matrix u_s, cov), float64 blocks of shape (..., k, k)."""

    mean_matrix: Blocks
    cov: Blocks

    def chol(self) -> Blocks:
        """Lower Cholesky factor of the covariance; a zero pivot makes a zero column."""
        if self.cov.shape[-1] == 1:
            return self.cov.sqrt()
        return cholesky(self.cov)

    def sample(self, u_s: State, eps: State) -> State:
        """Draw u_t = mean_matrix u_s + chol eps for standard normal eps of the state's shape."""
        return act(self.mean_matrix, u_s) + act(self.chol(), eps)


class Posterior(NamedTuple):
    """Gaussian u_s | u_t, u_o ~ N(on_origin u_o + on_later u_t, cov), float64 (..., k, k)."""

    on_origin: Blocks
    on_later: Blocks
    cov: Blocks

    def mean(self, u_origin: State, u_t: State) -> State:
        """Posterior mean, of the state's shape and dtype."""
        return act(self.on_origin, u_origin) + act(self.on_later, u_t)

    def sample(self, u_origin: State, u_t: State, eps: State) -> State:
        """Draw u_s for standard normal eps of the state's shape; exact where cov is zero."""
        factor = Transition(self.on_later, self.cov).chol()
        return self.mean(u_origin, u_t) + act(factor, eps)


def cholesky(cov: Blocks) -> Blocks:
    """Lower Cholesky factor of positive semi-definite blocks (..., k, k), k small.

    Written out column by column: a covariance that starts at zero has zero pivots, and small
    batches of 2 x 2 matrices are no work for a linear algebra library.
    """
    k = cov.shape[-1]
    columns: list[Tensor] = []
    rest = cov
    for j in range(k):
        pivot = rest[..., j, j].sqrt()
        column = rest[..., :, j] / torch.where(pivot == 0, 1.0, pivot)[..., None]
        column = column * (torch.arange(k, device=cov.device) >= j)
        columns.append(column)
        rest = rest - column[..., :, None] * column[..., None, :]
    return torch.stack(columns, -1)


def as_times(t: Times | float) -> Times:
    """Return times as a float64 tensor; numbers become 0-dimensional.

    Every coefficient of a process takes its times through here, once inside [0, 1] as they are.

    Args:
        t: times in [0, 1], any shape; beyond an end by ``ROUNDING`` at most they become the end.

    Raises:
        ConfigError: for a time outside [0, 1], or one that is no number.
    """
    times = torch.as_tensor(t, dtype=torch.float64)
    inside = times.clamp(0.0, 1.0)
    if torch.equal(inside, times):
        return times
    near = (times - inside).abs() <= ROUNDING
    if not bool(near.all()):
        raise ConfigError(
            f"t={float(times[~near][0])} is no point in time: processes run in [0, 1]"
        )
    return inside


def act(matrix: Tensor, u: SomeBlocks) -> SomeBlocks:
    """Apply (j, k) or (b, j, k) coefficients to the block axis of a state (b, k, *event)."""
    matrix = matrix.to(u, non_blocking=True)  # from the CPU, where coefficients are computed
    if matrix.shape[-2:] == (1, 1):
        scalar = matrix[..., 0, 0]
        return scalar.reshape(scalar.shape + (1,) * (u.dim() - scalar.dim())) * u
    flat = matrix @ u.flatten(2)
    return flat.view(len(u), matrix.shape[-2], *u.shape[2:])


@cache
def _collocation(num_stages: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes c, stage matrix A and weights b of the Gauss-Legendre method, order 2 num_stages."""
    # Golub-Welsch: the nodes are the eigenvalues of the symmetric Jacobi matrix.
    n = torch.arange(1, num_stages, dtype=torch.float64)
    off_diagonal = n / (4 * n**2 - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes = (torch.linalg.eigvalsh(jacobi) + 1) / 2
    powers = torch.arange(num_stages, dtype=torch.float64)
    vandermonde = nodes[:, None] ** powers  # (stage, power)
    integrals = nodes[:, None] ** (powers + 1) / (powers + 1)
    stages = torch.linalg.solve(vandermonde.T, integrals.T).T
    weights = torch.linalg.solve(vandermonde.T, 1 / (powers + 1))
    return nodes, stages, weights


class LinearSDE(ABC):
    """Linear SDE du = F(t) u dt + G(t) dw on states of ``num_blocks`` blocks, t in [0, 1].

    A subclass gives ``drift_matrix`` and ``diffusion_matrix``; everything else has a default.
    """

    num_blocks: ClassVar[int] = 1
    """k, the number of blocks of a state."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    @abstractmethod
    def drift_matrix(self, t: Times) -> Blocks:
        """F(t), float64 of shape (..., k, k) for times of shape (...) in [0, 1]."""

    @abstractmethod
    def diffusion_matrix(self, t: Times) -> Blocks:
        """G(t), float64 of shape (..., k, k) for times of shape (...) in [0, 1]."""

    def transition(self, s: Times | float, t: Times | float) -> Transition:
        """Return the kernel u_t | u_s by integrating the moment equations.

        Four-stage Gauss-Legendre collocation (order 8, A-stable) on panels that are halved until
        a panel and its halves agree to ``TOLERANCE``, so that rates may vary by any factor. Later
        times that share their earlier one are integrated in a row, from each to the next.

        Args:
            s: earlier times in [0, 1], any shape.
            t: later times in [0, 1], broadcastable with s, t >= s.

        Raises:
            ConfigError: if some t < s, or a time lies outside [0, 1].
        """
        s, t = self._ordered(s, t)
        places = torch.linspace(0, 1, NUM_PANELS + 1, dtype=t.dtype, device=t.device)
        if t.numel() > 1 and bool((s == s.reshape(-1)[0]).all()):
            origin, flat = s.reshape(-1)[0], t.reshape(-1)
            marks = torch.cat([torch.lerp(origin, flat.max(), places), flat])
            edges, order = marks.sort(stable=True)  # the origin is first
            kernels = _gathered(self._integrate(edges[:-1], edges[1:]))
            rank = order.argsort()[len(places) :].reshape(t.shape)
            return Transition(*(blocks[rank] for blocks in kernels))
        edges = torch.lerp(s[..., None], t[..., None], places)
        panels = self._integrate(edges[..., :-1].reshape(-1), edges[..., 1:].reshape(-1))
        mean, cov = (x.view(*t.shape, NUM_PANELS, *x.shape[1:]) for x in panels)
        kernel = Transition(mean[..., 0, :, :], cov[..., 0, :, :])
        for i in range(1, NUM_PANELS):
            kernel = _compose(kernel, Transition(mean[..., i, :, :], cov[..., i, :, :]))
        return kernel

    def _integrate(self, left: Tensor, right: Tensor, depth: int = MAX_HALVINGS) -> Transition:
        """Kernels of intervals (n), halved one by one where that changes them."""
        chunk = MAX_ENTRIES // (4 * self.num_blocks**2) ** 2
        if len(left) > chunk:
            pairs = zip(left.split(chunk), right.split(chunk), strict=True)
            done = [self._integrate(*pair, depth) for pair in pairs]
            return Transition(*(torch.cat(parts) for parts in zip(*done, strict=True)))
        middle = (left + right) / 2
        whole = self._collocate(left, right)
        halves = _compose(self._collocate(left, middle), self._collocate(middle, right))
        rough = (~_agree(whole, halves)).nonzero()[:, 0]
        if depth == 0 or len(rough) == 0:
            return halves
        ends = torch.cat([left[rough], middle[rough]]), torch.cat([middle[rough], right[rough]])
        finer = self._integrate(*ends, depth - 1)
        first, second = (
            Transition(*pair) for pair in zip(*(x.chunk(2) for x in finer), strict=True)
        )
        pairs_of = zip(halves, _compose(first, second), strict=True)
        return Transition(*(mine.index_put((rough,), its) for mine, its in pairs_of))

    def _collocate(self, left: Tensor, right: Tensor) -> Transition:
        """One panel of the linear system y' = A(t) y + b(t), y = (vec Psi, vec Q)."""
        k, h = self.num_blocks, right - left
        identity = torch.eye(k, dtype=torch.float64, device=left.device)
        times = left[..., None] + h[..., None] * _collocation(4)[0].to(left.device)
        drift, diffusion = self.drift_matrix(times), self.diffusion_matrix(times)
        flow = _kron(drift, identity)
        source = (diffusion @ diffusion.mT).flatten(-2)
        start = identity.flatten().expand(*h.shape, k * k)
        psi = _linear_step(flow, torch.zeros_like(source), h, start)
        noise = _linear_step(flow + _kron(identity, drift), source, h, torch.zeros_like(start))
        return Transition(psi.unflatten(-1, (k, k)), noise.unflatten(-1, (k, k)))

    def initial_cov(self) -> Blocks:
        """Covariance (k, k) of the state around its datum where diffusion starts; zero by default.

        A velocity that is drawn at the start and integrated out lives here, and so does a variance
        at which a process starts.
        """
        return torch.zeros(self.num_blocks, self.num_blocks, dtype=torch.float64)

    def marginal(
        self,
        t: Times | float,
        origin: Times | float = 0.0,
        *,
        initial_cov: Blocks | None = None,
    ) -> Transition:
        r"""Return the perturbation kernel u_t | x_0, with clean data at time ``origin``.

        .. math:: u_t \mid x_0 \sim \mathcal N(\Psi\,(x_0, 0),\;
                  \Psi\,\Sigma_0\,\Psi^\top + Q), \qquad \Psi = \Psi(t, \text{origin}).
        """
        return self._spread(self.transition(origin, t), initial_cov)

    def _spread(self, kernel: Transition, initial_cov: Blocks | None = None) -> Transition:
        """Integrate the initial covariance out of a kernel that starts at the datum."""
        initial = self.initial_cov() if initial_cov is None else initial_cov
        initial = initial.to(kernel.cov.device)
        psi = kernel.mean_matrix
        return Transition(psi, psi @ initial @ psi.mT + kernel.cov)

    def carried_cov(self, t: Times | float) -> Blocks:
        """Covariance around the datum that obeys the moment equations.

        That of ``marginal``, unless a process adds something to its marginals that its dynamics do
        not know.
        """
        return self.marginal(t).cov

    def lift(self, x0: Event) -> State:
        """Place data (b, *event) in the first block of a state (b, k, *event), zeros elsewhere."""
        blocks = [x0[:, None]] + [torch.zeros_like(x0[:, None])] * (self.num_blocks - 1)
        return torch.cat(blocks, dim=1)

    def equilibrium_reversal(self, t: Times | float, s: Times | float) -> Transition:
        r"""Return u_s | u_t, s <= t, under the reverse SDE of data that are the prior N(0, P).

        .. math:: du = (-F - GG^\top P^{-1})\,u\,d\tau + G\,dw, \qquad \tau = -t .

        This is the part of generation that needs no network, and that splitting samplers solve
        exactly. Where the prior is stationary for the process it keeps the prior.
        """
        s, t = self._ordered(s, t)
        return _Reversed(self).transition(1 - t, 1 - s)

    def log_snr(self, t: Times | float) -> Times:
        """Log of the squared ratio of signal to noise in the first block, at times t > 0."""
        kernel = self.marginal(t)
        return 2 * kernel.mean_matrix[..., 0, 0].abs().log() - kernel.cov[..., 0, 0].log()

    def time_of_log_snr(self, log_snr: Times | float) -> Times:
        """Invert ``log_snr``, which falls with t, for times in [EARLIEST, 1], by bisection."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        low, high = torch.full_like(target, EARLIEST).log(), torch.zeros_like(target)
        for _ in range(80):  # in log t, since small times matter
            middle = (low + high) / 2
            is_later = self.log_snr(middle.exp()) > target
            low, high = torch.where(is_later, middle, low), torch.where(is_later, high, middle)
        return high.exp()

    def posterior(
        self, t: Times | float, s: Times | float, origin: Times | float = 0.0
    ) -> Posterior:
        """Return q(u_s | u_t, u_origin) for origin <= s < t.

        The published coefficients of denoising diffusion GANs with T steps, whose clean data live
        at 1e-3, are ``VP().posterior(t, s, origin=1e-3)`` at neighbours s < t of
        ``uniform_grid(T, 1e-3)``. With the default origin 0 they move by up to 1.1e-4 (T = 1) to
        6.5e-4 (T = 8), and the last step, s = 1e-3, gets a variance of 1.1e-4 in place of zero.

        With Q_s the covariance of u_s around the datum, S = Psi Q_s Psi^T + Q that up to t, and
        the gain K = Q_s Psi^T S^-1, the law has mean A Psi_s u_o + K u_t and covariance
        A Q_s A^T + K Q K^T, where A = I - K Psi = (I + Q_s Psi^T Q^-1 Psi)^-1, written so that
        nothing cancels. At s = origin, without an initial covariance, it is exactly the point u_o.

        Args:
            t: later times in [0, 1], any shape.
            s: earlier times, broadcastable with t.
            origin: time of the clean datum u_o; 0 by default.

        Raises:
            ConfigError: unless 0 <= origin <= s < t <= 1.
        """
        s, t = self._ordered(s, t)
        if bool(torch.any(s == t)):
            same = float(s[s == t][0])
            raise ConfigError(f"a posterior goes back in time: s < t is needed, got s=t={same}")
        early = self._spread(self.transition(as_times(origin), s))
        late = self.transition(s, t)
        psi, noise = late.mean_matrix, late.cov
        total = psi @ early.cov @ psi.mT + noise
        gain = torch.linalg.solve(total, psi @ early.cov).mT
        root = torch.linalg.solve_triangular(late.chol(), psi, upper=False)
        identity = torch.eye(self.num_blocks, dtype=psi.dtype, device=psi.device)
        keep = torch.linalg.inv(identity + early.cov @ root.mT @ root)
        cov = keep @ early.cov @ keep.mT + gain @ noise @ gain.mT
        return Posterior(keep @ early.mean_matrix, gain, cov)

    def prior_cov(self) -> Blocks:
        """Covariance (k, k) of the base distribution N(0, prior_cov) at t = 1."""
        return torch.eye(self.num_blocks, dtype=torch.float64)

    @classmethod
    def example(cls) -> LinearSDE:
        """A small instance for tests that loop over all processes."""
        return cls()

    @staticmethod
    def _ordered(s: Times | float, t: Times | float) -> tuple[Tensor, Tensor]:
        early, late = torch.broadcast_tensors(as_times(s), as_times(t))
        back = early > late
        if bool(back.any()):
            first, second = float(early[back][0]), float(late[back][0])
            raise ConfigError(
                f"a transition goes forward in time: s <= t, got s={first}, t={second}"
            )
        return early, late


def _compose(first: Transition, second: Transition) -> Transition:
    """The kernel of one interval after another."""
    psi = second.mean_matrix
    return Transition(psi @ first.mean_matrix, psi @ first.cov @ psi.mT + second.cov)


def _gathered(kernels: Transition) -> Transition:
    """Kernels (n + 1) from the start to the end of each of n intervals in a row; first none.

    Composition is associative, so log2 n rounds do it: each doubles the reach of every kernel.
    """
    k = kernels.cov.shape[-1]
    none = torch.eye(k, dtype=kernels.cov.dtype, device=kernels.cov.device)[None]
    kernels = Transition(
        torch.cat([none, kernels.mean_matrix]), torch.cat([torch.zeros_like(none), kernels.cov])
    )
    reach = 1
    while reach < len(kernels.cov):
        early = Transition(*(x[:-reach] for x in kernels))
        late = Transition(*(x[reach:] for x in kernels))
        pairs = zip(kernels, _compose(early, late), strict=True)
        kernels = Transition(*(torch.cat([x[:reach], y]) for x, y in pairs))
        reach *= 2
    return kernels


def _agree(a: Transition, b: Transition) -> Tensor:
    """Whether kernels (n) are equal to ``TOLERANCE`` of their largest entries, (n)."""
    near = [
        ((mine - its).abs() <= TOLERANCE * its.abs().amax(dim=(-1, -2), keepdim=True))
        .all(-1)
        .all(-1)
        for mine, its in zip(a, b, strict=True)
    ]
    return near[0] & near[1]


class _Reversed(LinearSDE):
    """The reverse SDE of data that are the prior, on its own clock 1 - t."""

    def __init__(self, process: LinearSDE) -> None:
        self.process, self.precision = process, torch.linalg.inv(process.prior_cov())
        self.num_blocks = process.num_blocks  # type: ignore[misc]

    def drift_matrix(self, t: Times) -> Blocks:
        noise = self.process.diffusion_matrix(1 - t)
        precision = self.precision.to(noise.device)
        return -self.process.drift_matrix(1 - t) - noise @ noise.mT @ precision

    def diffusion_matrix(self, t: Times) -> Blocks:
        return self.process.diffusion_matrix(1 - t)


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of the last two axes: vec(A X B^T) = kron(A, B) vec(X), row-major."""
    product = a[..., :, None, :, None] * b[..., None, :, None, :]
    size = a.shape[-1] * b.shape[-1]
    return product.reshape(*product.shape[:-4], size, size)


def _linear_step(matrix: Tensor, source: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """One collocation step y -> y + h b.k of y' = A(t) y + b(t), slopes k from one solve.

    Args:
        matrix: A at the nodes, (..., stage, n, n).
        source: b at the nodes, (..., stage, n).
        h: step lengths, (...).
        y: start values, (..., n).
    """
    _, stages, weights = (x.to(h.device) for x in _collocation(matrix.shape[-3]))
    unknowns = source.shape[-2] * source.shape[-1]
    coupling = stages[:, None, :, None] * matrix[..., :, :, None, :]
    identity = torch.eye(unknowns, dtype=h.dtype, device=h.device)
    system = identity - h[..., None, None] * coupling.reshape(*h.shape, unknowns, unknowns)
    right = (matrix @ y[..., None, :, None])[..., 0] + source
    slopes = torch.linalg.solve(system, right.flatten(-2)).view_as(right)
    return y + h[..., None] * (weights[:, None] * slopes).sum(-2)


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ConfigError unless low <= value <= high and value is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        end = f"{high}]" if math.isfinite(high) else "inf)"
        raise ConfigError(f"{name}={value} is outside its range [{low}, {end}")
