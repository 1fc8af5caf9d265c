"""Server-sent events over the real ledger and the small plane: order, resuming, ends, and what a stream holds."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import check_problem
from fastapi import Request
from httpx_sse import aconnect_sse
from plane import Site, api_settings, listening, site_at
from streams import PATIENCE_S, stream

from actors.ports import Submission
from rayhaul.errors import Failure, Fault, Unavailable
from rayhaul.job import JobEvent, JobSpec, Progress
from rayhaul.ledger.base import Role, Viewer
from rayhaul.metrics import SSE_CONNECTIONS, SSE_EVENT_LAG
from serve_app.events import EventStream
from serve_app.feed import PAGE_EVENTS, _Tail
from serve_app.replica import Replica

EVERYTHING = Viewer("test", Role.OPERATOR)
UNKNOWN = "job_00000000000000000000000000"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        yield site


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server, for streams that do not end by themselves."""
    async with listening(site.app) as url, httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        yield http


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def streams_open(site: Site) -> float:
    replica: Replica = site.app.state.replica
    return replica.meter.snapshot().gauges.get((SSE_CONNECTIONS.name, ()), 0)


def listens(site: Site) -> bool:
    """Whether somebody listens to all events; the stream counts as open a moment before."""
    replica: Replica = site.app.state.replica
    return replica.feed._tail is not None and len(replica.feed._tail._of_all) > 0


def tail_of(site: Site) -> _Tail:
    replica: Replica = site.app.state.replica
    tail = replica.feed._tail
    assert tail is not None
    return tail


# --- one job ---


