r"""Fast 3 x 3 convolution on a CPU: a quarter of the multiplications, for inference.

A convolution with r taps is a product of polynomials, and a product of degree n - 1 is known from
its values at n points (Toom; Cook). Transposed, this computes m = n - r + 1 outputs of the
correlation y_i = sum_j g_j d_{i+j} from n inputs with n multiplications instead of m r:

    y = A^T [(G g) * (B^T d)],

where row p of G holds the powers 1, p, ..., p^(r-1) of a point p, A those up to p^(m-1), and B is
the inverse of the n x n matrix of powers; the point at infinity has the row (0, ..., 0, 1). In two
dimensions the Kronecker squares act on n x n tiles (Winograd, 1980; Lavin and Gray, 2016). Over
the channels the products are n^2 matrix products: tiles of 6 x 6 give 4 x 4 outputs with 36
products instead of 144.

The points 0, 1, -1, 1/2, -2 and infinity keep the rounding small (Barabasz et al., 2020, on their
choice): the relative error in float32 stays below 5e-6, a few times that of the direct convolution.
Matrices and transformed weights are computed in float64.

PyTorch has no such convolution. The matrix products run as one grouped 1 x 1 convolution of
oneDNN, whose weights are laid out for it once and kept; they take 4 times the memory of the
weights. Training, other devices and types, small widths and small maps take PyTorch's convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.typing import Image

__all__ = ["Conv3x3", "toom_cook"]

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
TAPS = 3
SIDE = len(POINTS) + 1
STEP = SIDE - TAPS + 1
MIN_CHANNELS = 128
MIN_TILES = 16
MAX_TILES = 256


def toom_cook(points: Sequence[float], taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices A^T (m, n), G (n, taps), B^T (n, n) in float64, from n - 1 finite points.

    For taps g and n inputs d, ``a @ ((g_matrix @ g) * (b @ d))`` is the correlation's m outputs,
    m = n - taps + 1.

    Source: Winograd, 1980, Arithmetic Complexity of Computations, by transposition.
    """
    size = len(points) + 1
    powers = torch.zeros(size, size, dtype=torch.float64)
    powers[:-1] = torch.tensor(points, dtype=torch.float64)[:, None] ** torch.arange(size)
    powers[-1, -1] = 1

    def evaluation(terms: int) -> Tensor:
        matrix = powers[:, :terms].clone()
        matrix[-1] = 0
        matrix[-1, -1] = 1
        return matrix

    return evaluation(size - taps + 1).T, evaluation(taps), torch.linalg.inv(powers).T


@cache
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """A^T and B^T in float32, G in float64."""
    outputs, weights, inputs = toom_cook(POINTS, TAPS)
    return outputs.float().contiguous(), weights, inputs.float().contiguous()


