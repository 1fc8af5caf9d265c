"""What the cluster has counted, as Prometheus reads it: its own text, or OpenMetrics, which has exemplars."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from operator import itemgetter
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Shown

from rayhaul.metrics import CATALOGUE, Exemplar, HistogramValue, Kind, Labels, Metric, Snapshot

V = TypeVar("V")

#: RFC 9110 12.4.2.
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST


def media_type(accept: str) -> str:
    """Return which of the two an Accept header asks for (RFC 9110 12.5.1): OpenMetrics, where it is liked as well.

    >>> media_type("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5") == OPENMETRICS
    True
    >>> media_type("text/plain, application/openmetrics-text;q=0.5") == media_type("*/*") == MEDIA_TYPE
    True
    """
    liked = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for entry in accept.split(","):
        name, *parameters = (word.strip().lower() for word in entry.split(";"))
        if name in liked:
            liked[name] = max(liked[name], _weight(parameters))
    asked = liked["application/openmetrics-text"]
    return OPENMETRICS if asked > 0 and asked >= liked["text/plain"] else MEDIA_TYPE


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            return float(value) if _WEIGHT.fullmatch(value) else 0.0
    return 1.0


def exposition(snapshot: Snapshot, media: str = MEDIA_TYPE) -> bytes:
    """Return every metric of the catalogue in one of the two formats; only OpenMetrics has exemplars.

    A metric that nobody counted yet stands there with 0, where its label values are known: rates need a first point.
    What the catalogue does not know (an agent of a newer version) is left out.
    """
    families: Any = _Families(snapshot)
    if media == OPENMETRICS:
        text: bytes = openmetrics.generate_latest(families)  # type: ignore[no-untyped-call]
        return text
    return generate_latest(families)


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Family]:
        for metric in CATALOGUE.values():
            match metric.kind:
                case Kind.COUNTER:
                    yield self._counter(metric)
                case Kind.GAUGE:
                    yield self._gauge(metric)
                case Kind.HISTOGRAM:
                    yield self._histogram(metric)

    def _counter(self, metric: Metric) -> Family:
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in _values(metric, self._snapshot.counters, 0.0):
            family.add_metric(labels, value)
        return family

    def _gauge(self, metric: Metric) -> Family:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in _values(metric, self._snapshot.gauges, 0.0):
            family.add_metric(labels, value)
        return family

    def _histogram(self, metric: Metric) -> Family:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(str, metric.buckets), "+Inf"]
        empty = HistogramValue((0,) * len(bounds), 0.0)
        for labels, value in _values(metric, self._snapshot.histograms, empty):
            # Prometheus's buckets are cumulative, ours are not.
            counted = zip(bounds, accumulate(value.counts), strict=True)
            buckets: Any = [
                (bound, count, _shown(value.exemplars.get(index))) for index, (bound, count) in enumerate(counted)
            ]
            family.add_metric(labels, buckets, value.total)
        return family


def _shown(exemplar: Exemplar | None) -> Shown | None:
    if exemplar is None:
        return None
    return Shown({"trace_id": exemplar.trace_id}, exemplar.value, round(exemplar.at_s, 3))


def _values(metric: Metric, counted: Mapping[tuple[str, Labels], V], nothing: V) -> Iterator[tuple[Labels, V]]:
    """Yield the metric's values by its labels; `nothing` where it stands from the start and was not counted yet."""
    found = dict.fromkeys(metric.first if metric.labels else ((),), nothing)
    found.update((labels, value) for (name, labels), value in counted.items() if name == metric.name)
    yield from sorted(found.items(), key=itemgetter(0))