async def test_a_final_job_is_told_and_the_stream_ends(site: Site) -> None:
    """The history as ids, names and data, after the time to come back; then the end."""
    job_id = await site.submit("alice", url="https://files.example/x?signature=s3cr3t")
    await site.plane.complete(job_id)
    async with stream(site.http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        headers = told.response.headers
        events = await told.rest()
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-correlation-id"]
    assert "content-length" not in headers
    assert told.retry == "3000"
    assert [event.event for event in events] == ["created", "metadata", "started", "uploading", "completed"]
    history = await site.ledger.history(EVERYTHING, job_id)
    assert [event.id for event in events] == [str(record.seq) for record in history]
    first = events[0].data
    assert first["payload"].pop("correlationId") == first["correlationId"]
    assert first == {
        "seq": history[0].seq,
        "ts": history[0].ts.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": "created",
        "jobId": job_id,
        "userId": "alice",
        "correlationId": history[0].correlation_id,
        "status": "queued",
        "payload": {"url": "https://files.example/x"},
    }


async def test_a_client_that_has_it_all_is_told_to_stop(site: Site) -> None:
    """204 ends EventSource's reconnecting: the job is final and its last event is known to the client."""
    job_id = await site.submit()
    await site.plane.complete(job_id)
    seqs = [record.seq for record in await site.ledger.history(EVERYTHING, job_id)]
    path = f"/jobs/{job_id}/events"
    async with asyncio.timeout(PATIENCE_S):
        answer = await site.http.get(path, headers={**site.auth["alice"], "Last-Event-ID": str(seqs[-1])})
    assert (answer.status_code, answer.content) == (204, b"")
    async with stream(site.http, path, **site.auth["alice"], **{"Last-Event-ID": str(seqs[-2])}) as told:
        assert [event.event for event in await told.rest()] == ["completed"]


async def test_a_client_that_others_wrote(site: Site, http: httpx.AsyncClient) -> None:
    """httpx-sse reads a stream that is cut, comes back with its last id, and is told when there is no more."""
    job_id = await site.submit()
    path, auth = f"/jobs/{job_id}/events", site.auth["alice"]
    async with aconnect_sse(http, "GET", path, headers=auth) as source:
        first = await anext(source.aiter_sse())
    assert (first.event, first.retry) == ("created", 3000)
    assert first.json()["jobId"] == job_id
    await site.plane.complete(job_id)
    async with aconnect_sse(http, "GET", path, headers={**auth, "Last-Event-ID": first.id}) as source:
        rest = [told async for told in source.aiter_sse()]
    assert [told.event for told in rest] == ["metadata", "started", "uploading", "completed"]
    async with aconnect_sse(http, "GET", path, headers={**auth, "Last-Event-ID": rest[-1].id}) as source:
        assert source.response.status_code == 204


@pytest.mark.parametrize("offered", ["", "nonsense", "-1", "9" * 30, "999999", "1.5", "١"])
async def test_an_id_that_is_not_ours_counts_as_none(site: Site, offered: str) -> None:
    """Waiting for an event beyond the ledger's end would be waiting for ever: the client gets it all again."""
    job_id = await site.submit()
    await site.plane.complete(job_id)
    path = f"/jobs/{job_id}/events"
    answer = await site.http.get(path, headers=site.auth["alice"], params={"last_event_id": offered})
    assert answer.text.count("event: ") == 5


async def test_the_header_wins_over_the_query(site: Site) -> None:
    """A first connection may name its place in the query; a reconnect's header is newer."""
    job_id = await site.submit()
    await site.plane.complete(job_id)
    seqs = [record.seq for record in await site.ledger.history(EVERYTHING, job_id)]
    path = f"/jobs/{job_id}/events?last_event_id={seqs[1]}"
    async with stream(site.http, path, **site.auth["alice"]) as told:
        assert [event.id for event in await told.rest()] == [str(seq) for seq in seqs[2:]]
    async with stream(site.http, path, **site.auth["alice"], **{"Last-Event-ID": str(seqs[3])}) as told:
        assert [event.id for event in await told.rest()] == [str(seqs[4])]


async def test_what_follows_a_failure_is_told_too(site: Site, http: httpx.AsyncClient) -> None:
    """A dead letter's event comes after the failure, with it: the stream ends behind both, live and as history."""
    job_id = await site.submit()
    failure = Failure(code="source_not_found", message="404", fault=Fault.SOURCE, retryable=False)
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        assert [event.event for event in await told.until("created")] == ["created"]
        await site.plane.move(job_id, JobEvent.FAILED, JobEvent.DEADLETTERED, error=failure)
        assert [event.event for event in await told.rest()] == ["failed", "deadlettered"]
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        assert [event.event for event in await told.rest()] == ["created", "failed", "deadlettered"]


async def test_a_job_begun_again_does_not_end_its_stream(site: Site, http: httpx.AsyncClient) -> None:
    """A failure in the middle of the history is no end."""
    job_id = await site.submit()
    await site.plane.move(job_id, JobEvent.FAILED)
    await site.plane.move(job_id, JobEvent.REQUEUED)
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        assert [event.event for event in await told.until("requeued")] == ["created", "failed", "requeued"]
        await site.plane.move(job_id, JobEvent.CANCELLED)
        assert [event.event for event in await told.rest()] == ["cancelled"]


async def test_foreign_jobs_have_no_stream(site: Site) -> None:
    """Somebody else's job and an unknown one are 404, with a last id or without; no key is 401."""
    job_id = await site.submit("alice")
    for target in (job_id, UNKNOWN):
        for extra in ({}, {"Last-Event-ID": "1"}):
            answer = await site.http.get(f"/jobs/{target}/events", headers={**site.auth["bob"], **extra})
            assert answer.status_code == 404
            assert answer.json()["code"] == "not_found"
    for path in (f"/jobs/{job_id}/events", "/events"):
        assert (await site.http.get(path)).status_code == 401


# --- all jobs ---


async def test_everybody_hears_what_they_may_see(site: Site, http: httpx.AsyncClient) -> None:
    """From now on: Alice hears her jobs, the operator all; with a last id, what came after it."""
    early = await site.submit("alice")
    async with (
        stream(http, "/events", **site.auth["alice"]) as of_alice,
        stream(http, "/events", **site.auth["olga"]) as of_olga,
    ):
        await until(lambda: streams_open(site) == 2)
        of_bob = await site.submit("bob")
        late = await site.submit("alice")
        await site.plane.complete(early)
        heard = {(event.data["jobId"], event.event) for event in await of_alice.until("completed")}
        assert {job for job, _ in heard} == {late, early}
        assert (early, "created") not in heard
        assert {event.data["jobId"] for event in await of_olga.until("completed")} == {of_bob, late, early}
    async with stream(http, "/events", **site.auth["alice"], **{"Last-Event-ID": "1"}) as resumed:
        events = await resumed.until("completed")
    records = await site.ledger.events_after(Viewer("alice"), 1)
    assert [event.id for event in events] == [str(record.seq) for record in records]
    assert {event.data["jobId"] for event in events} == {late, early}


async def test_resuming_has_no_gap_and_no_repeat(site: Site, http: httpx.AsyncClient) -> None:
    """Clients that are cut off again and again while events are committed get each event once, in order."""
    dice = random.Random(7)
    following = {"alice", "bob", "olga"}
    done = asyncio.Event()

    async def commit() -> None:
        while following:
            specs = tuple(JobSpec(url="https://files.example/") for _ in range(dice.randint(1, 4)))
            user = dice.choice(["alice", "bob"])
            accepted = await site.plane.submit(Submission(user_id=user, correlation_id="correlation", specs=specs))
            await site.plane.move(accepted.job_ids[0], JobEvent.STARTED, JobEvent.REQUEUED)
        done.set()

    async def follow(user: str) -> list[str]:
        ids = ["0"]

        async def read(count: int) -> None:
            async with stream(http, "/events", **site.auth[user], **{"Last-Event-ID": ids[-1]}) as told:
                for _ in range(count):
                    event = await told.next()
                    assert event is not None
                    assert event.id is not None
                    ids.append(event.id)

        for _ in range(20):
            # More than there is when the stream begins: history and live events, and the step between them.
            await read(dice.randint(1, 40))
        following.remove(user)
        await done.wait()
        await read(len(await site.ledger.events_after(_viewer(user), int(ids[-1]), limit=100_000)))
        return ids[1:]

    async with asyncio.TaskGroup() as group:
        group.create_task(commit())
        followers = [(user, group.create_task(follow(user))) for user in list(following)]
    for user, follower in followers:
        records = await site.ledger.events_after(_viewer(user), 0, limit=100_000)
        assert follower.result() == [str(record.seq) for record in records]


def _viewer(user: str) -> Viewer:
    return Viewer(user, Role.OPERATOR if user == "olga" else Role.USER)


# --- progress ---


async def test_progress_is_told_while_bytes_move(site: Site, http: httpx.AsyncClient) -> None:
    """Progress has no id and the newest value, only for jobs that move, and only for those who may see them."""
    moving, waiting = await site.submit("alice"), await site.submit("alice")
    await site.plane.move(moving, JobEvent.STARTED)
    async with (
        stream(http, f"/jobs/{moving}/events", **site.auth["alice"]) as of_job,
        stream(http, "/events", **site.auth["olga"]) as of_all,
        stream(http, "/events", **site.auth["bob"]) as of_bob,
    ):
        await of_job.until("started")
        site.plane.tell_progress(waiting, Progress(bytes_done=1))
        for done in range(1, 6):
            site.plane.tell_progress(moving, Progress(bytes_done=done, bytes_total=10, parts_done=1, parts_total=2))
        told = await of_job.next()
        assert told is not None
        assert (told.event, told.id) == ("progress", None)
        assert told.data["seq"] is None
        assert told.data["status"] == "downloading"
        assert told.data["userId"] == "alice"
        assert told.data["payload"].pop("correlationId") == told.data["correlationId"]
        assert told.data["payload"] == {
            "bytes": 5,
            "bytesTotal": 10,
            "bytesPerSecond": 0.0,
            "etaSeconds": None,
            "partsDone": 1,
            "partsTotal": 2,
        }
        heard = await of_all.next()
        assert heard is not None
        assert (heard.event, heard.data["jobId"]) == ("progress", moving)
        assert of_job.last_id is not None
        site.plane.tell_progress(moving, Progress(bytes_done=9, bytes_total=10))
        await site.plane.move(moving, JobEvent.UPLOADING, JobEvent.COMPLETED)
        rest = [event.event for event in await of_job.rest() if event.event != "progress"]
        assert rest == ["uploading", "completed"]
        assert {event.data["jobId"] for event in await of_all.until("completed")} == {moving}
        mine = await site.submit("bob")
        first = await of_bob.next()
        assert first is not None
        assert first.data["jobId"] == mine


# --- what a stream holds ---


async def test_silence_is_filled_with_comments(tmp_path: Path) -> None:
    """After `sse_heartbeat_s` without an event a comment is sent, again and again."""
    async with (
        site_at(tmp_path, api_settings(sse_heartbeat_s=0.02)) as site,
        listening(site.app) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
        stream(http, "/events", **site.auth["alice"]) as told,
    ):
        async with asyncio.timeout(PATIENCE_S):
            comments = [line async for line in _first(told.response.aiter_lines(), 12) if line.startswith(":")]
        assert len(comments) >= 3


async def _first(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        count -= 1
        if count == 0:
            return


async def test_a_stream_ends_after_a_while_and_resumes(tmp_path: Path) -> None:
    """It is closed in order, not cut off; the client comes back with its last id and misses nothing."""
    async with site_at(tmp_path, api_settings(sse_age_s_max=0.5)) as site:
        job_id = await site.submit()
        async with asyncio.timeout(20):
            first = await site.http.get(f"/jobs/{job_id}/events", headers=site.auth["alice"])
        assert first.text.count("\nevent: ") == 1
        await site.plane.complete(job_id)
        (last_id,) = re.findall(r"^id: (\d+)$", first.text, re.MULTILINE)
        headers = {**site.auth["alice"], "Last-Event-ID": last_id}
        second = await site.http.get(f"/jobs/{job_id}/events", headers=headers)
        assert re.findall(r"^event: (\w+)$", second.text, re.MULTILINE) == [
            "metadata",
            "started",
            "uploading",
            "completed",
        ]


async def test_a_replica_has_only_so_many_streams(tmp_path: Path) -> None:
    """Beyond `sse_streams_max`: 429 with the time to come back; a place that becomes free is given again."""
    async with (
        site_at(tmp_path, api_settings(sse_streams_max=2)) as site,
        listening(site.app) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
        stream(http, "/events", **site.auth["alice"]),
    ):
        async with stream(http, "/events", **site.auth["bob"]):
            async with asyncio.timeout(PATIENCE_S):  # a stream that is let in does not end
                answer = await http.get("/events", headers=site.auth["alice"])
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            assert answer.headers["retry-after"] == "10"
            assert streams_open(site) == 2
        await until(lambda: streams_open(site) == 1)
        async with stream(http, "/events", **site.auth["bob"]):
            assert streams_open(site) == 2


async def test_a_user_has_only_so_many_streams(tmp_path: Path) -> None:
    """Beyond `sse_streams_per_user_max`: 429 for that user, on any path; others get theirs."""
    async with (
        site_at(tmp_path, api_settings(sse_streams_max=9, sse_streams_per_user_max=2)) as site,
        listening(site.app) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
        stream(http, "/events", **site.auth["alice"]),
    ):
        job_id = await site.submit("alice")
        async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]):
            for path in ("/events", f"/jobs/{job_id}/events"):
                async with asyncio.timeout(PATIENCE_S):  # a stream that is let in does not end
                    answer = await http.get(path, headers=site.auth["alice"])
                check_problem(answer, 429, "rate_limited")
                assert answer.headers["retry-after"] == "10"
            async with stream(http, "/events", **site.auth["bob"]):
                assert streams_open(site) == 3
        await until(lambda: streams_open(site) == 1)
        async with stream(http, "/events", **site.auth["alice"]):
            assert streams_open(site) == 2


