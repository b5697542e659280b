"""Denoising diffusion GANs are good in 4 calls (Xiao et al., 2022).

Nobody claims that they are best: Table 1 has FID 3.75 in 4 calls, and 2.10 for the best score
model, LSGM. "Near" is therefore what it was there: a distance of at most k = 3.75 / 2.10 = 1.79
times that of the best score model of the report, latent ones included. One of them must be there in
full: as it draws by default, or in at least 100 calls. Else the best may only be the one that was
cut short.
"""

from __future__ import annotations

from trilemma.report.claims.base import (
    FEW_GAN_CALLS,
    MANY_CALLS,
    SCORE,
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
from trilemma.report.formats import listed
from trilemma.report.record import Report
from trilemma.report.words import cell_name

__all__ = ["few_steps"]

NEAR = 3.75 / 2.10
"""Published distance of DDGAN over that of the best score model (Xiao et al., 2022, Table 1)."""


def few_steps(report: Report) -> Claim:
    """Denoising diffusion GANs are good in four calls.

    Args:
        report: what was measured.
    """
    return Claim(
        method="DDGAN",
        statement=(
            f"At most {FEW_GAN_CALLS} network calls give a distance near that of the best "
            f"score model (at most {NEAR:.2f} times, as published)."
        ),
        published="CIFAR-10: FID 3.75, recall 0.57 in 4 calls; best score model 2.10, 0.61",
        source="Xiao et al., 2022, Table 1",
        **judge(_few_steps, _few_shown, report, "cifar10", ("ddgan", *SCORE))._asdict(),
    )


def _few_steps(report: Report) -> Found:
    ours = [seen for seen in seen_of(report, ("ddgan",)) if seen.cell.nfe <= FEW_GAN_CALLS]
    score = seen_of(report, SCORE)
    if not ours:
        return lacking(
            report,
            ("ddgan",),
            f"add a denoising diffusion GAN in at most {FEW_GAN_CALLS} calls with a Fréchet "
            "distance",
        )
    if not score:
        return lacking(
            report, SCORE, "add a score model (ddpm, edm, cld or lsgm) with a Fréchet distance"
        )
    if not any(seen.cell.is_default or seen.cell.nfe >= MANY_CALLS for seen in score):
        return lacking(
            report,
            SCORE,
            "add a score model as it draws by default (--ladder default), or in "
            f"{MANY_CALLS} calls or more: {listed([cell_name(seen.cell) for seen in score], 6)} "
            "may be cut short",
        )
    one, best = (min(seen, key=badness) for seen in (ours, score))
    is_near = is_at_most(one.record, best.record, NEAR)
    measured = f"{one} against {best}"
    if best.record.value > 0:
        measured += f": {one.record.value / best.record.value:.2f} times"
    measured += beware(report, one, best)
    if is_near is None:
        return undecided(measured)
    if is_near:
        return Found("reproduced", f"at most {NEAR:.2f} times, by both intervals", measured)
    return Found("not reproduced", f"clearly more than {NEAR:.2f} times", measured)


def _few_shown(report: Report) -> str:
    """The best denoising diffusion GAN, in few calls if there is one, and the best score model."""
    ours = seen_of(report, ("ddgan",))
    few = [seen for seen in ours if seen.cell.nfe <= FEW_GAN_CALLS]
    return told(few or ours, seen_of(report, SCORE))
