"""SSCS beats Euler-Maruyama at few steps (Dockhorn et al., 2022): same model, grid and steps.

The paper's relation that we could check is at 150 steps, so up to 150 are few. It holds if SSCS is
clearly better, its interval apart from the other, at one such number of steps and has the worse
value at none; it fails if SSCS is clearly worse at one.
"""

from __future__ import annotations

import math

from trilemma.report.claims.base import (
    Claim,
    Found,
    compare,
    is_worse,
    judge,
    label,
    lacking,
    seen_of,
    told,
    undecided,
)
from trilemma.report.formats import spread_text
from trilemma.report.record import Report

__all__ = ["splitting"]

FEW_SSCS_STEPS = 150


def splitting(report: Report) -> Claim:
    """SSCS beats Euler-Maruyama at few steps.

    Args:
        report: what was measured.
    """
    return Claim(
        method="CLD",
        statement=(
            "The splitting sampler SSCS is better than Euler-Maruyama at few steps of the "
            f"same grid (at most {FEW_SSCS_STEPS})."
        ),
        published="CIFAR-10: FID 3.07 with SSCS and 7.00 with Euler-Maruyama at 150 steps",
        source="Dockhorn et al., 2022",
        **judge(_splitting, _splitting_shown, report, "cifar10", ("cld",))._asdict(),
    )


def _splitting(report: Report) -> Found:
    drawn = {
        (seen.cell.model, seen.cell.grid, seen.cell.steps, seen.cell.sampler): seen.record
        for seen in seen_of(report, ("cld",), "distance", "high_quality")
        if seen.cell.steps is not None and seen.cell.steps <= FEW_SSCS_STEPS
    }
    told: list[str] = []
    better: list[str] = []
    worse: list[str] = []
    behind: list[str] = []
    for (model, grid, steps, sampler), euler in sorted(drawn.items(), key=lambda item: item[0]):
        sscs = drawn.get((model, grid, steps, "sscs"))
        if sampler != "euler_maruyama" or sscs is None:
            continue
        sign = compare(sscs, euler)
        told.append(
            f"{model}, {steps} steps: {label(sscs)} {spread_text(sscs)} with "
            f"SSCS, {spread_text(euler)} with Euler-Maruyama"
        )
        if sign:
            (better if sign < 0 else worse).append(f"{steps}")
        elif is_worse(sscs, euler):
            behind.append(f"{steps}")
    if not told:
        return lacking(
            report,
            ("cld",),
            "add cells of a Langevin model (cld) with both samplers at the same few steps, such as "
            "--ladder default sscs:20,50 euler_maruyama:20,50",
        )
    measured = "; ".join(told)
    if worse:
        reason = f"SSCS is clearly worse at {', '.join(worse)} steps"
        return Found("not reproduced", reason, measured)
    if better and not behind:
        reason = f"SSCS is clearly better at {', '.join(better)} steps and worse at none"
        return Found("reproduced", reason, measured)
    return undecided(measured)


def _splitting_shown(report: Report) -> str:
    """The best cell of each of the two samplers, at few steps if there is one."""
    sides = []
    for sampler in ("sscs", "euler_maruyama"):
        seen = seen_of(report, ("cld",), "distance", "high_quality")
        seen = [one for one in seen if one.cell.sampler == sampler]
        few = [one for one in seen if (one.cell.steps or math.inf) <= FEW_SSCS_STEPS]
        sides.append(few or seen)
    return told(*sides)