async def test_a_client_that_takes_nothing_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that takes no more ends the stream, though nobody hangs up, and the stream counts no more."""
    monkeypatch.setattr("serve_app.events._SEND_TIMEOUT_S", 0.05)
    written = 0

    async def send(message: Any) -> None:
        nonlocal written
        written += 1
        if message["type"] == "http.response.body":
            assert streams_open(site) == 1
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    headers = [(b"authorization", site.auth["alice"]["Authorization"].encode())]
    scope = {"type": "http", "method": "GET", "path": "/events", "query_string": b"", "headers": headers}
    async with asyncio.timeout(PATIENCE_S):
        await site.app(scope, receive, send)
    assert written == 3  # the head, the preamble that went nowhere, and an end that went nowhere
    assert streams_open(site) == 0
    assert not listens(site)


async def test_a_hang_up_leaves_nothing_behind(site: Site, http: httpx.AsyncClient) -> None:
    """When the last client is gone, so are the streams' tasks and the tail; the ledger is asked no more."""
    job_id = await site.submit("alice")
    await http.get("/livez")
    before = asyncio.all_tasks()
    for _ in range(3):
        async with (
            stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told,
            stream(http, "/events", **site.auth["alice"]),
            stream(http, "/events", **site.auth["olga"]),
        ):
            await told.until("created")
            assert len(asyncio.all_tasks() - before) > 3
        await until(lambda: streams_open(site) == 0)
        await until(lambda: {task for task in asyncio.all_tasks() - before if not task.done()} == set())
    site.ledger_seam.fail["events_after"] = AssertionError("asked although nobody listens")
    await site.submit("alice")


