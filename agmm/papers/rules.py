"""When a claim counts as reproduced: rules on numbers that are paired over seeds.

A seed fixes the weak labels, the initialization and the order of the data, so two runs with the same seed differ in
nothing but what is compared. All rules work on one number per seed, in points of mIoU unless they say otherwise, and
need three seeds for any verdict but "inconclusive". Intervals are 95 % t intervals of the mean.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Unit = Literal["mIoU", "silhouette", "rank correlation", "ratio", "share"]
Numbers = NDArray[np.float64]

MIN_SEEDS = 3
LEVEL = 0.95
SMALLEST_ERROR = 0.05  # standard error in points where all seeds agree to the last digit: what a printed decimal hides


@dataclass(frozen=True)
class Finding:
    """A verdict with the numbers behind it: ``n`` seeds, and the effect's mean over them with its interval, or NaN."""

    verdict: Verdict
    n: int = 0
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan  # one-sided p value of "the effect is not positive", for rules of direction; else NaN
    note: str = ""
    unit: Unit = "mIoU"  # unit of effect and interval; ``"mIoU"`` stands for points of mIoU
    claimed: float = math.nan  # what the paper prints for the effect; NaN where it prints no number
    each: tuple[float, ...] = ()  # the effect seed by seed


def verdict(holds: bool, fails: bool) -> Verdict:
    """Return the verdict on what holds, fails, or does neither."""
    return "reproduced" if holds else "not reproduced" if fails else "inconclusive"


def fact(holds: bool, value: float, claimed: float, *, n: int = 0, unit: Unit = "ratio", note: str = "") -> Finding:
    """Return the finding on a number without an interval."""
    return Finding(verdict(holds, not holds), n, value, value, value, unit=unit, claimed=claimed, note=note)


def interval(differences: Numbers, smallest: float = SMALLEST_ERROR) -> tuple[float, float, float]:
    """Return mean and ends of its interval, infinite for one seed; ``smallest`` is the error where all seeds agree."""
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return mean, -math.inf, math.inf
    half = _error(differences, smallest) * float(stats.t.ppf(0.5 + LEVEL / 2, n - 1))
    return mean, mean - half, mean + half


def direction(
    differences: Numbers, claimed: float = math.nan, *, unit: Unit = "mIoU", least: int = MIN_SEEDS
) -> Finding:
    """Judge whether A is better than B by the sign of the differences, not by their size.

    Reproduced if the interval lies above 0; not reproduced if it lies below 0 or, for claims of a point and more,
    within a quarter of the (positive) claim around 0. Below ``least`` seeds nothing is concluded.
    """
    n, mean, low, high = len(differences), math.nan, math.nan, math.nan
    if n:
        mean, low, high = interval(differences)
    finding = Finding("inconclusive", n, mean, low, high, unit=unit, claimed=claimed, each=tuple(differences.tolist()))
    if n < least:
        few = "too few seeds" if least == MIN_SEEDS else f"fewer than {least} seeds"
        return replace(finding, note=few if n else "no seeds")
    negligible = claimed >= 1 and -claimed / 4 < low and high < claimed / 4
    p = float(stats.t.sf(mean / _error(differences), n - 1))
    return replace(finding, verdict=verdict(low > 0, high < 0 or negligible), p=p)


def size(differences: Numbers, claimed: float) -> Finding:
    """Judge the `direction`, and whether the interval meets 0.5 to 1.5 times the claimed size."""
    finding = direction(differences, claimed)
    if finding.verdict != "reproduced" or (finding.high >= 0.5 * claimed and finding.low <= 1.5 * claimed):
        return finding
    return replace(finding, verdict="not reproduced", note="direction reproduced, size not")


def equivalence(differences: Sequence[Numbers], margin: float) -> Finding:
    """Judge whether no setting differs from the reference by ``margin`` or more; the effect is the largest of all."""
    n = min(len(one) for one in differences)
    if n < MIN_SEEDS:
        return Finding("inconclusive", n, note="too few seeds")
    intervals = [interval(one) for one in differences]
    largest = max(range(len(intervals)), key=lambda k: abs(intervals[k][0]))
    mean, low, high = intervals[largest]
    inside = all(-margin < low and high < margin for _, low, high in intervals)
    outside = any(low > margin or high < -margin for _, low, high in intervals)
    each = tuple(differences[largest].tolist())
    return Finding(verdict(inside, outside), n, mean, low, high, note=f"margin {margin:.1f}", each=each)


