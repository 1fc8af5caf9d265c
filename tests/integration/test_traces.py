"""Traces of the whole service in one process, as a real collector gets them: what is below what, and what follows."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from collector import Collector, Seen
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin, content_sha256
from receiver import Receiver

from rayhaul import AsyncClient
from rayhaul.client.errors import ApiError
from rayhaul.job import FINAL
from rayhaul.metrics import Meter
from rayhaul.settings import OtlpSettings, Settings
from serve_app.seaweed import Seaweed
from tasks.sink import Sink

MIB = 1024 * 1024
SECRET = "s3cr3t"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().listening() as listening:
        yield listening


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as running:
        yield running


@pytest.fixture
def settings(store: Seaweed, tmp_path: Path, collector: Collector) -> Settings:
    s3 = store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"})
    otlp = OtlpSettings.model_validate({"endpoint": collector.endpoint, "headers": "x-team = rayhaul"})
    return quick_settings(s3, otlp=otlp)


@pytest.fixture
async def service(tmp_path: Path, settings: Settings) -> AsyncIterator[Service]:
    async with running_service(tmp_path, settings) as running:
        yield running


@pytest.fixture
async def alice(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, service.alice) as client:
        yield client


async def told(collector: Collector, name: str, count: int, **attributes: object) -> list[Seen]:
    """Wait until the collector has so many spans of a name, and return them by their beginning."""
    async with asyncio.timeout(20):
        while len(found := collector.named(name, **attributes)) < count:
            await asyncio.sleep(0.02)
    assert len(found) == count
    return sorted(found, key=lambda span: span.began_ns)


async def finished(client: AsyncClient, job_id: str) -> None:
    async with asyncio.timeout(40):
        while (await client.get(job_id)).status not in FINAL:
            await asyncio.sleep(0.02)


async def submitted(service: Service, url: str, **fields: object) -> str:
    """Submit as another service would that has a trace of its own; return the job's id."""
    headers = {
        "Authorization": f"Bearer {service.alice}",
        "X-Correlation-ID": "corr-12345",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
    }
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as http:
        answer = await http.post("/jobs", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


async def test_a_job_from_request_to_object(
    collector: Collector, service: Service, alice: AsyncClient, origin: Origin, settings: Settings
) -> None:
    """The request and the submission are of the caller's trace; probe and lease follow from it, each in one of its own;
    parts, completion and verification are below the lease. No secret is in any of them.
    """
    size = 3 * PART_BYTES + 1
    url = origin.add("file.bin", size=size).replace("http://", f"http://user:{SECRET}@") + f"?token={SECRET}"
    job_id = await submitted(service, url, headers={"X-Secret": SECRET})
    job = await alice.wait(job_id, timeout_s=30)
    (lease,) = await told(collector, "lease jobs", 1)
    (request,) = await told(collector, "POST /jobs", 1)
    (submit,) = await told(collector, "submit jobs", 1)
    (probe,) = await told(collector, "probe jobs", 1)
    parts = await told(collector, "part", 4)
    (complete,) = await told(collector, "complete", 1)
    (verify,) = await told(collector, "verify", 1)

    assert (request.trace_id, request.parent_id, request.kind) == (TRACE, PARENT, "server")
    assert (submit.trace_id, submit.parent_id, submit.kind) == (TRACE, request.span_id, "producer")
    for follows in (probe, lease):
        assert (follows.kind, follows.parent_id) == ("consumer", "")
        assert follows.links == [(TRACE, submit.span_id)]
    assert len({TRACE, probe.trace_id, lease.trace_id}) == 3
    for below in (*parts, complete, verify):
        assert (below.trace_id, below.parent_id) == (lease.trace_id, lease.span_id)

    assert (
        request.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/jobs",
            "http.response.status_code": 201,
            "correlationId": "corr-12345",
            "userId": "alice",
        }.items()
    )
    assert (
        lease.attributes.items()
        >= {
            "messaging.system": "rayhaul",
            "messaging.operation.type": "process",
            "correlationId": "corr-12345",
            "jobId": job_id,
            "agentId": job.agents[0],
            "attempt": 1,
            "epoch": 1,
            "bytes": size,
            "server.address": "127.0.0.1",
        }.items()
    )
    assert sorted(part.attributes["bytes"] for part in parts) == [1, *[PART_BYTES] * 3]
    assert sorted(part.attributes["part"] for part in parts) == [1, 2, 3, 4]
    assert {span.service for span in (request, submit)} == {"rayhaul-api"}
    assert {span.service for span in (probe, lease, *parts)} == {"rayhaul-agent"}
    assert lease.began_ns <= parts[0].began_ns <= complete.began_ns <= complete.ended_ns <= lease.ended_ns
    assert all(span.error is None for span in collector.spans)
    assert SECRET not in repr(collector.spans)
    assert all(headers["x-team"] == "rayhaul" for headers in collector.requests)

    async with httpx.AsyncClient(
        base_url=service.url, headers={"Authorization": f"Bearer {service.alice}"}, timeout=60
    ) as http:
        metrics = (await http.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    for name in ("job_duration", "metadata_ready", "http_request_duration"):
        assert re.search(rf'rayhaul_{name}_seconds_bucket.* # {{trace_id="{TRACE}"}} [\d.e-]+ [\d.]+\n', metrics), name

    async with Sink(settings.s3, meter=Meter(), connections_max=1) as sink:
        head = await sink.head(f"{settings.s3.prefix}{job_id}/file.bin")
    assert head is not None
    assert head.metadata["traceparent"] == f"00-{TRACE}-{submit.span_id}-01"


async def test_attempts_are_linked(collector: Collector, tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """A job that is tried twice has two leases in two traces, both following from one submission; failures stand in
    them by their code.
    """
    transfer = settings.transfer.model_copy(update={"attempts_max": 2, "part_attempts_max": 1})
    async with running_service(tmp_path, settings.model_copy(update={"transfer": transfer})) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            job_id = await submitted(service, origin.add("cut.bin", size=2 * PART_BYTES, truncate_after=MIB))
            await finished(alice, job_id)
    (submit,) = await told(collector, "submit jobs", 1, jobId=job_id)
    first, second = await told(collector, "lease jobs", 2)
    assert first.links == second.links == [(submit.trace_id, submit.span_id)]
    assert first.trace_id != second.trace_id
    assert [span.attributes["attempt"] for span in (first, second)] == [1, 2]
    assert [span.attributes["epoch"] for span in (first, second)] == [1, 2]
    assert (first.error, second.error) == ("source_truncated", "source_truncated")
    assert {part.error for part in collector.named("part")} >= {"source_truncated"}


async def test_what_is_in_order(collector: Collector, alice: AsyncClient, origin: Origin) -> None:
    """Where a checksum needs the bytes in order, what is read and what is placed are spans of their own."""
    size = 2 * PART_BYTES
    url = origin.add("summed.bin", size=size, seed=3)
    await alice.wait((await alice.submit(url, checksum=f"sha256:{content_sha256(3, size)}")).id, timeout_s=30)
    (lease,) = await told(collector, "lease jobs", 1)
    for span in (*await told(collector, "read", 2), *await told(collector, "part", 2)):
        assert (span.parent_id, span.attributes["bytes"]) == (lease.span_id, PART_BYTES)


async def test_a_webhook_carries_the_trace(
    collector: Collector, alice: AsyncClient, service: Service, origin: Origin
) -> None:
    """The receiver gets the delivery's span as its parent, which follows from the submission; the body is as ever."""
    receiver = Receiver()
    async with receiver.listening():
        job_id = await submitted(service, origin.add("small.bin", size=10), webhook=receiver.url("hook"))
        await alice.wait(job_id, timeout_s=30)
        async with asyncio.timeout(20):
            while not receiver.deliveries:
                await asyncio.sleep(0.02)
    (delivery,) = receiver.deliveries
    (span,) = await told(collector, "webhook", 1)
    (submit,) = await told(collector, "submit jobs", 1)
    assert delivery.headers["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"
    assert (span.kind, span.parent_id, span.links) == ("client", "", [(TRACE, submit.span_id)])
    assert span.attributes.items() >= {"jobId": job_id, "http.response.status_code": 204, "attempt": 1}.items()
    assert "traceparent" not in json.loads(delivery.body)["data"]["payload"]


async def test_refused_requests(collector: Collector, service: Service) -> None:
    """A refusal is no error of the server's, and says its code; what machines ask all the time is not traced."""
    async with AsyncClient(service.url, service.alice) as client:
        with pytest.raises(ApiError):
            await client.get("job_unknown")
    (span,) = await told(collector, "GET /jobs/{job_id}", 1)
    assert (span.attributes["code"], span.error) == ("not_found", None)
    assert not [seen.name for seen in collector.spans if "readyz" in seen.name]


async def test_half_a_ratio(collector: Collector, tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """With the ratio at 0 nothing of a request that has no trace is recorded, all the way to the object; of one whose
    caller records its own, all is.
    """
    otlp = settings.otlp.model_copy(update={"sample_ratio": 0.0})
    async with running_service(tmp_path, settings.model_copy(update={"otlp": otlp})) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            await alice.wait((await alice.submit(origin.add("quiet.bin", size=10))).id, timeout_s=30)
            job_id = await submitted(service, origin.add("loud.bin", size=10))
            await alice.wait(job_id, timeout_s=30)
    assert {span.attributes.get("jobId", job_id) for span in collector.spans} == {job_id}
    assert len(collector.named("lease jobs")) == len(collector.named("POST /jobs")) == 1
