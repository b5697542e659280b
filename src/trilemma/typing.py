"""Shape aliases, one per thing that travels between modules.

Shapes are checked at run time in the test suite only (jaxtyping's import hook); users pay nothing.
``b`` counts samples, ``k`` the blocks of a state (1, or 2 for position and velocity), ``*event``
is the shape of one datum.
"""

from typing import Literal

from jaxtyping import Float, Int64, Real
from torch import Tensor

__all__ = [
    "Blocks",
    "Event",
    "Final",
    "Image",
    "Labels",
    "OneTime",
    "SomeBlocks",
    "State",
    "Steps",
    "Times",
    "TimesOrSteps",
]

State = Float[Tensor, "b k *event"]
"""A diffused state u_t."""
SomeBlocks = Float[Tensor, "b _ *event"]
"""Some of a state's blocks, or combinations of them."""
Event = Float[Tensor, "b *event"]
"""Data x0, or noise of its shape."""
Image = Float[Tensor, "b _ _ _"]
"""Images, or feature maps."""
Times = Float[Tensor, "..."]
"""Diffusion times in [0, 1], float64."""
Blocks = Float[Tensor, "... k k"]
"""Coefficient matrices that act on the block axis of a state, float64."""
Labels = Int64[Tensor, " b"]
"""Class labels."""
Steps = Int64[Tensor, " b"]
"""Indices of the large denoising steps, 0 = the last one, which returns clean data."""
TimesOrSteps = Real[Tensor, " b"]
"""What a network is told about time: times in [0, 1], or step indices."""
OneTime = Real[Tensor, ""]
"""One of these for the whole batch."""
Final = Literal["none", "drift", "x0"]
"""How sampling ends: at the earliest time of the grid; by one noiseless Euler step of the reverse
SDE more, of length t_min; or with the prediction of clean data."""
