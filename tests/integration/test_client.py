"""The client against an API that cuts, repeats, refuses and forgets."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faulty_api import COMPLETES, CONTENT, FAILS, IS_CANCELLED, Fault, FaultyApi, running_faulty_api

import rayhaul
from rayhaul import AsyncClient, Client, ConnectionFailed, JobCancelled, JobFailed, WaitTimeout
from rayhaul.client.errors import AccessDenied, ApiError, BadRequest, NotFound, ServiceFailed
from rayhaul.job import JobEvent, JobStatus
from rayhaul.wire import EventView

KEPT = [event for event, _, _ in COMPLETES if event is not JobEvent.PROGRESS]


@pytest.fixture
async def api() -> AsyncIterator[FaultyApi]:
    async with running_faulty_api() as api:
        yield api


@pytest.fixture
async def client(api: FaultyApi) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api.url, api.key, timeout_s=5, reconnect_s_max=20) as client:
        yield client


@pytest.fixture
def blocking(api: FaultyApi) -> Iterator[Client]:
    """A blocking client; the tests call it from another thread, for the API runs in this one's loop."""
    with Client(api.url, api.key, timeout_s=5, reconnect_s_max=20) as client:
        yield client


BUSY = Fault(503, {"Retry-After": "0"})


@pytest.mark.parametrize(
    ("faults", "requests_count"),
    [
        ([], 1),
        ([BUSY], 2),
        ([Fault(502), Fault(504)], 3),
        ([Fault(429, {"Retry-After": "0"}, "rate_limited")], 2),
        ([Fault(after=True)], 2),
        ([Fault(after=True), BUSY, Fault(after=True), BUSY], 5),
    ],
)
async def test_submit_is_sent_again(
    api: FaultyApi, client: AsyncClient, faults: list[Fault], requests_count: int
) -> None:
    """Refusals that pass and lost answers end in one job: each try carries the same key and correlation id."""
    api.faults["POST /jobs"] = deque(faults)
    job = await client.submit("https://files.example/data.bin", priority="high", correlation_id="corr-mine")
    assert list(api.jobs) == [job.id]
    sent = api.asked("POST /jobs")
    assert len(sent) == requests_count
    assert len({headers["Idempotency-Key"] for headers in sent}) == 1
    assert {headers["X-Correlation-ID"] for headers in sent} == {"corr-mine"}


@pytest.mark.parametrize(
    ("fault", "kind", "requests_count"),
    [
        (Fault(500), ServiceFailed, 1),
        (Fault(422, code="egress_denied"), BadRequest, 1),
        (Fault(429, {"Retry-After": "1"}, "quota_exceeded"), ApiError, 1),
        (BUSY, ServiceFailed, 3),
        (Fault(after=True), ConnectionFailed, 3),
    ],
)
async def test_retries_end(api: FaultyApi, fault: Fault, kind: type[Exception], requests_count: int) -> None:
    """What does not pass is not tried again, and what may pass only so often."""
    api.faults["POST /jobs"] = deque([fault] * 10)
    async with AsyncClient(api.url, api.key, retries_max=2) as client:
        with pytest.raises(kind) as failed:
            await client.submit("https://files.example/data.bin")
    assert len(api.asked("POST /jobs")) == requests_count
    if isinstance(failed.value, ApiError):
        assert (failed.value.code, failed.value.status) == (fault.code, fault.status)
        assert failed.value.correlation_id == "corr-of-answer"


async def test_own_idempotency_key(api: FaultyApi, client: AsyncClient) -> None:
    """A caller's own key is used: the same call gives the same job, another body is refused."""
    first = await client.submit("https://files.example/a", idempotency_key="mine")
    assert (await client.submit("https://files.example/a", idempotency_key="mine")).id == first.id
    with pytest.raises(BadRequest) as refused:
        await client.submit("https://files.example/b", idempotency_key="mine")
    assert refused.value.code == "idempotency_mismatch"


async def test_steering_is_not_repeated(api: FaultyApi, client: AsyncClient) -> None:
    """A pause whose answer is lost is not sent twice: the second would be refused, and say that the first failed."""
    job = api.add()
    api.faults[f"POST /jobs/{job.id}/pause"] = deque([Fault(after=True)])
    with pytest.raises(ConnectionFailed, match="the connection was cut"):
        await client.pause(job.id)
    assert len(api.asked(f"POST /jobs/{job.id}/pause")) == 1
    assert (await client.pause(job.id)).id == job.id


