r"""Regularisers of smoothness: spectral norms of convolutions, and the scales of norm layers.

.. math:: R = \sum_i s_i + \sum_j \max_c |\gamma_{j,c}|

s_i is the largest singular value of convolution i, its weight flattened to [out, in * area];
gamma_j are the scales of a batch or group norm. A small R bounds how fast the network's output
can change, which keeps deep hierarchical autoencoders stable.

Singular values come from power iterations whose vectors live on between steps, so that a few of
them suffice. Vectors are constants for the gradient: ds = u^T dW v.

Source: Vahdat & Kautz: NVAE, 2020, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.errors import ConfigError
from trilemma.networks.layers import Attention
from trilemma.networks.ncsnpp import ResBlock

__all__ = ["HasEffectiveWeight", "SpectralNorm", "convolution_weights", "norm_penalty"]

FIRST_ITERATIONS = 40
ITERATIONS = 4
SMALLEST_NORM = 1e-3


@runtime_checkable
class HasEffectiveWeight(Protocol):
    """A convolution that does not apply its parameter as it is."""

    def effective_weight(self) -> Tensor:
        """The weight it applies."""
        ...


def convolution_weights(network: nn.Module) -> list[Tensor]:
    """Weights of all convolutions, in the order of modules, as they are applied.

    Channel mixes of attention layers and of the shortcuts of "ddpm" blocks count as linear layers
    and are left out.
    """
    mixes: set[int] = set()
    for module in network.modules():
        if isinstance(module, Attention):
            mixes |= {id(module.query_key_value), id(module.out)}
        elif isinstance(module, ResBlock) and module.is_ddpm:
            mixes.add(id(module.shortcut))
    return [
        module.effective_weight() if isinstance(module, HasEffectiveWeight) else module.weight
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and id(module) not in mixes
    ]


def norm_penalty(network: nn.Module) -> Tensor:
    """Sum over batch and group norms of the largest absolute scale."""
    scales = [
        module.weight.abs().max()
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) and module.affine
    ]
    return torch.stack(scales).sum() if scales else torch.zeros(())


class SpectralNorm(nn.Module):
    """Sum of the largest singular values: ``spectral(convolution_weights(network))``.

    Power iterations run 40 times at the first call and 4 times at every other. Weights of one
    flattened shape are stacked; row i of the vectors u_{rows}x{columns} and v_{rows}x{columns}
    belongs to the i-th of them.

    Args:
        network: whose ``convolution_weights`` will be given; only their shapes are kept.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        stacks = _stacks(convolution_weights(network))
        for name, stack in stacks.items():
            rows, columns = stack[0].shape
            for side, size in (("u", rows), ("v", columns)):
                vectors = torch.randn(len(stack), size, device=stack[0].device)
                self.register_buffer(f"{side}_{name}", _unit(vectors))
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))
        self.num_calls: Tensor
        self._is_warm = False  # known on the host, so that a step does not wait for the device

    def forward(self, weights: Sequence[Tensor]) -> Tensor:
        """Improve the vectors and return the sum of the singular values.

        Raises:
            ConfigError: if the weights are not those of the network this was made for.
        """
        stacks = _stacks(weights)
        expected = {name[2:]: len(v) for name, v in self.named_buffers() if name.startswith("v_")}
        if {name: len(stack) for name, stack in stacks.items()} != expected:
            raise ConfigError("the convolutions are not those that the spectral norm was made for")
        self._is_warm = self._is_warm or bool(self.num_calls)
        count = ITERATIONS if self._is_warm else FIRST_ITERATIONS
        self.num_calls += 1
        parts = []
        for name, stack in stacks.items():
            device = stack[0].device.type
            with torch.autocast(device, enabled=False):
                matrices = torch.stack(stack)
                u, v = self._iterate(name, matrices.detach(), count)
                parts.append((u[:, None] @ matrices @ v[:, :, None]).sum())
        return torch.stack(parts).sum() if parts else torch.zeros(())

    @torch.no_grad()
    def _iterate(self, name: str, matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Left and right singular vectors (n, rows) and (n, columns), stored for the next time."""
        kept_u, kept_v = self.get_buffer(f"u_{name}"), self.get_buffer(f"v_{name}")
        u, v = kept_u.to(matrices)[:, None], kept_v.to(matrices)
        for _ in range(count):
            v = _unit(u @ matrices)
            u = _unit(v @ matrices.mT)
        u, v = u[:, 0], v[:, 0]
        kept_u.copy_(u)
        kept_v.copy_(v)
        return u, v


def _stacks(weights: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Weights as matrices, by shape."""
    stacks: dict[str, list[Tensor]] = {}
    for weight in weights:
        matrix = weight.flatten(1)
        stacks.setdefault(f"{matrix.shape[0]}x{matrix.shape[1]}", []).append(matrix)
    return stacks


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1, eps=SMALLEST_NORM)