class Conv3x3(nn.Conv2d):
    """3 x 3 convolution that keeps the sides; without gradients, on a CPU, by 6 x 6 tiles.

    The transformed weights are kept from call to call and made again when the weights change.

    Args:
        inputs, outputs: channels.
        bias: add one per output channel.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, TAPS, padding=1, bias=bias)
        self._packed: tuple[Any, Tensor, Any] | None = None

    def forward(self, input: Image) -> Image:
        """Map (b, inputs, h, w) to (b, outputs, h, w)."""
        return self._by_tiles(input) if self._pays(input) else super().forward(input)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_packed": None}  # made again where it is needed

    def _pays(self, x: Image) -> bool:
        """Whether tiles are allowed here, and faster."""
        _, channels, height, width = x.shape
        return (
            not torch.compiler.is_compiling()
            and x.device.type == "cpu"
            and x.numel() > 0
            and x.dtype == self.weight.dtype == torch.float32
            and min(channels, self.out_channels) >= MIN_CHANNELS
            and _tiles(height) * _tiles(width) >= MIN_TILES
            and not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))
            and not torch.is_autocast_enabled("cpu")
            and _can_pack()
        )

    def _by_tiles(self, x: Image) -> Image:
        batch, channels, height, width = x.shape
        rows, columns = _tiles(height), _tiles(width)
        padded = F.pad(
            x.permute(0, 2, 3, 1).contiguous(),
            (0, 0, 1, STEP * columns - width + 1, 1, STEP * rows - height + 1),
        )
        s = padded.stride()
        tiles = padded.as_strided(
            (batch, rows, columns, SIDE, SIDE, channels),
            (s[0], STEP * s[1], STEP * s[2], s[1], s[2], s[3]),
        )
        y = x.new_empty(batch, STEP * rows, STEP * columns, self.out_channels)
        blocks = y.view(batch, rows, STEP, columns, STEP, -1).transpose(2, 3)
        parts = _parts(batch, rows, columns)
        weights = self._packed_weights(tiles[parts[0]].shape[:3].numel())
        for part in parts:
            blocks[part] = self._outputs(tiles[part], weights)
        return y[:, :height, :width].permute(0, 3, 1, 2)

    def _outputs(self, tiles: Tensor, weights: Any) -> Tensor:
        """Tiles (b, rows, columns, 6, 6, inputs) to blocks (b, rows, columns, 4, 4, outputs)."""
        to_outputs, _, from_inputs = _matrices()
        area, count = SIDE * SIDE, tiles.shape[:3].numel()
        d = from_inputs @ tiles.reshape(count, SIDE, -1)
        d = from_inputs @ d.view(count * SIDE, SIDE, -1)
        d = d.view(1, count, 1, -1).permute(0, 3, 1, 2)
        products = torch.ops.mkldnn._convolution_pointwise(
            d, weights, None, [0, 0], [1, 1], [1, 1], area, "none", [], ""
        )
        y = to_outputs @ products.permute(0, 2, 3, 1).view(count * SIDE, SIDE, -1)
        y = (to_outputs @ y.view(count, SIDE, -1)).view(*tiles.shape[:3], STEP, STEP, -1)
        return y if self.bias is None else y.add_(self.bias)

    def _packed_weights(self, count: int) -> Any:
        """Transformed weights in oneDNN's layout for so many tiles, made again if they change.

        A smaller last part takes the same, at the price of a slower product. Editing a parameter's
        ``data`` leaves its version alone, so some entries are compared too.
        """
        some = self.weight.detach()[:, 0, 1, 1]
        version = -1 if self.weight.is_inference() else self.weight._version
        mark = (count, self.weight.data_ptr(), version)
        kept = self._packed
        if kept is None or kept[0] != mark or not torch.equal(kept[1], some):
            self._packed = kept = (mark, some.clone(), _pack(self.weight.detach(), count))
        return kept[2]


def _tiles(side: int) -> int:
    return -(-side // STEP)


def _parts(batch: int, rows: int, columns: int) -> list[tuple[slice, slice]]:
    """Slices of images, or of rows of tiles, of like size and about ``MAX_TILES`` tiles."""
    images = _share(batch, rows * columns)
    height = rows if images > 1 else _share(rows, columns)
    return [
        (slice(i, i + images), slice(j, j + height))
        for i in range(0, batch, images)
        for j in range(0, rows, height)
    ]


def _share(items: int, tiles: int) -> int:
    """Of so many items of so many tiles, those to take at once."""
    parts = max(1, math.ceil(items * tiles / MAX_TILES))
    return math.ceil(items / parts)


def _pack(weight: Tensor, count: int) -> Any:
    outputs, inputs = weight.shape[:2]
    area = SIDE * SIDE
    matrix = _matrices()[1]
    square = torch.kron(matrix, matrix)
    transformed = (square @ weight.double().reshape(outputs * inputs, -1).T).float()
    return torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
        transformed.view(area * outputs, inputs, 1, 1).to_mkldnn(),
        [0, 0],
        [1, 1],
        [1, 1],
        area,
        [1, area * inputs, count, 1],
    )


def _can_pack() -> bool:
    return bool(torch.backends.mkldnn.enabled) and _has_packing()


@cache
def _has_packing() -> bool:
    """Whether this PyTorch was built with oneDNN, and with weights in its own layout."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )
