"""When a claim counts as reproduced: rules on numbers that are paired over seeds.

A seed fixes the weak labels, the initialization and the order of the data, so two runs with the same seed differ in
nothing but what is compared. All rules work on one number per seed, in points of mIoU unless they say otherwise, and
need three seeds for any verdict but "inconclusive". Intervals are 95 % t intervals of the mean.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Numbers = NDArray[np.float64]

MIN_SEEDS = 3
LEVEL = 0.95
SMALLEST_ERROR = 0.05
"""Standard error in points where all seeds agree to the last digit: what a printed decimal hides."""


@dataclass(frozen=True)
class Finding:
    """A verdict with the numbers behind it.

    Attributes
    ----------
    verdict : str
    n : int
        Seeds.
    effect, low, high : float
        Mean over seeds and its interval; NaN without seeds.
    p : float
        One-sided p value of "the effect is not positive", for rules of direction; else NaN.
    note : str
        What a reader should know beside the numbers.
    """

    verdict: Verdict
    n: int = 0
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    note: str = ""


def interval(differences: Numbers) -> tuple[float, float, float]:
    """Mean and the ends of its interval; an infinite interval for a single seed."""
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return mean, -math.inf, math.inf
    half = _error(differences) * float(stats.t.ppf(0.5 + LEVEL / 2, n - 1))
    return mean, mean - half, mean + half


def direction(differences: Numbers, claimed: float) -> Finding:
    """A is better than B by ``claimed`` > 0 points: the sign is judged, not the size.

    Reproduced if the interval lies above 0; not reproduced if it lies below 0 or, for claims of a point and more,
    within a quarter of the claim around 0.
    """
    if len(differences) < MIN_SEEDS:
        return _too_few(differences)
    mean, low, high = interval(differences)
    negligible = claimed >= 1 and -claimed / 4 < low and high < claimed / 4
    verdict: Verdict = "reproduced" if low > 0 else "not reproduced" if high < 0 or negligible else "inconclusive"
    p = float(stats.t.sf(mean / _error(differences), len(differences) - 1))
    return Finding(verdict, len(differences), mean, low, high, p)


def size(differences: Numbers, claimed: float) -> Finding:
    """`direction`, and the interval meets 0.5 to 1.5 times the claimed size."""
    found = direction(differences, claimed)
    if found.verdict != "reproduced" or (found.high >= 0.5 * claimed and found.low <= 1.5 * claimed):
        return found
    note = "direction reproduced, size not"
    return Finding("not reproduced", found.n, found.effect, found.low, found.high, found.p, note)


def equivalence(differences: Sequence[Numbers], margin: float) -> Finding:
    """No setting differs from the reference by ``margin`` or more; the effect is the largest difference found."""
    n = min(len(one) for one in differences)
    if n < MIN_SEEDS:
        return Finding("inconclusive", n, note="too few seeds")
    intervals = [interval(one) for one in differences]
    mean, low, high = max(intervals, key=lambda found: abs(found[0]))
    inside = all(-margin < low and high < margin for _, low, high in intervals)
    outside = any(low > margin or high < -margin for _, low, high in intervals)
    verdict: Verdict = "reproduced" if inside else "not reproduced" if outside else "inconclusive"
    return Finding(verdict, n, mean, low, high, note=f"margin {margin:.1f}")


def optimum(values: Numbers, best: int) -> Finding:
    """No setting beats the claimed best one.

    Parameters
    ----------
    values : (n, settings) array
    best : int
        Column of the claimed optimum. The effect is its lead over the strongest rival.
    """
    if len(values) < MIN_SEEDS:
        return Finding("inconclusive", len(values), note="too few seeds")
    leads = [interval(np.delete(values, best, 1)[:, k] - values[:, best]) for k in range(values.shape[1] - 1)]
    mean, low, high = max(leads)
    if any(low > 0.3 for _, low, _ in leads):
        verdict: Verdict = "not reproduced"
    else:
        beaten = any(low > 0 for _, low, _ in leads) or mean > 0.3
        verdict = "inconclusive" if beaten else "reproduced"
    return Finding(verdict, len(values), -mean, -high, -low)


def trend(values: Numbers) -> Finding:
    """Values rise with the order of the settings, (n, settings); the effect is Spearman's rank correlation."""
    if len(values) < MIN_SEEDS:
        return Finding("inconclusive", len(values), note="too few seeds")
    order = np.arange(values.shape[1])
    rho = np.array([stats.spearmanr(order, one).statistic if np.ptp(one) else 0.0 for one in values])
    mean, low, high = interval(rho)
    risen = bool((rho > 0).all()) and mean >= 0.8
    verdict: Verdict = "reproduced" if risen else "not reproduced" if mean <= 0 else "inconclusive"
    return Finding(verdict, len(values), mean, low, high, note="rank correlation")


def ratio(numerator: Numbers, denominator: Numbers, published: float, tolerance: float) -> Finding:
    """Mean over mean agrees with the published ratio; interval from 10,000 resamples of the seeds."""
    n = len(numerator)
    if n < MIN_SEEDS:
        return Finding("inconclusive", n, note="too few seeds")
    chosen = np.random.default_rng(0).integers(n, size=(10_000, n))
    low, high = np.quantile(numerator[chosen].mean(1) / denominator[chosen].mean(1), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    meets = low <= published + tolerance and high >= published - tolerance
    effect = float(numerator.mean() / denominator.mean())
    return Finding("reproduced" if meets else "not reproduced", n, effect, float(low), float(high), note="ratio")


def share(successes: Numbers, enough: float, too_few: float) -> Finding:
    """A property holds for at least ``enough`` of its cases in every seed; fails below ``too_few`` on average."""
    n = len(successes)
    if n < MIN_SEEDS:
        return Finding("inconclusive", n, note="too few seeds")
    mean, low, high = interval(successes)
    good = bool((successes >= enough).all())
    verdict: Verdict = "reproduced" if good else "not reproduced" if mean < too_few else "inconclusive"
    return Finding(verdict, n, mean, low, high, note="share of cases")


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a claim with several settings: all must hold, and one failure fails it."""
    found = list(verdicts)
    if "not reproduced" in found:
        return "not reproduced"
    return "reproduced" if found and set(found) == {"reproduced"} else "inconclusive"


def holm(p: Sequence[float]) -> list[bool]:
    """Which of several one-sided tests stay significant by Holm's procedure, at the level of the intervals."""
    alpha, passed = (1 - LEVEL) / 2, [False] * len(p)
    for rank, index in enumerate(np.argsort(p)):
        if not p[index] <= alpha / (len(p) - rank):
            break
        passed[index] = True
    return passed


def _error(differences: Numbers) -> float:
    if np.ptp(differences) < 1e-9:  # equal but for rounding
        return SMALLEST_ERROR
    return float(differences.std(ddof=1)) / math.sqrt(len(differences))


def _too_few(differences: Numbers) -> Finding:
    if not len(differences):
        return Finding("inconclusive", note="no seeds")
    mean, low, high = interval(differences)
    return Finding("inconclusive", len(differences), mean, low, high, note="too few seeds")