async def test_submit_many(api: FaultyApi, client: AsyncClient) -> None:
    """Many jobs go in batches, in order, each once, though answers are lost; the same key submits nothing twice."""

    async def urls() -> AsyncIterator[str | dict[str, str]]:
        for index in range(5):
            yield f"https://files.example/{index}" if index % 2 else {"url": f"https://files.example/{index}"}

    api.faults["POST /jobs/batch"] = deque([None, Fault(after=True), BUSY])
    accepted = await client.submit_many(urls(), batch_size=2, idempotency_key="list")
    assert [api.jobs[job_id].url for job_id in accepted] == [f"https://files.example/{index}" for index in range(5)]
    assert await client.submit_many(urls(), batch_size=2, idempotency_key="list") == accepted
    assert len(api.jobs) == 5
    keys = {headers["Idempotency-Key"] for headers in api.asked("POST /jobs/batch")}
    assert keys == {"list-0", "list-1", "list-2"}


@pytest.mark.parametrize(
    "cuts", [[], [0], [1], [2, 1], [3, 1, 1], [0, 0, 0], [6], [1, 1, 1]], ids=lambda cuts: f"cut{cuts}"
)
@pytest.mark.parametrize("repeats", [False, True])
async def test_events_without_gap_or_repeat(
    api: FaultyApi, client: AsyncClient, cuts: list[int], *, repeats: bool
) -> None:
    """However often the stream is cut, and whatever the server sends twice, each event comes once and in order."""
    job = api.add(cuts=deque(cuts), repeats=repeats)
    heard = [event async for event in client.events(job.id)]
    assert [event.event for event in heard if event.seq is not None] == KEPT
    asked = api.asked(f"GET /jobs/{job.id}/events")
    assert len(asked) == len(cuts) + 1
    assert "Last-Event-ID" not in asked[0]


async def test_events_after_a_failure(api: FaultyApi, client: AsyncClient) -> None:
    """The last event of a failed job is not its failure: what follows is heard too, even across a cut."""
    job = api.add(script=FAILS, cuts=deque([2]))
    heard = [event async for event in client.events(job.id)]
    assert [event.event for event in heard] == [JobEvent.CREATED, JobEvent.FAILED, JobEvent.DEADLETTERED]


async def test_events_when_the_server_often_ends_the_stream(api: FaultyApi, client: AsyncClient) -> None:
    """A stream that ends in good order before the job does is taken up again."""
    job = api.add(ends_often=True)
    assert [event.event async for event in client.events(job.id) if event.seq is not None] == KEPT


@pytest.mark.parametrize("last", [None, 0, 1001, "1002", 1005])
async def test_events_from_somewhere(api: FaultyApi, client: AsyncClient, last: int | str | None) -> None:
    """With the number of an event only later ones come; after the last one, none, and the stream ends."""
    job = api.add(done=len(COMPLETES))
    heard = [event.seq async for event in client.events(job.id, last) if event.seq is not None]
    assert heard == [seq for seq in (1000, 1001, 1002, 1004, 1005) if seq > int(last or 0)]


async def test_events_give_up(api: FaultyApi) -> None:
    """A server that is gone for good ends the stream with an error, once patience is over."""
    job = api.add()
    api.faults[f"GET /jobs/{job.id}/events"] = deque([Fault()] * 1000)
    async with AsyncClient(api.url, api.key, reconnect_s_max=0.3) as client:
        with pytest.raises(ServiceFailed):
            await anext(client.events(job.id))
    assert len(api.asked(f"GET /jobs/{job.id}/events")) > 1


async def test_events_of_nothing(client: AsyncClient) -> None:
    """A job that does not exist is no reason to go on asking."""
    with pytest.raises(NotFound):
        await anext(client.events("job_none"))


@pytest.mark.parametrize("cuts", [[], [1, 1], [0]])
async def test_wait(api: FaultyApi, client: AsyncClient, cuts: list[int]) -> None:
    """Waiting returns the completed job and tells each event once, cuts or not."""
    heard: list[EventView] = []
    job = api.add(cuts=deque(cuts))
    done = await client.wait(job.id, timeout_s=20, on_event=heard.append)
    assert done.status is JobStatus.COMPLETED
    assert done.result is not None
    assert [event.event for event in heard if event.seq is not None] == KEPT