def little(differences: Numbers, other: Numbers, claimed: float) -> Finding:
    """Judge whether a gain is small beside another one, paired over seeds.

    Reproduced if its interval lies between -1 and half of the other's mean; not reproduced if its mean is no smaller
    than the other's.
    """
    finding = replace(direction(differences, claimed), verdict="inconclusive", p=math.nan)
    if finding.n < MIN_SEEDS:
        return finding
    whole = float(other.mean())
    inside = finding.low > -1 and finding.high < whole / 2
    return replace(finding, verdict=verdict(inside, finding.effect >= whole), note=f"beside {whole:+.1f}")


def optimum(values: Numbers, best: int) -> Finding:
    """Judge whether no setting of (n, settings) values beats the claimed best; the effect is its lead over the next."""
    if len(values) < MIN_SEEDS:
        return Finding("inconclusive", len(values), note="too few seeds")
    rivals = np.delete(values, best, 1) - values[:, [best]]
    leads = [interval(one) for one in rivals.T]
    mean, low, high = max(leads)
    beaten = mean > 0.3 or any(low > 0 for _, low, _ in leads)
    each = tuple((-rivals[:, leads.index((mean, low, high))]).tolist())
    found = verdict(not beaten, any(low > 0.3 for _, low, _ in leads))
    return Finding(found, len(values), -mean, -high, -low, each=each)


def trend(values: Numbers) -> Finding:
    """Judge whether (n, settings) values rise with the settings; the effect is Spearman's rank correlation."""
    if len(values) < MIN_SEEDS:
        return Finding("inconclusive", len(values), note="too few seeds", unit="rank correlation")
    order = np.arange(values.shape[1])
    rho = np.array([stats.spearmanr(order, one).statistic if np.ptp(one) else 0.0 for one in values])
    mean, low, high = _within(rho, -1, 1)
    risen = bool((rho > 0).all()) and mean >= 0.8
    found = verdict(risen, mean <= 0)
    return Finding(found, len(values), mean, low, high, unit="rank correlation", each=tuple(rho.tolist()))


def ratio(numerator: Numbers, denominator: Numbers, published: float, tolerance: float) -> Finding:
    """Judge whether mean over mean agrees with the published ratio; interval from 10,000 resamples of the seeds."""
    n = len(numerator)
    if n < MIN_SEEDS:
        return Finding("inconclusive", n, note="too few seeds", unit="ratio", claimed=published)
    chosen = np.random.default_rng(0).integers(n, size=(10_000, n))
    low, high = np.quantile(numerator[chosen].mean(1) / denominator[chosen].mean(1), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    agrees = low <= published + tolerance and high >= published - tolerance
    finding = fact(agrees, float(numerator.mean() / denominator.mean()), published, n=n)
    return replace(finding, low=float(low), high=float(high), each=tuple((numerator / denominator).tolist()))


def share(successes: Numbers, enough: float = 0.8, too_few: float = 0.5) -> Finding:
    """Judge whether a property holds for ``enough`` of its cases in every seed; ``too_few`` on average refute it."""
    n = len(successes)
    if n < MIN_SEEDS:
        return Finding("inconclusive", n, note="too few seeds", unit="share")
    mean, low, high = _within(successes, 0, 1)
    found = verdict(bool((successes >= enough).all()), mean < too_few)
    return Finding(found, n, mean, low, high, unit="share", each=tuple(successes.tolist()))


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim with several settings: all must hold, and one failure fails it."""
    different = set(verdicts)
    return verdict(different == {"reproduced"}, "not reproduced" in different)


def holm(p: Sequence[float]) -> list[bool]:
    """Return which one-sided tests stay significant by Holm's procedure, at the level of the intervals."""
    alpha, passed = (1 - LEVEL) / 2, [False] * len(p)
    for rank, index in enumerate(np.argsort(p)):
        if not p[index] <= alpha / (len(p) - rank):
            break
        passed[index] = True
    return passed


def _error(differences: Numbers, smallest: float = SMALLEST_ERROR) -> float:
    if np.ptp(differences) < 1e-9:  # equal but for rounding
        return smallest
    return float(differences.std(ddof=1)) / math.sqrt(len(differences))


def _within(values: Numbers, least: float, most: float) -> tuple[float, float, float]:
    """Return mean and interval of values that lie between two ends."""
    mean, low, high = interval(values, 0.0)
    return mean, max(low, least), min(high, most)