async def test_the_lag_of_live_events_is_measured(site: Site, http: httpx.AsyncClient) -> None:
    """History is old by nature and does not count; what happens while the client listens does."""
    job_id = await site.submit("alice")
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        await told.until("created")
        meter = site.app.state.replica.meter
        assert (SSE_EVENT_LAG.name, ()) not in meter.snapshot().histograms
        await site.plane.move(job_id, JobEvent.STARTED)
        await told.until("started")
    assert sum(meter.snapshot().histograms[SSE_EVENT_LAG.name, ()].counts) == 1


async def test_a_revoked_key_loses_its_stream(tmp_path: Path) -> None:
    """An open stream asks again whether its key holds; what the key may not see any more is not sent."""
    async with (
        site_at(tmp_path, api_settings(sse_heartbeat_s=0.02)) as site,
        listening(site.app) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
    ):
        key = await site.add_key("guest")
        async with stream(http, "/events", **site.auth["guest"]) as told:
            await site.http.delete(f"/keys/{key.key_id}", headers=site.auth["olga"])
            site.clock.offset_s = 61
            assert await told.rest() == []


async def test_a_slow_client_catches_up_from_the_ledger(site: Site) -> None:
    """More events than a queue holds, while the client reads nothing: none is lost, none comes twice."""
    sent: list[bytes] = []
    reading, gone = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await reading.wait()
            sent.append(message["body"])

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    headers = [(b"authorization", site.auth["alice"]["Authorization"].encode())]
    scope = {"type": "http", "method": "GET", "path": "/events", "query_string": b"", "headers": headers}
    reading.set()
    streaming = asyncio.create_task(site.app(scope, receive, send))
    await until(lambda: listens(site))
    (listener,) = tail_of(site)._of_all
    await until(lambda: not listener.behind)
    reading.clear()
    specs = tuple(JobSpec(url=f"https://files.example/{number}") for number in range(6 * PAGE_EVENTS))
    submission = Submission(user_id="alice", correlation_id="correlation", specs=specs)
    accepted = await site.plane.submit(submission)
    await until(lambda: listener.behind)
    reading.set()
    last = accepted.job_ids[-1].encode()
    await until(lambda: any(last in body for body in sent))
    gone.set()
    await streaming
    ids = [line.removeprefix("id: ") for line in b"".join(sent).decode().splitlines() if line.startswith("id: ")]
    records = await site.ledger.events_after(EVERYTHING, 0, limit=100_000)
    assert ids == [str(record.seq) for record in records]