async def test_wait_for_what_failed(api: FaultyApi, client: AsyncClient) -> None:
    """A failed job is an error with its code and its message."""
    with pytest.raises(JobFailed) as failed:
        await client.wait(api.add(script=FAILS).id)
    assert (failed.value.code, failed.value.message) == ("source_not_found", "The source has no such file.")
    assert failed.value.job.status is JobStatus.FAILED


async def test_wait_for_what_was_cancelled(api: FaultyApi, client: AsyncClient) -> None:
    """A cancelled job is an error of its own."""
    with pytest.raises(JobCancelled):
        await client.wait(api.add(script=IS_CANCELLED).id)


async def test_wait_without_a_stream(api: FaultyApi, client: AsyncClient) -> None:
    """Where events do not come through, asking now and then is enough."""
    job = api.add(done=1)
    refused = f"GET /jobs/{job.id}/events"

    class EndsJob(deque[Fault | None]):
        """Refuses every stream; at the third the job is done."""

        def popleft(self) -> Fault | None:
            if len(api.asked(refused)) == 3:
                job.done = len(job.script)
            return Fault(404, code="not_found")

    api.faults[refused] = EndsJob([None])
    assert (await client.wait(job.id, timeout_s=20)).status is JobStatus.COMPLETED
    assert len(api.asked(refused)) == 3


async def test_wait_in_time_only(api: FaultyApi, client: AsyncClient) -> None:
    """A wait ends after its time, with an error of its own; the job goes on."""
    job = api.add(script=COMPLETES[:3], done=3)
    with pytest.raises(WaitTimeout, match="goes on"):
        await client.wait(job.id, timeout_s=0.2)


async def test_listing(api: FaultyApi, client: AsyncClient) -> None:
    """Pages are walked to the end, newest first."""
    made = [api.add().id for _ in range(5)]
    assert [job.id async for job in client.iter_jobs(page_size=2)] == made[::-1]
    page = await client.list(limit=3)
    assert ([job.id for job in page.jobs], page.next_cursor) == (made[:1:-1], made[2])
    assert (await client.list(status="completed")).jobs == []
    assert (await client.get(made[0])).id == made[0]


async def test_steering(api: FaultyApi, client: AsyncClient) -> None:
    """A cancelled job comes back as such; its history is there."""
    job = api.add()
    assert (await client.cancel(job.id)).status is JobStatus.CANCELLED
    assert (await client.history(job.id))[-1].event == JobEvent.CANCELLED


@pytest.mark.parametrize("job_id", ["", "..", "a/b", "job_1?x", "job 1", "x" * 200])
async def test_ids_do_not_steer(api: FaultyApi, client: AsyncClient, job_id: str) -> None:
    """What can be no id is not found, and no other route is asked instead."""
    with pytest.raises(NotFound):
        await client.cancel(job_id)
    assert api.requests == []


async def test_wrong_key(api: FaultyApi) -> None:
    """A wrong key is told at once; whether the cluster is ready can be asked without one."""
    async with AsyncClient(api.url, "bad-key") as client:
        assert await client.ready()
        with pytest.raises(AccessDenied):
            await client.get("job_0001")
    assert [headers.get("Authorization") for _, headers in api.requests] == [None, "Bearer bad-key"]


async def test_not_ready(api: FaultyApi, client: AsyncClient) -> None:
    """A cluster that is not ready says so at once."""
    api.faults["GET /readyz"] = deque([Fault()])
    assert not await client.ready()


async def test_nobody_there() -> None:
    """Where nobody listens the error says where and why."""
    async with AsyncClient("http://127.0.0.1:1", "key", retries_max=1) as client:
        with pytest.raises(ConnectionFailed, match=r"cannot reach http://127.0.0.1:1: connection refused"):
            await client.get("job_0001")


@pytest.mark.parametrize("fault", [Fault(302, {"Location": "https://elsewhere.example/"}), Fault(200)])
async def test_somebody_else_there(api: FaultyApi, client: AsyncClient, fault: Fault) -> None:
    """A server that is not Rayhaul is told apart from one; a redirect is not followed with the key."""
    api.faults["GET /jobs/job_0001"] = deque([fault])
    with pytest.raises(ConnectionFailed, match=r"sends us on to https://elsewhere|does not answer as Rayhaul"):
        await client.get("job_0001")


