"""Published rows to hold a report's coverage against.

Stacked digits are three digits, one per colour channel, hence 1000 modes; the figures are the modes
that a model shows and the divergence of their frequencies, in nats. The rows are Table 3 of Xiao et
al., 2022, as later papers quote it. Neither the number of samples nor the classifier behind them is
stated there; a perfect sampler scores about 999 / (2 N) nats with N samples, so only sizes near
theirs (26,000 by custom) stand beside them fairly.

Of 25 Gaussians the same paper shows a picture and no figures, and so do we: a row without values
that says what is to be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trilemma.report.record import Report

__all__ = ["Baseline", "baselines"]

TABLE = "Xiao et al., 2022, Table 3, as later papers quote it"
FIGURE = "Xiao et al., 2022, Fig. 6: picture only, no figures"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One published row.

    Attributes:
        name: of the model, as the source calls it.
        values: by the names of our records; empty where only a picture was published.
        source: paper and table.
    """

    name: str
    values: Mapping[str, float]
    source: str


STACKED = {
    "DDGAN, 4 calls": (1000, 0.071),
    "VAEBM": (1000, 0.087),
    "PresGAN": (1000, 0.12),
    "PacGAN": (992, 0.28),
    "StyleGAN2": (940, 0.424),
    "Adversarial DSM": (1000, 1.49),
}
"""Modes of 1000 and divergence from the data in nats, best first."""

GRID25 = (
    "DDGAN, 4 calls: all 25 modes, clean",
    "vanilla GAN: few modes",
    "WGAN-GP: all modes, with stray samples",
    "diffusion model: clean in about 500 calls, not in 100",
)
"""What the picture shows."""


def baselines(report: Report) -> tuple[Baseline, ...]:
    """Published rows for the data of a report.

    Args:
        report: its ``data`` say which: kind "stacked", or points named "grid25".

    Returns:
        The rows, best first; none for other data.
    """
    kind, name = report.data.get("kind"), report.data.get("name")
    if kind == "stacked":
        return tuple(
            Baseline(name=model, values={"num_modes": modes, "mode_kl": kl}, source=TABLE)
            for model, (modes, kl) in STACKED.items()
        )
    if kind == "points" and name == "grid25":
        return tuple(Baseline(name=shown, values={}, source=FIGURE) for shown in GRID25)
    return ()
