"""Quotas in the control plane: at submission, when the size is known, while it streams; they outlive the scheduler."""

from typing import Any

import pytest
from control_rig import Rig, rig_with

from rayhaul.errors import QuotaExceeded, SourceFailed
from rayhaul.job import JobStatus

LIMIT = {"bytes_per_day_max": 1000}
DAY_S = 86_400


async def found(rig: Rig, user: str = "alice", **metadata: Any) -> str:
    """Let a job's metadata be found; return its id."""
    (job_id,) = await rig.submit(user=user)
    await rig.tick()
    for agent in rig.pool.lives.values():
        for order in agent.probes:
            agent.tell_found(order, **metadata)
    await rig.beat()
    await rig.beat()
    return job_id


async def code_of(rig: Rig, job_id: str) -> str | None:
    job = await rig.job(job_id)
    return None if job.error is None else job.error.code


async def test_a_size_that_is_announced_counts_at_once() -> None:
    """600 of 1000 bytes are taken; 600 more fail with the header, 400 more fit; Bob has a day of his own."""
    async with rig_with(quota=LIMIT) as rig:
        await rig.begin(1)
        first = await found(rig, size_bytes=600)
        second = await found(rig, size_bytes=600)
        assert (await rig.status(second), await code_of(rig, second)) == (JobStatus.FAILED, "quota_exceeded")
        assert await rig.status(first) is JobStatus.DOWNLOADING
        assert await rig.dead() == [], "nobody has to look into it"
        assert await rig.status(await found(rig, size_bytes=400)) is JobStatus.DOWNLOADING
        assert await rig.status(await found(rig, "bob", size_bytes=600)) is JobStatus.DOWNLOADING


async def test_a_used_up_day_is_told_at_submission() -> None:
    """With nothing left a job is refused, with the time until midnight; the next day it is taken."""
    async with rig_with(quota=LIMIT) as rig:
        await rig.begin(1)
        await found(rig, size_bytes=1000)
        with pytest.raises(QuotaExceeded, match="0 of 1000") as refused:
            await rig.submit()
        assert refused.value.http_status == 429
        await rig.submit(user="bob")
        rig.clock.now_s += DAY_S
        await rig.beat()
        assert await rig.status(await found(rig, size_bytes=1000)) is not JobStatus.FAILED


async def test_the_day_outlives_the_scheduler() -> None:
    """What was used stands in the ledger: another scheduler goes on counting."""
    async with rig_with(quota=LIMIT) as rig:
        await rig.begin(1)
        await found(rig, size_bytes=700)
        await rig.restart()
        await rig.beat()
        late = await found(rig, size_bytes=301)
        assert await code_of(rig, late) == "quota_exceeded"
        assert await rig.status(await found(rig, size_bytes=300)) is not JobStatus.FAILED


async def test_a_stream_without_a_length_is_cut_off() -> None:
    """Its parts are counted as they come: when they are too many the job fails, its upload goes, its lease ends."""
    async with rig_with(quota=LIMIT) as rig:
        (agent,) = await rig.begin(1)
        job_id = await found(rig, size_bytes=None, rangeable=False)
        order = agent.order_of(job_id)
        agent.tell_opened(order, session_id="session_1", part_bytes=300, size_bytes=None)
        await rig.beat()
        for number in (1, 2, 3, 3):
            agent.tell_parts(order, "session_1", number)
            await rig.beat()
            assert await rig.status(job_id) is JobStatus.DOWNLOADING, "parts told of twice count once"
        agent.tell_parts(order, "session_1", 4)
        await rig.beat()
        assert (await rig.status(job_id), await code_of(rig, job_id)) == (JobStatus.FAILED, "quota_exceeded")
        await rig.live(2)
        assert agent.transfers == []
        assert [abort.upload_id for abort in agent.aborts]
        with pytest.raises(QuotaExceeded):
            await rig.submit()


async def test_a_stream_that_ends_counts_what_it_had() -> None:
    """Without a length the result's size is counted, once; with one it was counted before."""
    async with rig_with(quota=LIMIT) as rig:
        (agent,) = await rig.begin(1)
        for size_bytes, counted in ((None, 250), (300, 550)):
            job_id = await found(rig, size_bytes=size_bytes, rangeable=size_bytes is not None)
            agent.tell_done(agent.order_of(job_id), size_bytes=size_bytes or 250)
            await rig.beat()
            assert await rig.status(job_id) is JobStatus.COMPLETED
            assert rig.book.usage["alice"].bytes_used == counted


async def test_what_is_moved_again_for_a_failure_that_passes_is_not_counted_again() -> None:
    """An attempt that goes on with the same file costs nothing."""
    async with rig_with(quota=LIMIT) as rig:
        (agent,) = await rig.begin(1)
        job_id = await found(rig, size_bytes=900)
        agent.tell_failed(agent.order_of(job_id), SourceFailed().failure())
        await rig.live(5)
        assert (await rig.job(job_id)).attempt == 2
        assert rig.book.usage["alice"].bytes_used == 900
