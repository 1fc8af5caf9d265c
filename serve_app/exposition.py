"""What the cluster has counted, as Prometheus reads it."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from operator import itemgetter
from typing import TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from rayhaul.metrics import CATALOGUE, HistogramValue, Kind, Labels, Metric, Snapshot

V = TypeVar("V")

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition(snapshot: Snapshot) -> bytes:
    """Return every metric of the catalogue in Prometheus's text format.

    A metric without labels that nobody counted yet stands there with 0: rates need a first point. What the catalogue
    does not know (an agent of a newer version) is left out.
    """
    return generate_latest(_Families(snapshot))


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
            family.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.total)
        return family


def _values(metric: Metric, counted: Mapping[tuple[str, Labels], V], nothing: V) -> Iterator[tuple[Labels, V]]:
    """Yield the metric's values by its labels; `nothing` where it has no labels and was not counted yet."""
    found = sorted(
        ((labels, value) for (name, labels), value in counted.items() if name == metric.name), key=itemgetter(0)
    )
    if not found and not metric.labels:
        found = [((), nothing)]
    yield from found
