"""A small API that speaks the wire and misbehaves on purpose: what no healthy server can be made to do.

Its jobs are scripts of events. Listening to a job lets its script go on, so a job ends when somebody has heard it out,
and nothing in here depends on time.
"""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from rayhaul.job import FINAL, JobEvent, JobStatus, Priority
from rayhaul.wire import (
    Destination,
    ErrorView,
    EventView,
    JobPage,
    JobView,
    Problem,
    ProgressView,
    ResultView,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENT = b"0123456789" * 20_000
BUCKET = "rayhaul"

_S, _E = JobStatus, JobEvent

#: What happens to a job, unless it is told otherwise. Progress is not kept: it has no `seq`.
COMPLETES: Sequence[tuple[JobEvent, JobStatus, Mapping[str, Any]]] = (
    (_E.CREATED, _S.QUEUED, {}),
    (_E.METADATA, _S.QUEUED, {"filename": "data.bin", "sizeBytes": len(CONTENT)}),
    (_E.STARTED, _S.DOWNLOADING, {}),
    (_E.PROGRESS, _S.DOWNLOADING, {"bytes": 50_000, "bytesTotal": len(CONTENT), "bytesPerSecond": 1e6}),
    (_E.UPLOADING, _S.UPLOADING, {}),
    (_E.COMPLETED, _S.COMPLETED, {}),
)
_WHY = {"code": "source_not_found", "message": "The source has no such file."}
FAILS = (*COMPLETES[:1], (_E.FAILED, _S.FAILED, _WHY), (_E.DEADLETTERED, _S.FAILED, _WHY))
IS_CANCELLED = (*COMPLETES[:3], (_E.CANCELLED, _S.CANCELLED, {}))


@dataclass
class ScriptedJob:
    id: str
    url: str
    script: Sequence[tuple[JobEvent, JobStatus, Mapping[str, Any]]]
    first_seq: int
    filename: str | None = None
    #: Of the object; None where a store gives none.
    sha256: str | None = hashlib.sha256(CONTENT).hexdigest()
    #: Steps of the script that have happened.
    done: int = 1
    #: After how many events of each connection it is cut; the connections after these go through.
    cuts: deque[int] = field(default_factory=deque)
    #: The server forgets what it was asked for and sends everything each time.
    repeats: bool = False
    #: The stream is ended in good order after each event, as a server that is being upgraded does.
    ends_often: bool = False

    @property
    def status(self) -> JobStatus:
        return self.script[self.done - 1][1]

    def event(self, index: int) -> EventView:
        event, status, payload = self.script[index]
        seq = None if event is JobEvent.PROGRESS else self.first_seq + index
        return EventView(
            seq=seq,
            ts=NOW,
            event=event,
            job_id=self.id,
            user_id="ann",
            correlation_id="corr-of-job",
            status=status,
            payload={**_FULL_PROGRESS, **payload} if event is JobEvent.PROGRESS else payload,
        )

    def view(self) -> JobView:
        size = len(CONTENT)
        key = f"{self.id}/data.bin"
        result = ResultView(bucket=BUCKET, key=key, size_bytes=size, etag="e", sha256=self.sha256)
        error = ErrorView(**_WHY, fault="source", retryable=False)
        return JobView(
            id=self.id,
            status=self.status,
            url=self.url,
            filename=self.filename,
            priority=Priority.NORMAL,
            tags={},
            destination=Destination(bucket=BUCKET, key=key),
            metadata=None,
            progress=ProgressView(
                bytes=50_000, bytes_total=size, bytes_per_second=1e6, eta_seconds=1.5, parts_done=1, parts_total=4
            ),
            attempt=1,
            requeues=0,
            checksum=None,
            result=result if self.status is JobStatus.COMPLETED else None,
            error=error if self.status is JobStatus.FAILED else None,
            agents=[],
            correlation_id="corr-of-job",
            user_id="ann",
            created_at=NOW,
            started_at=None,
            completed_at=NOW if self.status in FINAL else None,
            next_attempt_at=None,
        )


_FULL_PROGRESS = {"bytesTotal": None, "etaSeconds": None, "partsDone": 0, "partsTotal": None}


@dataclass(frozen=True)
class Fault:
    """What one request gets instead of its answer."""

    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = "internal"
    #: The request is carried out, and then the connection is cut before the answer.
    after: bool = False


class FaultyApi:
    key = "good-key"

    def __init__(self) -> None:
        self.url = ""
        self.jobs: dict[str, ScriptedJob] = {}
        #: By "METHOD /path": what the next requests get.
        self.faults: dict[str, deque[Fault | None]] = {}
        #: "METHOD /path" and the headers of each request.
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.script = COMPLETES
        #: Jobs that the stream of all events plays to their ends; each connection so many of them, then it is cut.
        self.plays = deque[str]()
        self.plays_of_one = 1000
        #: After how many bytes the next reads of an object are cut.
        self.object_cuts: deque[int] = deque()
        self.content = CONTENT
        self._answers: dict[str, tuple[bytes, web.Response]] = {}
        #: Of the number of a job.
        self.id_of: Callable[[int], str] = "job_{:04}".format

    def asked(self, what: str) -> list[Mapping[str, str]]:
        """Return the headers of the requests to "METHOD /path"."""
        return [headers for asked, headers in self.requests if asked == what]

    def add(self, url: str = "https://files.example/data.bin", **changes: Any) -> ScriptedJob:
        number = len(self.jobs) + 1
        job = ScriptedJob(id=self.id_of(number), url=url, script=self.script, first_seq=1000 * number)
        for name, value in changes.items():
            setattr(job, name, value)
        self.jobs[job.id] = job
        return job

    def forget(self) -> None:
        """Forget all jobs and requests."""
        self.jobs.clear()
        self.requests.clear()
        self._answers.clear()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._misbehave], client_max_size=2**25)
        app.add_routes(
            [
                web.post("/jobs", self._create),
                web.post("/jobs/batch", self._create_batch),
                web.get("/jobs", self._list),
                web.get("/jobs/{id}", self._show),
                web.delete("/jobs/{id}", self._cancel),
                web.post("/jobs/{id}/{verb:pause|resume|retry}", self._show),
                web.get("/jobs/{id}/history", self._history),
                web.get("/jobs/{id}/events", self._events),
                web.get("/events", self._all_events),
                web.get("/jobs/{id}/download", self._link),
                web.get("/readyz", self._ready),
                web.get("/objects/{id}", self._object),
            ]
        )
        return app

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        what = f"{request.method} {request.path}"
        self.requests.append((what, dict(request.headers)))
        is_open = request.path.startswith("/objects") or request.path == "/readyz"
        if not is_open and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _problem(401, "unauthorized", "The API key is wrong.")
        faults = self.faults.get(what)
        fault = faults.popleft() if faults else None
        if fault is None:
            answer: web.StreamResponse = await handler(request)
            return answer
        if fault.after:
            await handler(request)
            _cut(request)
        return _problem(fault.status, fault.code, "On purpose.", fault.headers)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.read()
        return self._once(request, body, lambda: _json(self.add(json.loads(body)["url"]).view(), 201))

    async def _create_batch(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = json.loads(body)["jobs"]
        return self._once(
            request,
            body,
            lambda: web.json_response({"jobs": [{"id": self.add(j["url"]).id} for j in asked]}, status=201),
        )

    def _once(self, request: web.Request, body: bytes, make: Any) -> web.Response:
        key = request.headers["Idempotency-Key"]
        if key not in self._answers:
            self._answers[key] = (body, make())
        first_body, answer = self._answers[key]
        if first_body != body:
            return _problem(422, "idempotency_mismatch", "Another body.")
        return web.Response(body=answer.body, status=answer.status, content_type="application/json")

    async def _list(self, request: web.Request) -> web.Response:
        newest = sorted(self.jobs.values(), key=lambda job: job.id, reverse=True)
        before = request.query.get("cursor", "~")
        limit = int(request.query.get("limit", "50"))
        rest = [
            job for job in newest if job.id < before and request.query.get("status", job.status) == job.status.value
        ]
        more = rest[limit - 1].id if len(rest) > limit else None
        return _json(JobPage(jobs=[job.view() for job in rest[:limit]], next_cursor=more))

    async def _show(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        return _json(job.view()) if job else _problem(404, "not_found", "There is no such thing.")

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        job.script, job.done = IS_CANCELLED, len(IS_CANCELLED)
        return _json(job.view())

    async def _history(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        events = [job.event(index) for index in range(job.done) if job.script[index][0] is not JobEvent.PROGRESS]
        return web.json_response({"events": [json.loads(event.model_dump_json(by_alias=True)) for event in events]})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return _problem(404, "not_found", "There is no such thing.")
        after = 0 if job.repeats else int(request.headers.get("Last-Event-ID", "0"))
        first = max(0, after - job.first_seq + 1)
        if job.status in FINAL and after and first >= len(job.script):
            return web.Response(status=204)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"retry: 1\n\n: hello\n\n")
        cut_after = job.cuts.popleft() if job.cuts else -1
        for index in range(first, len(job.script)):
            if index - first == cut_after:
                _cut(request)
            job.done = max(job.done, index + 1)
            event = job.event(index)
            id_line = "" if event.seq is None else f"id: {event.seq}\n"
            await stream.write(
                f"{id_line}event: {event.event}\ndata: {event.model_dump_json(by_alias=True)}\n\n".encode()
            )
            if job.ends_often and event.seq is not None and index < len(job.script) - 1:
                break
        if cut_after == len(job.script) - first:
            _cut(request)
        await stream.write_eof()
        return stream

    async def _all_events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"retry: 1\n\n")
        for _ in range(self.plays_of_one):
            while not self.plays:
                await asyncio.sleep(0.01)
            job = self.jobs[self.plays.popleft()]
            job.done = len(job.script)
            event = job.event(job.done - 1)
            data = event.model_dump_json(by_alias=True)
            await stream.write(f"id: {event.seq}\nevent: {event.event}\ndata: {data}\n\n".encode())
        _cut(request)
        return stream

    async def _link(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        if self.jobs[job_id].status is not JobStatus.COMPLETED:
            return _problem(409, "conflict", "There is no object yet.")
        return web.json_response(
            {"url": f"{self.url}/objects/{job_id}?signed=yes", "expiresAt": "2026-01-02T03:19:05Z"}
        )

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(text="ready")

    async def _object(self, request: web.Request) -> web.StreamResponse:
        """The bucket: takes ranges, knows no API key, and now and then cuts the connection."""
        assert "Authorization" not in request.headers, "the key goes to the API and nowhere else"
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        headers = {"Content-Length": str(len(self.content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        stream = web.StreamResponse(status=206 if start else 200, headers=headers)
        await stream.prepare(request)
        if self.object_cuts:
            await stream.write(self.content[start : start + self.object_cuts.popleft()])
            # What was written must be on its way before the cut.
            await asyncio.sleep(0)
            _cut(request)
        await stream.write(self.content[start:])
        return stream


def _cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.close()
    raise ConnectionResetError("cut on purpose")


def _json(model: Any, status: int = 200) -> web.Response:
    return web.Response(text=model.model_dump_json(by_alias=True), status=status, content_type="application/json")


def _problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    problem = Problem(title=code, status=status, detail=detail, code=code, correlation_id="corr-of-answer")
    return web.Response(
        text=problem.model_dump_json(by_alias=True),
        status=status,
        headers=dict(headers or {}),
        content_type="application/problem+json",
    )


@asynccontextmanager
async def running_faulty_api() -> AsyncIterator[FaultyApi]:
    """Yield the API, listening on a free port of this machine."""
    api = FaultyApi()
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        yield api
    finally:
        await runner.cleanup()