async def test_the_tail_sleeps_until_there_is_news(site: Site, http: httpx.AsyncClient) -> None:
    """While the ledger has none it is not read, and what it has then is told at once, not at the next look."""
    asleep, news = asyncio.Event(), asyncio.Event()
    looks = 0

    async def counted(viewer: Viewer, *arguments: Any, **options: Any) -> Any:
        nonlocal looks
        looks += viewer.user_id == "api"
        return await site.ledger.events_after(viewer, *arguments, **options)

    job_id = await site.submit("alice")
    site.ledger_seam.instead["events_after"] = counted
    site.ledger_seam.hold["news"] = (asleep, news)
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        await told.until("created")
        await asleep.wait()
        before = looks
        await site.plane.move(job_id, JobEvent.PAUSED)
        await site.http.get(f"/jobs/{job_id}", headers=site.auth["alice"])
        assert looks == before
        news.set()
        await told.until("paused")


async def test_what_happens_while_the_history_is_read_is_not_lost(site: Site, http: httpx.AsyncClient) -> None:
    """An event that is committed and told between the ledger's answer and its arrival here comes from the queue."""
    answered, release = asyncio.Event(), asyncio.Event()

    async def late(viewer: Viewer, *arguments: Any, **options: Any) -> Any:
        records = await site.ledger.events_after(viewer, *arguments, **options)
        if viewer.user_id == "alice":
            answered.set()
            await release.wait()
        return records

    job_id = await site.submit("alice")
    site.ledger_seam.instead["events_after"] = late
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        await answered.wait()
        await site.plane.move(job_id, JobEvent.PAUSED)
        last = await site.ledger.last_seq()
        await until(lambda: tail_of(site)._seq == last)
        release.set()
        assert [event.event for event in await told.until("paused")] == ["created", "paused"]


