"""Of two schedulers the one that took the lead last writes, on each database."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_samples import ANN, OPERATOR, a_job, an_event, changed, one_of_each
from rival import contend

from rayhaul.job import Priority
from rayhaul.ledger.base import Batch, Deposed, LedgerConflict
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

RIVAL = Path(__file__).with_name("rival.py")
_PATIENCE_S = 60


@pytest.fixture
async def other(url: str, ledger: SqlLedger) -> AsyncIterator[SqlLedger]:
    """A second scheduler's ledger."""
    opened = open_ledger(LedgerSettings(), url)
    yield opened
    await opened.close()


async def test_each_leadership_is_one_more_than_the_last(url: str, ledger: SqlLedger, other: SqlLedger) -> None:
    """Epochs count on from one, whoever takes the lead and however often, over a restart too."""
    assert [await side.lead("host:1") for side in (ledger, other, other, ledger)] == [1, 2, 3, 4]
    again = open_ledger(LedgerSettings(), url)
    assert await again.lead("host:2") == 5
    await again.close()


async def test_who_takes_the_lead_at_once_gets_an_epoch_of_its_own(ledger: SqlLedger, other: SqlLedger) -> None:
    """Two that ask at the same time are two leaderships; the later one counts."""
    epochs = await asyncio.gather(*(side.lead("x") for side in (ledger, other) * 10))
    assert sorted(epochs) == list(range(1, 21))
    await ledger.confirm(20)
    with pytest.raises(Deposed):
        await ledger.confirm(19)


async def test_a_deposed_leader_writes_nothing(ledger: SqlLedger, other: SqlLedger) -> None:
    """From the moment the other one leads, whole batches of the old one are refused; the new one's stand."""
    mine = await ledger.lead("old")
    job = a_job()
    await ledger.commit(replace(one_of_each(job), leader_epoch=mine))
    await ledger.confirm(mine)
    theirs = await other.lead("new")
    state, seq = await ledger.state(), await ledger.last_seq()

    for batch in (
        one_of_each(a_job()),
        Batch(jobs_changed=[changed(job)], events=[an_event(job)]),
        Batch(paused=frozenset({Priority.LOW})),
    ):
        with pytest.raises(Deposed):
            await ledger.commit(replace(batch, leader_epoch=mine))
    with pytest.raises(Deposed):
        await ledger.confirm(mine)
    assert (await ledger.state(), await ledger.last_seq()) == (state, seq)

    moved = changed(job, attempt=1)
    await other.confirm(theirs)
    await other.commit(Batch(leader_epoch=theirs, jobs_changed=[moved], paused=frozenset({Priority.HIGH})))
    assert await ledger.job(ANN, job.id) == moved


async def test_deposed_comes_before_any_other_conflict(ledger: SqlLedger) -> None:
    """A deposed leader learns that it must stop for good, not that one batch of it was out of date."""
    mine = await ledger.lead("old")
    await ledger.commit(one_of_each(job := a_job()))
    await ledger.lead("new")
    with pytest.raises(Deposed):
        await ledger.commit(Batch(leader_epoch=mine, jobs_new=[job], jobs_changed=[replace(job, version=9)]))
    assert issubclass(Deposed, LedgerConflict)


@pytest.mark.parametrize("epoch", [0, 1, 2, -1])
async def test_a_leadership_that_never_was_is_none(ledger: SqlLedger, epoch: int) -> None:
    """An epoch the ledger never gave is refused: before the first one, or in a ledger put back from a backup."""
    with pytest.raises(Deposed):
        await ledger.commit(Batch(leader_epoch=epoch, jobs_new=[a_job()]))
    with pytest.raises(Deposed):
        await ledger.confirm(epoch)


async def test_without_an_epoch_nothing_is_checked(ledger: SqlLedger) -> None:
    """What is written before any scheduler runs, a first key say, needs no leader; nor does it depose one."""
    mine = await ledger.lead("x")
    await ledger.commit(Batch(jobs_new=[a_job()]))
    await ledger.commit(Batch(jobs_new=[a_job()], leader_epoch=mine))


async def in_order(ledger: SqlLedger) -> None:
    """Check that no event was written under a leadership after the first event of a later one."""
    events = [event for event in await ledger.events_after(OPERATOR, 0, limit=100_000) if "epoch" in event.payload]
    epochs = [event.payload["epoch"] for event in events]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 2
    assert {event.payload["name"] for event in events} == {"one", "two"}


async def test_no_commit_follows_a_deposition(ledger: SqlLedger, other: SqlLedger) -> None:
    """Two that depose each other while both commit in a loop: the epochs of what was written never go back."""
    deposed = 0
    async with asyncio.timeout(_PATIENCE_S):
        # A quick one may be through before the other has the database's lock at all: then they meet another time.
        while not deposed:
            deposed = sum(await asyncio.gather(contend(ledger, "one"), contend(other, "two")))
    await in_order(ledger)


def run_rivals(url: str) -> list[int]:
    """Let two processes contend; return how often each was deposed."""
    rivals = [
        subprocess.Popen([sys.executable, RIVAL, url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("x")
        rival.stdin.flush()
    deposed = [int(rival.communicate(timeout=_PATIENCE_S)[0]) for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0]
    return deposed


async def test_no_commit_follows_a_deposition_by_another_process(url: str, ledger: SqlLedger) -> None:
    """The same, of two processes."""
    deposed = 0
    async with asyncio.timeout(_PATIENCE_S):
        while not deposed:
            deposed = sum(await asyncio.to_thread(run_rivals, url))
    await in_order(ledger)
