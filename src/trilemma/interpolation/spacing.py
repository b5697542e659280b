r"""Frames of a path at equal lengths of what is drawn.

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
from typing import Literal, get_args

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.interpolation.paths import Arc, Path, even_shares, walk_path
from trilemma.methods.base import Method
from trilemma.methods.vae import LatentMethod
from trilemma.sampling import Walk, labels_for

__all__ = ["Spacing", "equal_lengths", "spacing_for"]

OFFSETS = (3 / 8, 7 / 8, 1 / 8, 5 / 8)
"""Where in equal pieces of a path the rounds after the first draw; apart from each other, as chords
between draws that all but coincide would be rounding errors."""
Spacing = Literal["length", "angle"]
"""What frames are equally far apart in: clean states on the way, or the angle of their noise."""


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
    even = even_shares(num)
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
        for u, _, _, nfe in walk_path(method, path, walk, label, batch_size):
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
