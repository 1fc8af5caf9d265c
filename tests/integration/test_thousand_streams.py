"""A thousand event streams of one API: all of them hear the end of a job, each once, and nothing of them is left."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from plane import Site, api_settings, listening, site_at

from rayhaul.client.sse import ServerSentEvent, SseParser
from rayhaul.job import JobEvent, Progress
from rayhaul.ledger.base import Viewer
from rayhaul.metrics import SSE_CONNECTIONS
from serve_app.replica import Replica

STREAMS = 1000
#: Both ends of each stream are here.
FILES = 2 * STREAMS + 500
#: Streams opened at once.
OPENING = 50
PATIENCE_S = 300


@pytest.fixture
def many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"a process may open {hard} files here, and {STREAMS} streams need {FILES}")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    settings = api_settings(rate_per_minute=1_000_000, key_cache_s=60, sse_streams_per_user_max=STREAMS)
    async with site_at(tmp_path, settings) as site:
        yield site


class Hearer:
    """One stream, read to its end: its events, and whether it has heard of progress."""

    def __init__(self) -> None:
        self.events: list[ServerSentEvent] = []
        self.has_progress = asyncio.Event()

    async def read(self, response: aiohttp.ClientResponse) -> None:
        parser = SseParser()
        async with response:
            async for received in response.content.iter_any():
                self.events += parser.feed(received)
                if any(event.event == "progress" for event in self.events):
                    self.has_progress.set()

    @property
    def kept(self) -> list[tuple[str, int]]:
        """Events of the history, by name and id."""
        return [(event.event, json.loads(event.data)["seq"]) for event in self.events if event.event != "progress"]


def streams_open(site: Site) -> float:
    replica: Replica = site.app.state.replica
    return replica.meter.snapshot().gauges[SSE_CONNECTIONS.name, ()]


@pytest.mark.drill
@pytest.mark.usefixtures("many_files")
async def test_all_hear_of_the_end(site: Site) -> None:
    """The owner and an operator follow one job from its beginning; the streams end by themselves, and their sockets."""
    job_id = await site.submit("alice")
    hearers = [Hearer() for _ in range(STREAMS)]
    gate = asyncio.Semaphore(OPENING)
    process = psutil.Process()
    async with asyncio.timeout(PATIENCE_S), listening(site.app) as url:
        sockets_before = len(process.net_connections("tcp"))
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:

            async def opened(number: int, hearer: Hearer) -> asyncio.Task[None]:
                async with gate:
                    headers = site.auth["olga" if number % 2 else "alice"]
                    response = await session.get(f"/jobs/{job_id}/events", headers=headers)
                assert response.status == 200, await response.text()
                return asyncio.create_task(hearer.read(response))

            reading = await asyncio.gather(*(opened(number, hearer) for number, hearer in enumerate(hearers)))
            while streams_open(site) < STREAMS:
                await asyncio.sleep(0.05)
            await site.plane.move(job_id, JobEvent.STARTED)
            site.plane.tell_progress(job_id, Progress(bytes_done=5, bytes_total=10))
            await asyncio.gather(*(hearer.has_progress.wait() for hearer in hearers))
            assert not any(task.done() for task in reading)
            await site.plane.move(job_id, JobEvent.UPLOADING, JobEvent.COMPLETED)
            await asyncio.gather(*reading)
        history = [(record.event.value, record.seq) for record in await site.ledger.history(Viewer("alice"), job_id)]
        assert [event for event, _ in history] == ["created", "started", "uploading", "completed"]
        assert [number for number, hearer in enumerate(hearers) if hearer.kept != history] == []
        while streams_open(site) or len(process.net_connections("tcp")) > sockets_before:
            await asyncio.sleep(0.05)
        tail = site.app.state.replica.feed._tail
        assert tail is None or tail.is_idle