async def test_an_end_that_comes_in_two_pages_is_told_in_full(site: Site, http: httpx.AsyncClient) -> None:
    """The tail reads the failure as the last of one page, the dead letter as the first of the next."""
    release = asyncio.Event()

    async def gated(viewer: Viewer, *arguments: Any, **options: Any) -> Any:
        if viewer.user_id == "api":
            await release.wait()
        return await site.ledger.events_after(viewer, *arguments, **options)

    job_id = await site.submit("alice")
    site.ledger_seam.instead["events_after"] = gated
    async with stream(http, f"/jobs/{job_id}/events", **site.auth["alice"]) as told:
        await told.until("created")
        specs = tuple(JobSpec(url="https://files.example/") for _ in range(PAGE_EVENTS - 1))
        await site.plane.submit(Submission(user_id="bob", correlation_id="correlation", specs=specs))
        await site.plane.move(job_id, JobEvent.FAILED, JobEvent.DEADLETTERED)
        release.set()
        assert [event.event for event in await told.rest()] == ["failed", "deadlettered"]


async def test_a_long_page_is_written_piece_by_piece(site: Site) -> None:
    """Whoever does not read has no more waiting for it in this process than one piece: all of it comes, in order."""
    pieces: list[bytes] = []
    whole = asyncio.Event()

    async def send(message: Any) -> None:
        if b"\nevent: " in message.get("body", b""):
            pieces.append(message["body"])
            if sum(map(_events_in, pieces)) == 250:
                whole.set()

    async def receive() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            await whole.wait()
        return {"type": "http.disconnect"}

    specs = tuple(JobSpec(url="https://files.example/") for _ in range(250))
    await site.plane.submit(Submission(user_id="alice", correlation_id="correlation", specs=specs))
    page = await site.app.state.replica.feed.page(Viewer("alice"), 0, None)
    scope = {"type": "http", "app": site.app, "headers": [], "method": "GET"}
    await EventStream(Request(scope), Viewer("alice"), job_id=None, after=0)(scope, receive, send)
    assert [*map(_events_in, pieces)] == [100, 100, 50]
    assert b"".join(pieces) == b"".join(event.frame for event in page)


