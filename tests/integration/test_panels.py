"""Every query of every dashboard, asked of a real Prometheus that scrapes a real run."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from inprocess import Service, quick_settings, service_thread
from origin import OriginThread
from prometheus import BINARY, WHY_NOT, Prometheus, running_prometheus

from dashboards.board import Query
from dashboards.boards import BOARDS
from rayhaul import Client
from rayhaul.job import FINAL
from serve_app.seaweed import Seaweed

pytestmark = pytest.mark.skipif(BINARY is None, reason=WHY_NOT)

KIB, MIB = 1024, 1024 * 1024
QUERIES = [
    pytest.param(query, id=f"{board.uid}-{panel.title}-{query.legend}")
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
    for query in panel.queries
]
#: Quantiles of what did not happen, and objectives whose events did not, have no number.
MAY_BE_NAN = ("histogram_quantile", "slo:")


def work(service: Service) -> None:
    """Do a little of everything: jobs that complete, fail and are cancelled, requests, an event stream."""
    with OriginThread() as origin, Client(service.url, service.alice) as client:
        good = [client.submit(origin.add(f"panel-{n}.bin", size=200 * KIB, seed=n)).id for n in range(4)]
        good.append(client.submit(origin.add("panel-big.bin", size=8 * MIB, seed=9)).id)
        bad = client.submit(origin.add("panel-gone.bin", size=KIB, status=404)).id
        slow = client.submit(origin.add("panel-slow.bin", size=8 * MIB, rate_bytes_per_s=200 * KIB)).id
        client.cancel(slow)
        for job_id in good:
            client.wait(job_id, timeout_s=120)
        deadline_s = time.monotonic() + 120
        while client.get(bad).status not in FINAL:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert [event.event for event in client.events(good[0])][-1] == "completed"
        # Not found, and no key.
        httpx.get(f"{service.url}/jobs/job_nobody", headers={"Authorization": f"Bearer {service.alice}"})
        httpx.get(f"{service.url}/jobs")


def await_scrapes(running: Prometheus, count: int) -> None:
    """Return when Prometheus has looked so many times more."""

    def seen() -> float:
        return float(running.query("count_over_time(up[1h])")[0]["value"][1])

    enough, deadline_s = seen() + count, time.monotonic() + 120
    while seen() < enough:
        assert time.monotonic() < deadline_s, "Prometheus does not scrape"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def prometheus(store: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen a run, from before it began."""
    directory: Path = tmp_path_factory.mktemp("panels")
    settings = quick_settings(store.settings.model_copy(update={"prefix": "panels/"}))
    with service_thread(directory, settings) as service:
        target = service.url.removeprefix("http://")
        with running_prometheus(directory / "prometheus", target=target, key=service.operator) as running:
            # Twice, with scrapes after each: a rate begins with the second scrape that shows a counter.
            for _ in range(2):
                work(service)
                await_scrapes(running, 2)
            deadline_s = time.monotonic() + 120
            counted = 'sum(rate(rayhaul_jobs_finished_total{outcome="completed"}[30s])) > 0'
            while not (running.query(counted) and running.query('slo:sli_error:ratio_rate5m{slo="JobSuccess"}')):
                assert time.monotonic() < deadline_s, "Prometheus has not seen the run"
                time.sleep(0.5)
            yield running


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_has_an_answer(prometheus: Prometheus, query: Query) -> None:
    """Numbers, for objectives at least one, and a value of each label that the legend names."""
    series = prometheus.query(query.expr)
    assert series, query.expr
    numbers = [found for found in series if found["value"][1] != "NaN"]
    if not query.expr.startswith("histogram_quantile"):
        assert numbers, query.expr
    if not query.expr.startswith(MAY_BE_NAN):
        assert numbers == series, query.expr
    for label in ("agent", "state", "priority", "outcome", "operation", "route", "slo"):
        if f"{{{{{label}}}}}" in query.legend:
            assert all(found["metric"].get(label) for found in series)


def test_the_run_is_seen_in_its_numbers(prometheus: Prometheus) -> None:
    """Not zeros that only fill a gap: what was done is there, under its own labels."""
    shown = {panel.title: panel for board in BOARDS for row in board.rows for panel in row.panels}

    def values(title: str, label: str) -> dict[str, float]:
        query = next(query for query in shown[title].queries if label in query.expr)
        return {found["metric"][label]: float(found["value"][1]) for found in prometheus.query(query.expr)}

    assert values("Accepted and ended", "outcome")["completed"] > 0
    causes = values("Failures by cause", "code")
    assert {code for code, per_minute in causes.items() if per_minute > 0} == {"source_not_found"}
    assert values("Agents by state", "state")["online"] == 2
    assert set(values("Capacity by agent", "agent")) == {"agent-1", "agent-2"}
    assert {"upload_part", "complete_multipart_upload"} <= set(values("Requests by operation", "operation"))
    assert {"200", "404"} <= set(values("Requests by status", "status"))
    assert values("Error budget left", "slo")["ApiAvailability"] == 1
