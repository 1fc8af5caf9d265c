"""Watches a cluster from outside, once a second: what `GET /metrics` says, and how many nodes Ray has."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

_PERIOD_S = 1.0
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at_s: float
    agents_online: int
    agents_pending: int
    agents_draining: int
    agents_offline: int
    agents_wanted: int
    capacity_pct_avg: float
    queue_depth: int
    #: Alive nodes by Ray's GCS, without the head.
    nodes: int


class Sampler:
    """A thread that samples until the end of its `with`; what it could not read is raised there."""

    def __init__(self, url: str, key: str, count_nodes: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._count_nodes = count_nodes
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S)
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._http.close()
        if self._failure is not None and error is None:
            raise self._failure

    def check(self) -> None:
        """Raises: what kept it from sampling on."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while True:
                began_s = time.monotonic()
                self.samples.append(self._sample())
                if self._stop.wait(max(0.0, began_s + _PERIOD_S - time.monotonic())):
                    return
        except (httpx.HTTPError, OSError, KeyError) as error:
            self._failure = error

    def _sample(self) -> Sample:
        at_s, read = time.time(), self.metrics()
        return Sample(
            at_s=round(at_s, 3),
            agents_online=int(read["rayhaul_workers", "online"]),
            agents_pending=int(read["rayhaul_agents_pending", ""]),
            agents_draining=int(read["rayhaul_workers", "draining"]),
            agents_offline=int(read["rayhaul_workers", "offline"]),
            agents_wanted=int(read["rayhaul_agents_wanted", ""]),
            capacity_pct_avg=round(read["rayhaul_worker_capacity_pct_avg", ""], 2),
            queue_depth=int(sum(value for (name, _), value in read.items() if name == "rayhaul_queue_depth")),
            nodes=self._count_nodes(),
        )

    def metrics(self) -> Mapping[tuple[str, str], float]:
        """Return what `GET /metrics` says now: (name, values of the labels joined by commas) -> value."""
        text = self._http.get("/metrics").raise_for_status().text
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
