"""The scheduler as another process sees it: what crosses is pickled, and errors are raised where they arrive."""

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from control_rig import Rig, rig_with, spec

from actors.crossing import as_value
from actors.ports import Accepted, Command, Submission
from actors.remote import RemoteScheduler
from rayhaul.errors import IdempotencyMismatch, NotFound
from rayhaul.job import JobStatus, Priority
from rayhaul.ledger.base import Viewer


@asynccontextmanager
async def _reached(rig: Rig) -> AsyncIterator[RemoteScheduler]:
    async def carry(verb: str, *arguments: Any, **options: Any) -> Any:
        arguments, options = pickle.loads(pickle.dumps((arguments, options)))
        return pickle.loads(pickle.dumps(await as_value(getattr(rig.scheduler, verb)(*arguments, **options))))

    await rig.begin(1)
    turning = asyncio.create_task(rig.scheduler.run())
    try:
        async with asyncio.timeout(30):
            yield RemoteScheduler(carry)
    finally:
        await rig.scheduler.stop()
        await turning


def _submission(fingerprint: str | None = None) -> Submission:
    idempotency = None if fingerprint is None else ("key", fingerprint)
    return Submission(user_id="alice", correlation_id="correlation", specs=(spec(),), idempotency=idempotency)


async def test_verbs_cross_and_errors_are_raised() -> None:
    """What is asked in another process is done here, and a refusal is the same error there."""
    async with rig_with() as rig, _reached(rig) as remote:
        (job_id,) = (await remote.submit(_submission())).job_ids
        assert (await remote.command(Viewer("alice"), job_id, Command.CANCEL)).status is JobStatus.CANCELLED
        assert (await remote.set_paused(Priority.LOW, paused=True)).paused == [Priority.LOW]
        assert [view.agent for view in await remote.agents()] == ["agent-1"]
        assert await remote.ready()
        with pytest.raises(NotFound):
            await remote.command(Viewer("bob"), job_id, Command.CANCEL)


async def test_submissions_that_cross_together_fail_alone() -> None:
    """Of submissions that are gathered, one that is refused takes no other with it."""
    async with rig_with() as rig, _reached(rig) as remote:
        first = await remote.submit(_submission("one"))
        again, refused, other = await asyncio.gather(
            *(remote.submit(_submission(fingerprint)) for fingerprint in ("one", "two", None)), return_exceptions=True
        )
        assert isinstance(again, Accepted)
        assert (again.job_ids, again.replayed) == (first.job_ids, True)
        assert isinstance(refused, IdempotencyMismatch)
        assert isinstance(other, Accepted)
        assert other.job_ids != first.job_ids
