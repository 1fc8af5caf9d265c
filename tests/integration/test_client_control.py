"""The client's operator methods over the real API and the small plane."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from control_scene import UNFIT, Scene, scene_of
from plane import listening, site_at

from rayhaul import AsyncClient, Client, Priority
from rayhaul.client.errors import AccessDenied, BadRequest, Conflict, ConnectionFailed, NotFound, ServiceFailed
from rayhaul.errors import Unavailable
from rayhaul.job import JobStatus
from rayhaul.ledger.base import Viewer


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with site_at(tmp_path) as site:
        yield await scene_of(site)


@pytest.fixture
async def url(scene: Scene) -> AsyncIterator[str]:
    async with listening(scene.site.app) as url:
        yield url


def key_of(scene: Scene, user: str) -> str:
    return scene.site.auth[user]["Authorization"].partition(" ")[2]


@pytest.fixture
async def alice(scene: Scene, url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, key_of(scene, "alice"), retries_max=0) as client:
        yield client


@pytest.fixture
async def olga(scene: Scene, url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, key_of(scene, "olga"), retries_max=0) as client:
        yield client


async def test_dead_letters(scene: Scene, alice: AsyncClient) -> None:
    """They are listed by pages or one after the other, replayed once, and deleted as often as one likes."""
    newer = await scene.site.submit("alice")
    buried = await scene.site.plane.bury(newer)
    page = await alice.dead_letters(limit=1)
    assert [(job.id, job.dead_lettered_at) for job in page.jobs] == [(newer, buried.dead_lettered_at)]
    rest = await alice.dead_letters(cursor=page.next_cursor)
    assert ([job.id for job in rest.jobs], rest.next_cursor) == ([scene.dead], None)
    assert [job.id async for job in alice.iter_dead_letters(page_size=1)] == [newer, scene.dead]
    assert (await alice.replay(newer)).status is JobStatus.QUEUED
    with pytest.raises(Conflict):
        await alice.replay(newer)
    for _ in range(2):
        assert (await alice.discard(scene.dead)).status is JobStatus.FAILED
    with pytest.raises(Conflict):
        await alice.discard(newer)
    assert (await alice.dead_letters()).jobs == []


async def test_the_queue(alice: AsyncClient, olga: AsyncClient) -> None:
    """A priority is held back and let go, named by the enum or its word."""
    assert (await olga.pause_queue(Priority.LOW)).paused == ["low"]
    assert (await olga.pause_queue("high")).paused == ["low", "high"]
    assert (await alice.queue()).paused == ["low", "high"]
    assert (await olga.resume_queue("low")).paused == ["high"]
    assert (await alice.queue()).parked is None
    with pytest.raises(BadRequest):
        await olga.pause_queue("urgent")  # type: ignore[arg-type]


async def test_the_agents(scene: Scene, olga: AsyncClient) -> None:
    """One agent or all, what it does for a job, and its drain."""
    assert [agent.unfit for agent in await olga.agents()] == [None, UNFIT]
    assert (await olga.agent("agent-2")).state == "unfit"
    status = await olga.agent_status("agent-1", scene.running)
    assert (status.job_id, [lease.stripe.first_part for lease in status.leases]) == (scene.running, [1, 11])
    assert (await olga.stop_job("agent-1", scene.running)).status is JobStatus.QUEUED
    with pytest.raises(NotFound):
        await olga.stop_job("agent-1", scene.running)
    assert (await olga.drain("agent-1")).state == "draining"
    for ask in (olga.agent("agent-9"), olga.drain("agent-9"), olga.agent_status("agent-9", scene.running)):
        with pytest.raises(NotFound):
            await ask


async def test_the_hosts(alice: AsyncClient, olga: AsyncClient) -> None:
    """Operators see all of them, a user those of its running jobs."""
    assert [(host.host, host.connections_max, host.jobs_waiting) for host in await olga.hosts()] == [
        ("busy.example:443", 32, 0),
        ("slow.example:8443", 2, 3),
    ]
    assert [host.host for host in await alice.hosts()] == ["busy.example:443"]


async def test_the_live_state(scene: Scene, olga: AsyncClient) -> None:
    """The job, its leases and its upload."""
    state = await olga.job_state(scene.running)
    assert (state.job.id, state.epoch, state.parts_done, len(state.leases)) == (scene.running, 7, 3, 3)
    assert state.session is not None
    assert state.session.upload_id == "upload-1"
    assert (await olga.job_state(scene.dead)).session is None


async def test_the_parts(scene: Scene, alice: AsyncClient) -> None:
    """Their owner sees who brought them, too."""
    parts = await alice.parts(scene.running)
    assert [(one.agent, one.numbers) for one in parts.brought] == [("agent-1", "1-2"), ("agent-2", "3")]
    assert (parts.parts_done, [one.agent for one in parts.to_come]) == (3, ["agent-1"])


async def test_users_are_no_operators(scene: Scene, alice: AsyncClient) -> None:
    """Each method that only operators may is refused as such."""
    for ask in (
        alice.pause_queue("low"),
        alice.resume_queue("low"),
        alice.agents(),
        alice.agent("agent-1"),
        alice.agent_status("agent-1", scene.running),
        alice.stop_job("agent-1", scene.running),
        alice.drain("agent-1"),
        alice.job_state(scene.running),
    ):
        with pytest.raises(AccessDenied):
            await ask


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.replay("../jobs/job_1"),
        lambda client: client.discard("a/b"),
        lambda client: client.agent(""),
        lambda client: client.agent_status("agent-1", "../../jobs"),
        lambda client: client.agent_status("..", "job_1"),
        lambda client: client.stop_job("a/../b", "job_1"),
        lambda client: client.stop_job("agent-1", "a b"),
        lambda client: client.drain("agent?x"),
        lambda client: client.job_state("a/b"),
    ],
)
async def test_names_do_not_steer(ask: Callable[[AsyncClient], Awaitable[object]]) -> None:
    """What can be no id is not found, and nobody is asked: here nobody listens."""
    async with AsyncClient("http://127.0.0.1:1", "key", retries_max=0) as client:
        with pytest.raises(NotFound):
            await ask(client)


async def test_a_replay_is_not_repeated(scene: Scene, url: str) -> None:
    """A replay that may have been carried out is not sent again: the second would be refused; a delete is."""
    asked = {"replay": 0, "discard": 0}
    plane = scene.site.plane

    async def replay(job_id: str) -> object:
        asked["replay"] += 1
        raise Unavailable

    async def discard(job_id: str) -> object:
        asked["discard"] += 1
        found = await plane.discard(job_id)
        if asked["discard"] == 1:
            # Carried out, and the answer was lost.
            raise Unavailable
        return found

    scene.site.plane_seam.instead |= {"replay": replay, "discard": discard}
    async with AsyncClient(url, key_of(scene, "alice")) as client:
        with pytest.raises(ServiceFailed):
            await client.replay(scene.dead)
        assert (await client.discard(scene.dead)).status is JobStatus.FAILED
    assert asked == {"replay": 1, "discard": 2}


async def test_the_blocking_client(scene: Scene, url: str) -> None:
    """It does the same: here each of its methods once."""

    def work() -> None:
        with Client(url, key_of(scene, "olga")) as client:
            assert [job.id for job in client.iter_dead_letters(page_size=1)] == [scene.dead]
            assert [job.id for job in client.dead_letters().jobs] == [scene.dead]
            assert client.job_state(scene.running).epoch == 7
            assert client.parts(scene.running).parts_done == 3
            assert client.agent("agent-1").leases == 2
            assert len(client.agent_status("agent-1", scene.running).leases) == 2
            assert client.stop_job("agent-1", scene.running).id == scene.running
            assert client.drain("agent-1").state == "draining"
            assert client.pause_queue("low").paused == ["low"]
            assert client.resume_queue("low").paused == []
            assert client.replay(scene.dead).status is JobStatus.QUEUED
            with pytest.raises(Conflict):
                client.discard(scene.dead)

    await asyncio.to_thread(work)
    assert (await scene.site.ledger.job(Viewer("alice"), scene.dead)).status is JobStatus.QUEUED


async def test_nobody_there() -> None:
    """Where nobody listens that is said, with an operator's methods too."""
    async with AsyncClient("http://127.0.0.1:1", "key", retries_max=0) as client:
        with pytest.raises(ConnectionFailed):
            await client.pause_queue("low")
