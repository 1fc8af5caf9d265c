"""What the indicators read now: computed from what the cluster has counted, sample by sample, as Prometheus would.

Laws of this file:
1. A rate is the increase between the oldest sample within its window and the newest, over the time between the two;
   with one sample there is none. Counts never fall while a scheduler lives: a step down is taken for no increase.
2. What is not known is absent, never 0: no rule fires on it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from rayhaul.metrics import Kind, Labels, Snapshot
from rayhaul.policy.indicators import (
    INDICATORS,
    LONG_WINDOW_S,
    Formula,
    Level,
    LevelShare,
    Match,
    Quantile,
    Rate,
    Selection,
    Share,
)

_SECONDS_PER_MINUTE = 60
#: Samples within this time of the window's beginning belong to it: turns are not exact.
_SLACK_S = 1.0

#: A selection's sum, by the value of the label it is told apart by (empty where it is not).
Sums = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment's counts, cut down to what the indicators need."""

    at_s: float
    sums: Mapping[Selection, Sums]
    #: Counts per bucket, the last for +Inf; not cumulative.
    buckets: Mapping[Selection, tuple[int, ...]]


#: Samples, oldest first.
History = Sequence[Sample]


def sampled(history: History, snapshot: Snapshot, now_s: float) -> History:
    """Return the history with one more sample, and without what no window reaches. A clock set back begins it anew."""
    sample = _sample(snapshot, now_s)
    if history and now_s <= history[-1].at_s:
        return (sample,)
    return (*(kept for kept in history if now_s - kept.at_s <= LONG_WINDOW_S + _SLACK_S), sample)


def readings(history: History) -> Mapping[str, float]:
    """Return indicator -> what it reads at the last sample, those that are known."""
    found = {name: _read(indicator.formula, history) for name, indicator in INDICATORS.items()}
    return {name: value for name, value in found.items() if value is not None}


def total_of(selection: Selection, snapshot: Snapshot) -> float:
    """Return the sum of a counter, or of how often a histogram took something in, over what is selected."""
    if selection.metric.kind is Kind.HISTOGRAM:
        return sum(_buckets(selection, snapshot))
    return sum(_sums(selection, snapshot).values())


def above_of(selection: Selection, bound_s: float, snapshot: Snapshot) -> float:
    """Return how often a histogram took in more than one of its bounds."""
    beyond = selection.metric.buckets.index(bound_s) + 1
    return sum(_buckets(selection, snapshot)[beyond:])


@lru_cache(maxsize=4096)
def is_selected(selection: Selection, labels: Labels) -> bool:
    """Say whether the metric's label values match."""
    values = dict(zip(selection.metric.labels, labels, strict=True))
    return all(_matches(match, values.get(match.label, "")) for match in selection.matches)


def _matches(match: Match, value: str) -> bool:
    return (re.fullmatch(match.pattern, value) is None) is match.is_not


def _sample(snapshot: Snapshot, now_s: float) -> Sample:
    sums, buckets = {}, {}
    for indicator in INDICATORS.values():
        for selection in indicator.selections:
            if selection.metric.kind is Kind.HISTOGRAM:
                buckets[selection] = _buckets(selection, snapshot)
            else:
                sums[selection] = _sums(selection, snapshot)
    return Sample(now_s, sums, buckets)


def _sums(selection: Selection, snapshot: Snapshot) -> Sums:
    values = snapshot.gauges if selection.metric.kind is Kind.GAUGE else snapshot.counters
    by = selection.metric.labels.index(selection.by) if selection.by else None
    sums: dict[str, float] = {}
    for (name, labels), value in values.items():
        if name == selection.metric.name and is_selected(selection, labels):
            key = "" if by is None else labels[by]
            sums[key] = sums.get(key, 0.0) + value
    return sums


def _buckets(selection: Selection, snapshot: Snapshot) -> tuple[int, ...]:
    counts = [0] * (len(selection.metric.buckets) + 1)
    for (name, labels), histogram in snapshot.histograms.items():
        if name == selection.metric.name and is_selected(selection, labels):
            counts = [a + b for a, b in zip(counts, histogram.counts, strict=True)]
    return tuple(counts)


def _read(formula: Formula, history: History) -> float | None:
    if not history:
        return None
    last = history[-1]
    match formula:
        case Level(of=of):
            return _sum(last.sums[of])
        case LevelShare(part=part, whole=whole):
            of_all = _sum(last.sums[whole])
            return 100 * (_sum(last.sums[part]) or 0.0) / of_all if of_all else None
        case Rate(window_s=window_s) | Share(window_s=window_s) | Quantile(window_s=window_s):
            first = _first(history, window_s)
            return None if first is None else _read_growth(formula, first, last)


def _read_growth(formula: Rate | Share | Quantile, first: Sample, last: Sample) -> float | None:
    match formula:
        case Rate(of=of):
            return _SECONDS_PER_MINUTE * sum(_grown(first, last, of).values()) / (last.at_s - first.at_s)
        case Share(part=part, whole=whole):
            return _share(_grown(first, last, part), _grown(first, last, whole))
        case Quantile(of=of, quantile=quantile, factor=factor):
            counts = [max(0, b - a) for a, b in zip(first.buckets[of], last.buckets[of], strict=True)]
            value = quantile_of(quantile, of.metric.buckets, counts)
            return None if value is None else factor * value


def quantile_of(quantile: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return a quantile, linear within its bucket; of what is beyond the last bound, that bound. None of nothing.

    Source: prometheus.io/docs/prometheus/latest/querying/functions, histogram_quantile().

    >>> quantile_of(0.5, (1.0, 2.0), (0, 10, 0)), quantile_of(0.99, (1.0, 2.0), (0, 0, 5))
    (1.5, 2.0)
    """
    total = sum(counts)
    if total == 0:
        return None
    rank, below = quantile * total, 0
    for (low, high), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if count and below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below += count
    return bounds[-1]


def _first(history: History, window_s: float) -> Sample | None:
    """Return the oldest sample within the window; None where there is only the newest."""
    begin_s = history[-1].at_s - window_s - _SLACK_S
    return next((sample for sample in history[:-1] if sample.at_s >= begin_s), None)


def _grown(first: Sample, last: Sample, of: Selection) -> Sums:
    before = first.sums[of]
    return {key: max(0.0, value - before.get(key, 0.0)) for key, value in last.sums[of].items()}


def _share(part: Sums, whole: Sums) -> float | None:
    """Return the highest share."""
    shares = [part.get(key, 0.0) / of_all for key, of_all in whole.items() if of_all > 0]
    return max(shares, default=None)


def _sum(sums: Sums) -> float | None:
    total = sum(sums.values())
    return total if sums and not math.isnan(total) else None