def _events_in(piece: bytes) -> int:
    return piece.count(b"\nevent: ")


async def test_many_that_catch_up_read_by_turns(site: Site, http: httpx.AsyncClient) -> None:
    """Twenty streams that come back for the whole history read it two at a time: the rest of the API stays awake."""
    reading = most = 0

    async def counted(viewer: Viewer, *arguments: Any, **options: Any) -> Any:
        nonlocal reading, most
        if viewer.user_id == "api":
            return await site.ledger.events_after(viewer, *arguments, **options)
        reading += 1
        most = max(most, reading)
        try:
            return await site.ledger.events_after(viewer, *arguments, **options)
        finally:
            reading -= 1

    specs = tuple(JobSpec(url="https://files.example/") for _ in range(2 * PAGE_EVENTS))
    accepted = await site.plane.submit(Submission(user_id="alice", correlation_id="correlation", specs=specs))
    site.ledger_seam.instead["events_after"] = counted

    async def follow() -> int:
        async with stream(http, "/events?last_event_id=0", **site.auth["alice"]) as told:
            seen = 0
            while (event := await told.next()) is not None:
                seen += 1
                if event.data["jobId"] == accepted.job_ids[-1]:
                    break
            return seen

    counts = await asyncio.gather(*[follow() for _ in range(20)])
    assert counts == [len(specs)] * 20
    assert most == 2


async def test_a_broken_tail_ends_the_streams_and_the_next_one_works(
    site: Site, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody expected is logged, clients are let go, and resume with what they missed."""
    async with stream(http, "/events", **site.auth["alice"]) as told:
        await until(lambda: streams_open(site) == 1)
        first = await site.submit("alice")
        assert [event.data["jobId"] for event in await told.until("created")] == [first]
        site.ledger_seam.fail["events_after"] = RuntimeError("broken")
        assert await told.rest() == []
    assert [record.message for record in caplog.records if record.exc_info] == ["the event feed broke; its streams end"]
    del site.ledger_seam.fail["events_after"]
    missed = await site.submit("alice")
    assert told.last_id is not None
    async with stream(http, "/events", **site.auth["alice"], **{"Last-Event-ID": told.last_id}) as resumed:
        assert [event.data["jobId"] for event in await resumed.until("created")] == [missed]


async def test_a_ledger_out_of_reach_is_waited_for(
    site: Site, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The tail tries again; the stream stays and tells what happened meanwhile. A new stream gets 503."""
    async with stream(http, "/events", **site.auth["alice"]) as told:
        await until(lambda: streams_open(site) == 1)
        first = await site.submit("alice")
        await told.until("created")
        site.ledger_seam.fail["events_after"] = site.ledger_seam.fail["last_seq"] = Unavailable("locked")
        answer = await http.get("/events", headers=site.auth["alice"])
        assert (answer.status_code, answer.json()["code"]) == (503, "internal")
        await site.plane.move(first, JobEvent.PAUSED)
        await until(lambda: any("no events from the ledger" in record.message for record in caplog.records))
        site.ledger_seam.fail.clear()
        assert [event.event for event in await told.until("paused")] == ["paused"]


async def test_the_feed_can_be_closed(site: Site, http: httpx.AsyncClient) -> None:
    """Before a replica goes away its streams end cleanly; the clients resume elsewhere."""
    async with stream(http, "/events", **site.auth["alice"]) as told:
        await until(lambda: streams_open(site) == 1)
        site.app.state.replica.feed.close()
        assert await told.rest() == []
