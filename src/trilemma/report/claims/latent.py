"""Latent diffusion needs few calls (Vahdat et al., 2021).

At most 23 calls are no worse (k = 1) than the best pixel diffusion in at least 100. Published: 23
calls with FID 7.22 beside 4000 calls of a score SDE with 7.23.
"""

from __future__ import annotations

from trilemma.report.claims.base import (
    MANY_CALLS,
    PIXEL,
    Claim,
    Found,
    badness,
    beware,
    is_at_most,
    judge,
    lacking,
    seen_of,
    told,
    undecided,
)
from trilemma.report.record import Report

__all__ = ["latent_calls"]

FEW_LATENT_CALLS = 23


def latent_calls(report: Report) -> Claim:
    """Latent diffusion needs few calls.

    Args:
        report: what was measured.
    """
    return Claim(
        method="LSGM",
        statement=(
            f"At most {FEW_LATENT_CALLS} network calls in latent space give a distance no "
            f"worse than the best pixel diffusion in at least {MANY_CALLS}."
        ),
        published="CelebA-HQ 256: FID 7.22 in 23 calls, beside 7.23 in 4000 calls in pixels",
        source="Vahdat et al., 2021",
        **judge(_latent_calls, _latent_shown, report, "celebahq", ("lsgm", *PIXEL))._asdict(),
    )


def _latent_calls(report: Report) -> Found:
    latent, pixel = seen_of(report, ("lsgm",)), seen_of(report, PIXEL)
    if not latent:
        return lacking(report, ("lsgm",), "add a latent model (lsgm) with a Fréchet distance")
    if not pixel:
        return lacking(report, PIXEL, "add a pixel model (ddpm or edm) with a Fréchet distance")
    walks = [seen for seen in pixel if seen.cell.nfe >= MANY_CALLS]
    if not walks:
        most = max((seen.cell for seen in pixel), key=lambda cell: cell.nfe)
        return lacking(
            report,
            PIXEL,
            f"add a cell of {most.model} at {MANY_CALLS} calls or more, such as "
            f"--ladder default ancestral:1000 (it has at most {most.nfe})",
        )
    many = min(walks, key=badness)
    few = [seen for seen in latent if seen.cell.nfe <= FEW_LATENT_CALLS]
    if not few:
        return lacking(
            report,
            ("lsgm",),
            f"add a cell of {latent[0].cell.model} in at most {FEW_LATENT_CALLS} calls, such as "
            "--ladder default gddim:10,20",
        )
    answers = []
    for seen in sorted(latent, key=lambda seen: (seen.cell.nfe, seen.record.value)):
        answers.append(is_at_most(seen.record, many.record))
        if answers[-1]:
            measured = f"{seen} against {many}{beware(report, seen, many)}"
            if seen.cell.nfe > FEW_LATENT_CALLS and None not in answers:
                reason = f"the distance is no worse only from {seen.cell.nfe} calls on"
                return Found("not reproduced", reason, measured)
            if seen.cell.nfe <= FEW_LATENT_CALLS:
                return Found("reproduced", "the distance is no worse, by both intervals", measured)
    best = min(few, key=badness)
    measured = f"{best} against {many}{beware(report, best, many)}"
    if None in answers:
        return undecided(measured)
    return Found("not reproduced", "the distance of every latent cell is worse", measured)


def _latent_shown(report: Report) -> str:
    """The best latent cell, of few calls if there is one, and the best long walk in pixels.

    Without one of as many calls as the claim asks for, the longest.
    """
    latent, pixel = seen_of(report, ("lsgm",)), seen_of(report, PIXEL)
    few = [seen for seen in latent if seen.cell.nfe <= FEW_LATENT_CALLS]
    most = min(MANY_CALLS, max((seen.cell.nfe for seen in pixel), default=0))
    return told(few or latent, [seen for seen in pixel if seen.cell.nfe >= most])
