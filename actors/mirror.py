"""The cluster's sum once more, in another metrics library: Ray's, for its dashboard and its Prometheus discovery.

Laws of this file:
1. Gauges are set each time: Ray drops one that is not set for two of its export intervals (2 x 10 s), and by that
   forgets agents that are gone.
2. Counters are told by what came since the last time. The first sum is where they start: Ray keeps what the scheduler's
   earlier lives told in series of their own, and the sum of all of them must not hold the ledger's totals twice.
3. A histogram becomes counters of its buckets, with `le` as Prometheus has it: Ray's own would have to be told each
   observation, and would make up the sum from the middles of the buckets.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Protocol

from rayhaul.metrics import CATALOGUE, Kind, Labels, Snapshot

#: (name, values of the labels) -> where it stands.
Readings = Mapping[tuple[str, Labels], float]


class Instrument(Protocol):
    def add(self, value: float, labels: Labels) -> None:
        """Set a gauge, or count up a counter by more than 0."""
        ...


#: Makes the instrument of that kind, name, meaning and labels.
NewInstrument = Callable[[Kind, str, str, Labels], Instrument]


class Mirror:
    def __init__(self, new_instrument: NewInstrument) -> None:
        self._new_instrument = new_instrument
        self._instruments: dict[str, Instrument] = {}
        self._shown: Readings | None = None

    def show(self, sum_: Snapshot) -> None:
        """Bring the other library up to this sum."""
        for (name, labels), value in sum_.gauges.items():
            metric = CATALOGUE.get(name)
            if metric is not None:
                self._instrument(Kind.GAUGE, name, metric.help, metric.labels).add(value, labels)
        counted = dict(_counters(sum_))
        before, self._shown = self._shown, counted
        if before is None:
            return
        for (name, labels), value in counted.items():
            more = value - before.get((name, labels), 0)
            if more > 0:
                help_, keys = _described(name)
                self._instrument(Kind.COUNTER, name, help_, keys).add(more, labels)

    def _instrument(self, kind: Kind, name: str, help_: str, keys: Labels) -> Instrument:
        if name not in self._instruments:
            self._instruments[name] = self._new_instrument(kind, name, help_, keys)
        return self._instruments[name]


_PARTS = ("_bucket", "_count", "_sum")


def _counters(sum_: Snapshot) -> Iterator[tuple[tuple[str, Labels], float]]:
    """Yield the counters, and the histograms as counters, that are in the catalogue."""
    for (name, labels), value in sum_.counters.items():
        if name in CATALOGUE:
            yield (name.removesuffix("_total"), labels), value
    for (name, labels), histogram in sum_.histograms.items():
        metric = CATALOGUE.get(name)
        if metric is None:
            continue
        bounds = [*map(str, metric.buckets), "+Inf"]
        for bound, count in zip(bounds, accumulate(histogram.counts), strict=True):
            yield (f"{name}_bucket", (*labels, bound)), count
        yield (f"{name}_count", labels), sum(histogram.counts)
        yield (f"{name}_sum", labels), histogram.total


def _described(name: str) -> tuple[str, Labels]:
    """Return meaning and labels of a counter that `_counters` yields."""
    metric = CATALOGUE.get(f"{name}_total")
    if metric is not None:
        return metric.help, metric.labels
    for part in _PARTS:
        metric = CATALOGUE.get(name.removesuffix(part))
        if name.endswith(part) and metric is not None:
            return metric.help, (*metric.labels, "le") if part == "_bucket" else metric.labels
    raise AssertionError(f"{name} is not of the catalogue")