async def test_blocking_client(api: FaultyApi, blocking: Client, tmp_path: Path) -> None:
    """The blocking client does the same: submit, follow, wait, save, list."""

    def work() -> None:
        job = blocking.submit("https://files.example/data.bin")
        assert [event.event for event in blocking.events(job.id) if event.seq is not None] == KEPT
        assert blocking.wait(job.id, timeout_s=20).result is not None
        assert blocking.download(job.id, tmp_path / "file.bin").read_bytes() == CONTENT
        assert (
            blocking.submit_many((f"https://files.example/{n}" for n in range(3)), batch_size=2) == sorted(api.jobs)[1:]
        )
        assert [found.id for found in blocking.iter_jobs(page_size=2)] == sorted(api.jobs, reverse=True)
        assert len(api.asked("POST /jobs/batch")) == 2
        with pytest.raises(NotFound):
            blocking.get("job_none")

    await asyncio.to_thread(work)


async def test_blocking_client_takes_its_own_output(api: FaultyApi, blocking: Client) -> None:
    """A source of jobs may itself ask the client: it is read in the caller's thread."""
    api.add("https://files.example/a")
    made = await asyncio.to_thread(lambda: blocking.submit_many(job.url + "2" for job in blocking.iter_jobs()))
    assert api.jobs[made[0]].url == "https://files.example/a2"


async def test_blocking_iterator_left_early(api: FaultyApi, blocking: Client) -> None:
    """A loop over events may be left; the client goes on working, and its end is clean."""
    job = api.add()

    def work() -> str:
        for event in blocking.events(job.id):
            return f"{event.event} {blocking.get(job.id).id}"
        return "nothing"

    assert await asyncio.to_thread(work) == f"created {job.id}"


async def test_blocking_client_inside_a_loop() -> None:
    """It works where a loop runs already, as in a notebook: this very test is inside one."""
    with Client("http://127.0.0.1:1", "key", retries_max=0) as client, pytest.raises(ConnectionFailed):
        client.get("job_0001")


def test_blocking_client_cleans_up() -> None:
    """The thread goes with `close`, twice or not, or else with the object."""

    def threads() -> int:
        return sum(thread.name == "rayhaul-client" for thread in threading.enumerate())

    client = Client("http://127.0.0.1:1", "key", retries_max=0)
    assert threads() == 1
    client.close()
    client.close()
    assert threads() == 0
    with pytest.raises(RuntimeError, match="closed"):
        client.get("job_0001")
    client = Client("http://127.0.0.1:1", "key", retries_max=0)
    with pytest.raises(ConnectionFailed):
        client.get("job_0001")
    del client
    gc.collect()
    assert threads() == 0


def test_blocking_client_left_open_at_exit() -> None:
    """A script that never closes its client ends in silence."""
    script = (
        "from rayhaul import Client, ConnectionFailed\n"
        "client = Client('http://127.0.0.1:1', 'key', retries_max=0)\n"
        "try: client.get('job_0001')\n"
        "except ConnectionFailed: print('refused')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("refused\n", "", 0)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import rayhaul, rayhaul.job", "ray aiohttp pydantic rayhaul.client importlib.metadata"),
        (
            "import rayhaul; rayhaul.Client, rayhaul.AsyncClient, rayhaul.__version__",
            "ray fastapi boto3 httpx sqlalchemy",
        ),
        ("import rayhaul.cli.main", "ray aiohttp fastapi boto3 httpx sqlalchemy serve_app actors tasks"),
        ("import rayhaul.client.endpoint", "ray aiohttp"),
    ],
)
def test_imports(statement: str, absent: str) -> None:
    """What is imported is no more than what is asked for, and never Ray."""
    script = f"import sys; {statement}; print(*[name for name in {absent.split()} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ("", "", 0)


def test_names() -> None:
    """Everything that is promised can be had, and nothing else."""
    assert all(getattr(rayhaul, name) for name in rayhaul.__all__)
    assert set(rayhaul.__all__) <= set(dir(rayhaul))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        rayhaul.nothing_of_the_kind  # noqa: B018 - the access is the test
