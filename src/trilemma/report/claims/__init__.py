"""Headline claims of the papers, each held against what a report measured.

A claim is a *relation*: this many network calls are enough, this sampler beats that one. Figures
depend on data, features and networks, so a report on other data can confirm or contradict the
relation and never the published figure; the reason says so. Three verdicts:

* "reproduced": the relation holds at the ends of the intervals that speak most against it;
* "not reproduced": it fails even at the ends that speak most for it;
* "not comparable": neither, and more samples may decide it; or the report lacks what the claim
  speaks of, or its records are of different protocols. The reason names what to add, and the
  figures that there are stand beside it.

One rule serves all claims that compare distances. Let a and b be two of one protocol, with the ends
of their 95 % intervals (``trilemma.report.intervals``), and f what real data score in the place of
samples. "a is at most k times b" is

* reproduced if a_high - f <= k (b_low - f),
* not reproduced if a_low > k b_high,
* open in between.

A Fréchet distance of n samples lies above that of endlessly many, by an amount that goes as 1 / n
and depends little on the model; f measures it. It pulls every ratio towards 1, hence the first line
is about what lies above f. With k = 1, "no worse", f cancels; two whose intervals overlap are open.

Fewer samples have wider intervals and a higher f. Both make both verdicts harder to reach, so few
samples never make a claim easier to reproduce. Where a claim looks at several pairs, those that
speak for it count by their intervals, and those that speak against it by their values: a loss does
not go away when it is measured badly. Times have no intervals and are judged as they are.

Copies of training data score well without being new: a cell that the check flags takes no part in
the first three, which are about quality, and is named. What else is wrong with a cell that counts,
classes, modes or variety missing (``trilemma.report.flaws``), stands beside its figure
where a distance counts.

Each claim is a module: ``latent``, ``splitting``, ``few_steps``, ``speed``, ``variety``.

Published figures are those that later papers and the authors' notes quote; none that we only
recall is printed.
"""

from trilemma.report.claims.base import Claim, Verdict
from trilemma.report.claims.few_steps import few_steps
from trilemma.report.claims.latent import latent_calls
from trilemma.report.claims.speed import speed
from trilemma.report.claims.splitting import splitting
from trilemma.report.claims.variety import variety
from trilemma.report.record import Report

__all__ = ["Claim", "Verdict", "claims"]


def claims(report: Report) -> tuple[Claim, ...]:
    """Hold the headline claims against a report; all of them, whatever was measured.

    Args:
        report: what was measured.

    Returns:
        Five claims, in the order above.
    """
    return tuple(claim(report) for claim in (latent_calls, splitting, few_steps, speed, variety))
