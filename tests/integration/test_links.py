"""Links that expire: the original URL is resolved anew, and the job's owner is asked for a fresh one."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running
from origin import content_sha256
from receiver import ENDLESS, Receiver
from standardwebhooks import Webhook

from rayhaul.client.aio import AsyncClient
from rayhaul.errors import SourceChanged, SourceNotFound, SourceRefused
from rayhaul.ids import IdFactory
from rayhaul.settings import EgressSettings, WebhookSettings
from serve_app.seaweed import Seaweed
from tasks.egress import GuardedClient
from tasks.guard import Denied
from tasks.links import Refresh

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOUR = "Bearer of the first hour"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


@pytest_asyncio.fixture(loop_scope="module")
async def bench(side: Side, receiver: Receiver) -> AsyncIterator[Bench]:
    bench = Bench(side)
    async with GuardedClient(
        EgressSettings(allow=("127.0.0.1/32",)), side.client.source, connections_max=2, meter=side.client._meter
    ) as client:
        settings = WebhookSettings.model_validate({"secret": SECRET, "timeout_s": 1})
        bench.refresh = Refresh(client, settings, new_id=IdFactory(), clock=time.time)
        yield bench


def told(url: str) -> bytes:
    return json.dumps({"url": url}).encode()


async def test_a_redirect_whose_links_are_used_up(bench: Bench) -> None:
    """Each request begins at the original URL, so that a link which is good once is enough for it."""
    order = await bench.order(4 * PART)
    bench.origin.add("once", size=4 * PART, seed=7, uses_max=1)
    bench.origin.add("file.bin", redirect_to="/once?n={count}")
    await bench.check(order, await bench.run(order), 4 * PART)
    queries = [seen.query for seen in bench.origin.seen("once")]
    assert len(set(queries)) == len(queries) == 4


async def test_a_link_that_expires_half_way_is_refreshed(bench: Bench, receiver: Receiver) -> None:
    """The owner is asked once, with a signed question that has no secret in it; parts that are in stay there."""
    order = await bench.order(4 * PART, faults={"status_after": 2, "status": 403})
    bench.origin.add("fresh.bin", size=4 * PART, seed=7)
    hook = receiver.answer("fresh", told(f"{bench.origin.base_url}/fresh.bin?token=2"))
    order = replace(order, url=f"{order.url}?token=1", refresh_webhook=hook, connections=1, headers={"X-Key": HOUR})
    control = Control()
    await bench.check(order, await bench.run(order, control), 4 * PART)
    assert [seen.range and seen.range[0] // PART for seen in bench.origin.seen("fresh.bin")] == [2, 3]
    assert bench.proxy.count("upload_part") == 4
    assert {seen.headers.get("x-key") for seen in bench.origin.requests} == {HOUR}
    (question,) = receiver.got("fresh")
    Webhook(SECRET).verify(question.body, dict(question.headers))
    asked = json.loads(question.body)
    assert asked["type"] == "source.refresh"
    assert asked["data"] == {
        "jobId": "job_1",
        "correlationId": "corr-12345",
        "url": f"{bench.origin.base_url}/file.bin",
        "statusCode": 403,
        "sizeBytes": 4 * PART,
        "etag": order.pin.etag,
        "lastModified": order.pin.last_modified,
    }


async def test_many_connections_ask_once(bench: Bench, receiver: Receiver) -> None:
    """Connections whose links expire together wait for one answer."""
    order = await bench.order(4 * PART, faults={"status": 410})
    bench.origin.add("fresh.bin", size=4 * PART, seed=7)
    hook = receiver.answer("fresh", told(f"{bench.origin.base_url}/fresh.bin"))
    order = replace(order, refresh_webhook=hook, connections=4)
    await bench.check(order, await bench.run(order), 4 * PART)
    assert len(receiver.got("fresh")) == 1


async def test_a_fresh_link_to_another_file_is_not_gone_on_with(bench: Bench, receiver: Receiver) -> None:
    """What the fresh link serves is checked against the pin: another file ends the lease, and no mix is published."""
    order = await bench.order(4 * PART, faults={"status_after": 2, "status": 404})
    bench.origin.add("other.bin", size=4 * PART, seed=8, last_modified="Sun, 05 Jan 2025 00:00:00 GMT")
    hook = receiver.answer("fresh", told(f"{bench.origin.base_url}/other.bin"))
    control = Control()
    await bench.fails(replace(order, refresh_webhook=hook, connections=1), SourceChanged, control)
    assert len(control.parts) == 2
    await bench.abort(control)


@pytest.mark.parametrize(
    "answer",
    [500, 204, b"", b"{}", b'{"url": 7}', b"[1]", b"{", ENDLESS, (302, {"Location": "http://127.0.0.1/"})],
    ids=["500", "204", "empty", "no url", "no text", "list", "no JSON", "endless", "redirect"],
)
async def test_an_owner_without_an_answer(bench: Bench, receiver: Receiver, answer: int | bytes) -> None:
    """Where there is no fresh link to be had, the refusal stands."""
    order = await bench.order(3 * PART, faults={"status": 404})
    control = Control()
    hook = receiver.answer("fresh", answer)
    await bench.fails(replace(order, refresh_webhook=hook, connections=1), SourceNotFound, control)
    await bench.abort(control)


async def test_fresh_links_are_guarded_and_few(bench: Bench, receiver: Receiver) -> None:
    """An answer that leads where nobody may fetch is refused, and links that never work are not asked for for ever."""
    order = await bench.order(3 * PART, faults={"status": 403})
    hook = receiver.answer("fresh", told("http://169.254.169.254/latest/meta-data"))
    control = Control()
    await bench.fails(replace(order, refresh_webhook=hook, connections=1), Denied, control)
    await bench.abort(control)
    hook = receiver.answer("same", told(order.url))
    control = Control()
    await bench.fails(replace(order, refresh_webhook=hook, connections=1), SourceRefused, control)
    assert len(receiver.got("same")) == 3
    await bench.abort(control)


async def test_headers_stay_with_their_origin(bench: Bench, receiver: Receiver) -> None:
    """What the caller told the first origin is not told to another one that a fresh link leads to."""
    order = await bench.order(3 * PART, faults={"status": 403})
    bench.origin.add("fresh.bin", size=3 * PART, seed=7)
    hook = receiver.answer("fresh", told(f"http://localhost:{bench.origin.port}/fresh.bin"))
    order = replace(order, refresh_webhook=hook, connections=1, headers={"X-Key": HOUR})
    await bench.check(order, await bench.run(order), 3 * PART)
    assert all("x-key" not in seen.headers for seen in bench.origin.seen("fresh.bin"))


async def test_a_job_whose_link_expired_while_it_waited(
    bench: Bench, receiver: Receiver, store: Seaweed, tmp_path: Path
) -> None:
    """From the API to the bucket: the probe asks for a fresh link, and the transfer after it as well."""
    size = 2 * PART + 5
    url = bench.origin.add("old.bin", status=403)
    bench.origin.add("fresh.bin", size=size, seed=7)
    hook = receiver.answer("fresh", told(f"{bench.origin.base_url}/fresh.bin"))
    async with running_service(tmp_path, quick_settings(store.settings), agents=1) as service:
        async with AsyncClient(service.url, service.alice) as client:
            job = await client.submit(url, refresh_webhook=hook, checksum=f"sha256:{content_sha256(7, size)}")
            done = await client.wait(job.id, timeout_s=60)
            assert done.result is not None
            assert done.result.size_bytes == size
            assert [event.event for event in await client.history(job.id)][:3] == ["created", "metadata", "started"]
    assert len(receiver.got("fresh")) == 2
