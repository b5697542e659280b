r"""Denoisers: what samplers see of a network.

A sampler asks for noise, score, flow or clean data and never learns how the network was
parametrised. Every denoiser counts its network calls here, in one place (``nfe``).

With eps the standard normal noise of the perturbation kernel N(Psi (x_0, 0), L L^T),

.. math:: \nabla \log p_t = -L^{-\top}\epsilon, \qquad
          \dot u = F u + \tfrac12 G G^\top L^{-\top} \epsilon \quad\text{(probability flow)} .
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trilemma.errors import ConfigError
from trilemma.parametrisation import Parametrisation, gaussian_part
from trilemma.processes import LinearSDE, act
from trilemma.rng import Rng
from trilemma.typing import Labels, State, Times

__all__ = ["Denoiser", "GeneratorDenoiser", "ScoreDenoiser"]


class Denoiser(ABC):
    """A network seen through its process: estimates of clean data, and a count of calls."""

    process: LinearSDE
    origin: float = 0.0
    """Time at which clean data live."""
    nfe: int = 0
    """Network evaluations per sample since the last reset."""

    def prepare(self, times: Times) -> None:  # noqa: B027 - many denoisers have no table
        """Compute what depends on time alone, for all times of a grid at once."""

    def adopt(self, other: Denoiser) -> None:  # noqa: B027 - as above
        """Share the coefficients that another denoiser of the same method has computed."""

    @abstractmethod
    def x0(self, u: State, t: Times, rng: Rng) -> State:
        """Estimate, or for implicit models draw, the clean state behind u at time t.

        Args:
            u: diffused states (b, k, *event).
            t: one time for the whole batch, 0-dimensional float64 on the CPU.
            rng: source of latent codes.

        Returns:
            The data in the first block, zeros in the others.
        """


class _Row(NamedTuple):
    """Coefficients of one time, in the state's dtype and device."""

    scale: float
    time: float
    on_state: Tensor | None
    on_output: Tensor | None
    gaussian: Tensor | None
    score: Tensor
    flow_state: Tensor
    flow: Tensor
    x0_state: Tensor
    x0: Tensor


