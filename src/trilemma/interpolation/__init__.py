"""Paths through noise, their spacing, and the way from data back to noise.

``noise`` says where the draws of a frame come from, ``paths`` combines them along arcs and circles,
``spacing`` puts frames at equal lengths of what is drawn, ``inversion`` finds the noise of data.
"""

from trilemma.interpolation.inversion import encode_to_noise, invertible, reconstruct
from trilemma.interpolation.noise import KnownRng, MixedRng, Noise
from trilemma.interpolation.paths import (
    Arc,
    Path,
    around,
    between_noises,
    between_samples,
    draw_path,
    from_noise,
    loop_weights,
    slerp_weights,
)
from trilemma.interpolation.spacing import Spacing, equal_lengths, spacing_for

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
