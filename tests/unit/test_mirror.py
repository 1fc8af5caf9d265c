"""What Ray's metrics are told: gauges each time, counters by what is new, histograms as their buckets."""

from dataclasses import dataclass, field

from actors.mirror import Mirror
from rayhaul.metrics import (
    HTTP_DURATION,
    HTTP_REQUESTS,
    JOBS_CREATED,
    QUEUE_DEPTH,
    WORKER_CAPACITY,
    Kind,
    Labels,
    Meter,
    Snapshot,
)


@dataclass
class Told:
    """An instrument that keeps what it is told."""

    kind: Kind
    name: str
    help_: str
    keys: Labels
    heard: list[tuple[float, Labels]] = field(default_factory=list)

    def add(self, value: float, labels: Labels) -> None:
        assert len(labels) == len(self.keys)
        self.heard.append((value, labels))


@dataclass
class Library:
    made: dict[str, Told] = field(default_factory=dict)

    def make(self, kind: Kind, name: str, help_: str, keys: Labels) -> Told:
        assert name not in self.made
        told = self.made[name] = Told(kind, name, help_, keys)
        return told

    def take(self) -> dict[str, list[tuple[float, Labels]]]:
        """Return what was told since the last time."""
        found = {name: told.heard for name, told in self.made.items() if told.heard}
        for told in self.made.values():
            told.heard = []
        return found


def test_counters_are_told_by_what_is_new() -> None:
    """The first sum is where they start; what does not move is not told, and a new label value in full."""
    library, meter = Library(), Meter()
    mirror = Mirror(library.make)
    meter.inc(JOBS_CREATED, by=1_000)
    mirror.show(meter.snapshot())
    assert library.take() == {}
    meter.inc(JOBS_CREATED, by=3)
    meter.inc(HTTP_REQUESTS, "GET", "/jobs", "200")
    mirror.show(meter.snapshot())
    assert library.take() == {
        "rayhaul_jobs_created": [(3, ())],
        "rayhaul_http_requests": [(1, ("GET", "/jobs", "200"))],
    }
    mirror.show(meter.snapshot())
    assert library.take() == {}
    assert library.made["rayhaul_http_requests"].keys == ("method", "route", "status")
    assert library.made["rayhaul_jobs_created"].kind is Kind.COUNTER


def test_gauges_are_told_each_time() -> None:
    """Also unchanged ones and zeros; an agent that is gone is told no more."""
    library, meter = Library(), Meter()
    mirror = Mirror(library.make)
    for _ in range(2):
        meter.set(QUEUE_DEPTH, 0, "low")
        meter.set(WORKER_CAPACITY, 50, "agent-1")
        mirror.show(meter.snapshot())
        assert library.take() == {QUEUE_DEPTH.name: [(0, ("low",))], WORKER_CAPACITY.name: [(50, ("agent-1",))]}
    meter.clear(WORKER_CAPACITY)
    mirror.show(meter.snapshot())
    assert WORKER_CAPACITY.name not in library.take()


def test_histograms_are_told_as_their_buckets() -> None:
    """Each bucket counts what is at most its bound, as in Prometheus's text."""
    library, meter = Library(), Meter()
    mirror = Mirror(library.make)
    mirror.show(meter.snapshot())
    for value in (0.3, 7.0, 99.0):
        meter.observe(HTTP_DURATION, value, "GET", "/jobs")
    mirror.show(meter.snapshot())
    told = library.take()
    assert told[f"{HTTP_DURATION.name}_count"] == [(3, ("GET", "/jobs"))]
    assert told[f"{HTTP_DURATION.name}_sum"] == [(106.3, ("GET", "/jobs"))]
    buckets = {labels[-1]: value for value, labels in told[f"{HTTP_DURATION.name}_bucket"]}
    assert buckets == {"0.5": 1, "1.0": 1, "2.5": 1, "5.0": 1, "10.0": 2, "+Inf": 3}
    assert library.made[f"{HTTP_DURATION.name}_bucket"].keys == ("method", "route", "le")


def test_what_the_catalogue_does_not_know_is_left_out() -> None:
    """An agent of a newer release may count things that have no meaning here."""
    library = Library()
    mirror = Mirror(library.make)
    mirror.show(Snapshot())
    mirror.show(Snapshot(counters={("strange_total", ()): 1}, gauges={("strange", ()): 1}))
    assert library.take() == {}