class ScoreDenoiser(Denoiser):
    """A network that predicts noise, data or scores, under any linear process.

    Args:
        network: called as (u, t, None, label) with blocks joined along the first event axis,
            times float32 (b); returns the predicted blocks, joined likewise.
        process: forward process.
        parametrisation: meaning of the network's output.
        label: class labels (b), if the network is conditional.
        guidance: w of classifier-free guidance, r_none + w (r_label - r_none); 1 is plain
            conditional sampling and costs one call, any other value two.

    Raises:
        ConfigError: if process and parametrisation do not fit, or guidance has no label.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        process: LinearSDE,
        parametrisation: Parametrisation,
        label: Labels | None = None,
        *,
        guidance: float = 1.0,
    ) -> None:
        parametrisation.check(process)
        if guidance != 1.0 and label is None:
            raise ConfigError(f"guidance={guidance} needs a model that was trained with labels")
        self.network, self.process, self.parametrisation = network, process, parametrisation
        self.label, self.guidance = label, guidance
        self._rows: dict[float, _Row] = {}
        self._cast: dict[tuple[float, torch.dtype, torch.device], _Row] = {}

    @property
    def has_full_score(self) -> bool:
        """Whether the score of every block is known, not only of those that noise enters."""
        return self.parametrisation.has_full_score

    def adopt(self, other: Denoiser) -> None:
        """Share the table of coefficients."""
        if isinstance(other, ScoreDenoiser):
            self._rows, self._cast = other._rows, other._cast

    def prepare(self, times: Times) -> None:
        """Compute the coefficients of many times in one vectorised pass."""
        times = torch.as_tensor(times, dtype=torch.float64, device="cpu").reshape(-1)
        times = times[times > 0]
        new = [t for t in times.tolist() if t not in self._rows]
        if not new:
            return
        t = torch.tensor(new, dtype=torch.float64)
        process, parametrisation = self.process, self.parametrisation
        scale, time = parametrisation.inputs(process, t)
        readout = parametrisation.readout(process, t)
        kernel = parametrisation.kernel(process, t)
        chol, signal = kernel.chol(), kernel.mean_matrix[:, :1, :1]
        score = -torch.linalg.inv(chol).mT
        if not self.has_full_score:
            known = parametrisation.output_blocks(process)
            mask = torch.zeros(process.num_blocks, 1, dtype=torch.float64)
            mask[known] = 1.0
            score = score * mask
        drift, diffusion = process.drift_matrix(t), process.diffusion_matrix(t)
        flow = -diffusion @ diffusion.mT @ score / 2
        x0_state = torch.zeros_like(chol)
        x0_state[:, :1, :1] = 1 / signal
        x0 = torch.zeros_like(chol)
        x0[:, :1] = -chol[:, :1] / signal
        for i, key in enumerate(new):
            self._rows[key] = _Row(
                float(scale[i]),
                float(time[i]),
                readout.on_state[i] if bool(readout.on_state[i].any()) else None,
                None if _is_identity(readout.on_output[i]) else readout.on_output[i],
                None if readout.gaussian is None else readout.gaussian[i],
                score[i],
                drift[i],
                flow[i],
                x0_state[i],
                x0[i],
            )

    def _row(self, u: State, t: Times | float) -> _Row:
        """Coefficients of a time, in the dtype and on the device of the states."""
        key = float(t)
        if (key, u.dtype, u.device) not in self._cast:
            if key not in self._rows:
                self.prepare(torch.tensor([key], dtype=torch.float64))
            row = self._rows.get(key)
            if row is None:
                raise ConfigError(f"there is no noise at t={key}; times lie in (0, 1]")
            cast: dict[str, Any] = {
                k: x.to(u, non_blocking=True)
                for k, x in row._asdict().items()
                if isinstance(x, Tensor)
            }
            self._cast[key, u.dtype, u.device] = row._replace(**cast)
        return self._cast[key, u.dtype, u.device]

    def output(self, u: State, t: Times | float) -> State:
        """Call the network: what it predicts, (b, p, *event), in the dtype of the state."""
        row = self._row(u, t)
        times = torch.full((len(u),), row.time, dtype=torch.float32, device=u.device)
        joined = u.flatten(1, 2) if row.scale == 1.0 else row.scale * u.flatten(1, 2)
        extra = gaussian_part(self.network, row.gaussian, u)
        return self._call(joined.float(), times, extra).unflatten(1, (-1, u.shape[2])).to(u)

    def _call(self, joined: Tensor, times: Tensor, extra: dict[str, Tensor]) -> Tensor:
        self.nfe += 1
        if self.guidance == 1.0:
            return self.network(joined, times, None, self.label, **extra)
        assert self.label is not None
        self.nfe += 1
        plain = self.network(joined, times, None, torch.full_like(self.label, -1), **extra)
        guided = self.network(joined, times, None, self.label, **extra)
        return torch.lerp(plain, guided, self.guidance)

    def eps(self, u: State, t: Times | float) -> State:
        """Noise of all blocks behind states at one time; zero in blocks where it is unknown."""
        row, output = self._row(u, t), self.output(u, t)
        eps = output if row.on_output is None else act(row.on_output, output)
        return eps if row.on_state is None else eps + act(row.on_state, u)

    def score(self, u: State, t: Times | float) -> State:
        """Gradient of log p_t; without ``has_full_score`` that of the noisy blocks alone."""
        return act(self._row(u, t).score, self.eps(u, t))

    def flow(self, u: State, t: Times | float) -> State:
        """Drift of the probability flow, per unit of forward time."""
        row = self._row(u, t)
        return act(row.flow_state, u) + act(row.flow, self.eps(u, t))

    def need_position(self) -> None:
        """Refuse to predict clean data where the noise of the position is unknown.

        Raises:
            ConfigError: after denoising score matching.
        """
        if not self.has_full_score:
            raise ConfigError(
                "clean data cannot be predicted after denoising score matching, which conditions "
                "on the initial velocity; train with hybrid score matching, or take final 'none'"
            )

    def x0(self, u: State, t: Times, rng: Rng | None = None) -> State:
        """Mean of the clean data given the state, in the first block.

        Raises:
            ConfigError: where the noise of the position is unknown.
        """
        self.need_position()
        row = self._row(u, t)
        return act(row.x0_state, u) + act(row.x0, self.eps(u, t))


def _is_identity(matrix: Tensor) -> bool:
    square = matrix.shape[-1] == matrix.shape[-2]
    return square and torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype))


class GeneratorDenoiser(Denoiser):
    """Draws clean data from a conditional generator G(u_t, step, code).

    Args:
        generator: network with a ``code_dim``, trained on the steps of ``grid``.
        process: forward process.
        grid: increasing times of the training grid; step n goes from grid[n + 1] to grid[n].
        label: class labels (b), if the generator is conditional.
    """

    def __init__(
        self,
        generator: nn.Module,
        process: LinearSDE,
        grid: Times,
        label: Labels | None = None,
    ) -> None:
        self.generator, self.process, self.grid, self.label = generator, process, grid, label
        self.origin = float(grid[0])
        self.steps = {float(time): n for n, time in enumerate(grid[1:])}

    def x0(self, u: State, t: Times, rng: Rng) -> State:
        """Draw clean states with a fresh code.

        Raises:
            ConfigError: for a time at which the generator was not trained.
        """
        if float(t) not in self.steps:
            raise ConfigError(f"the generator denoises at times {list(self.steps)}, not {float(t)}")
        code = rng.normal(int(self.generator.code_dim))  # type: ignore[arg-type]
        step = torch.full((len(u),), self.steps[float(t)], device=u.device)
        self.nfe += 1
        return self.generator(u[:, 0], step, code.to(u), self.label)[:, None].to(u)
