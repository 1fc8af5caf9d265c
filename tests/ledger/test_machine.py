"""The ledger against a model of plain dicts and lists: any run of commits, refusals and restarts, on each database."""

import asyncio
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from ledger_samples import (
    ANN,
    BOB,
    NOW,
    OPERATOR,
    a_job,
    a_lease,
    a_part,
    a_record,
    a_session,
    an_event,
    changed,
)

from rayhaul.job import EventRecord, Job, JobStatus, Priority
from rayhaul.lease import Lease, PartDone, SessionState, UploadSession
from rayhaul.ledger.base import Batch, Deposed, IdempotencyRecord, JobFilter, LedgerConflict, LedgerState, Viewer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.metrics import Labels
from rayhaul.settings import LedgerSettings

VIEWERS = (ANN, BOB, OPERATOR)
STATUSES = st.sampled_from(JobStatus)
TAGS = st.dictionaries(st.sampled_from(["team", "tier"]), st.sampled_from(["a", "b"]))
COUNTERS = st.sampled_from([("a_total", ()), ("b_total", ("x", 'an "odd", one')), ("b_total", ("x", ""))])
KEYS = st.sampled_from(["key-1", "key-2", "key-3"])


@dataclass
class Model:
    """What the ledger should hold, in the simplest form."""

    jobs: dict[str, Job] = field(default_factory=dict)
    events: list[EventRecord] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    sessions: dict[str, UploadSession] = field(default_factory=dict)
    parts: dict[tuple[str, int], PartDone] = field(default_factory=dict)
    spent: dict[tuple[str, str], IdempotencyRecord] = field(default_factory=dict)
    paused: frozenset[Priority] = frozenset()
    counts: Counter[tuple[str, Labels]] = field(default_factory=Counter)
    #: Leaderships so far; the last one counts.
    epoch: int = 0

    def after(self, batch: Batch) -> "Model":
        """Return the model with the batch in it. Raises: LedgerConflict."""
        if not batch.is_empty:
            self.check_leader(batch)
        model = deepcopy(self)
        for job in batch.jobs_new:
            model.put_new(model.jobs, job.id, job)
        for job in batch.jobs_changed:
            if job.id not in model.jobs or model.jobs[job.id].version != job.version - 1:
                raise LedgerConflict
            model.jobs[job.id] = replace(job, spec=model.jobs[job.id].spec)
        model.sessions.update({session.session_id: session for session in batch.sessions})
        model.parts.update({(part.session_id, part.number): part for part in batch.parts})
        model.take_leases(batch)
        model.events.extend(batch.events)
        for record in batch.idempotency:
            model.put_new(model.spent, (record.user_id, record.key), record)
        if batch.paused is not None:
            model.paused = batch.paused
        model.counts.update(batch.counts)
        return model

    def take_leases(self, batch: Batch) -> None:
        for lease in batch.leases_granted:
            self.put_new(self.leases, lease.lease_id, lease)
        for lease in batch.leases_trimmed:
            if lease.lease_id in self.leases:
                self.leases[lease.lease_id] = replace(self.leases[lease.lease_id], end_part=lease.end_part)
        for lease_id in batch.leases_ended:
            self.leases.pop(lease_id, None)

    def check_leader(self, batch: Batch) -> None:
        if batch.leader_epoch is not None and (self.epoch == 0 or batch.leader_epoch != self.epoch):
            raise Deposed

    @staticmethod
    def put_new(table: dict[Any, Any], key: object, value: object) -> None:
        if key in table:
            raise LedgerConflict
        table[key] = value

    def seen_by(self, viewer: Viewer) -> list[Job]:
        mine = [job for job in self.jobs.values() if viewer.sees_all or job.user_id == viewer.user_id]
        return sorted(mine, key=lambda job: job.id, reverse=True)

    def state(self) -> LedgerState:
        live = (SessionState.OPEN, SessionState.ABORTING)
        return LedgerState(
            open_jobs=sorted((job for job in self.jobs.values() if not job.is_final), key=lambda job: job.id),
            leases=[self.leases[lease_id] for lease_id in sorted(self.leases)],
            sessions=[self.sessions[key] for key in sorted(self.sessions) if self.sessions[key].state in live],
            parts=self.recorded(),
            dead_letters_count=sum(job.dead_lettered_at is not None for job in self.jobs.values()),
            paused=self.paused,
            totals=Counter(job.status for job in self.jobs.values()),
            counts=dict(self.counts),
        )

    def recorded(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for session_id, number in sorted(self.parts):
            if self.sessions[session_id].state is SessionState.OPEN:
                found.setdefault(session_id, []).append(number)
        return found


class LedgerMachine(RuleBasedStateMachine):
    take_url: Callable[[], str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        #: Everything a listener has read so far, and where it goes on.
        self.heard: list[EventRecord] = []

    @initialize()
    def begin(self) -> None:
        self.url = type(self).take_url()
        self.ledger: SqlLedger = open_ledger(LedgerSettings(pool_max=1), self.url)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.runner.run(self.ledger.close())
        self.runner.close()

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Commit a batch of many kinds; now and then one that must be refused."""
        batch = self.draw_batch(data)
        try:
            model = self.model.after(batch)
        except LedgerConflict as conflict:
            self.expect(type(conflict), batch)
            return
        self.runner.run(self.ledger.commit(batch))
        self.model = model

    @rule(data=st.data())
    def repeat_something(self, data: st.DataObject) -> None:
        """A row that is there already, or a change made twice, takes its whole batch with it."""
        if not self.model.jobs:
            return
        job = data.draw(st.sampled_from(sorted(self.model.jobs.values(), key=lambda job: job.id)))
        again = data.draw(
            st.sampled_from(
                [
                    Batch(jobs_new=[a_job(), job]),
                    Batch(jobs_new=[a_job(BOB)], jobs_changed=[job], events=[an_event(job)]),
                    Batch(jobs_changed=[replace(job, version=job.version + 2)], sessions=[a_session(job)]),
                    Batch(jobs_new=[a_job()], leases_granted=[a_lease(job), *list(self.model.leases.values())[:1]] * 2),
                ]
            )
        )
        epoch = data.draw(st.sampled_from([None, self.model.epoch - 1, self.model.epoch]))
        deposed = epoch is not None and (self.model.epoch == 0 or epoch != self.model.epoch)
        self.expect(Deposed if deposed else LedgerConflict, replace(again, leader_epoch=epoch))

    def expect(self, refusal: type[LedgerConflict], batch: Batch) -> None:
        with pytest.raises(LedgerConflict) as refused:
            self.runner.run(self.ledger.commit(batch))
        assert refused.type is refusal

    @rule(is_other=st.booleans())
    def take_the_lead(self, *, is_other: bool) -> None:
        """We do, or somebody with a ledger of its own; who led so far is deposed."""
        ledger = open_ledger(LedgerSettings(pool_max=1), self.url) if is_other else self.ledger
        self.model.epoch += 1
        assert self.runner.run(ledger.lead("somebody")) == self.model.epoch
        if is_other:
            self.runner.run(ledger.close())

    def draw_batch(self, data: st.DataObject) -> Batch:
        draw = data.draw
        new = [
            a_job(draw(st.sampled_from((ANN, BOB))), tags=draw(TAGS), status=draw(STATUSES))
            for _ in range(draw(st.integers(0, 3)))
        ]
        known = sorted(self.model.jobs.values(), key=lambda job: job.id)
        chosen = draw(st.lists(st.sampled_from(known), max_size=3, unique_by=lambda job: job.id)) if known else []
        moved = [
            changed(job, status=draw(STATUSES), dead_lettered_at=draw(st.sampled_from((None, NOW)))) for job in chosen
        ]
        leases = sorted(self.model.leases)
        sessions = [a_session(job, state=draw(st.sampled_from(SessionState))) for job in new[:1] + chosen[:1]]
        ours = sorted(self.model.sessions.values(), key=lambda session: session.session_id)
        if ours:
            old = draw(st.sampled_from(ours))
            if old.session_id not in {session.session_id for session in sessions}:
                sessions.append(replace(old, state=draw(st.sampled_from(SessionState))))
        numbers = draw(st.lists(st.integers(1, 5), max_size=3, unique=True))
        crc = st.none() | st.integers(0, (1 << 64) - 1)
        return Batch(
            jobs_new=new,
            jobs_changed=moved,
            events=[an_event(job) for job in [*new, *moved]],
            leases_granted=[a_lease(job, epoch=job.version) for job in moved],
            leases_trimmed=[
                replace(self.model.leases[lease_id], end_part=draw(st.integers(1, 4)))
                for lease_id in (draw(st.lists(st.sampled_from(leases), max_size=2, unique=True)) if leases else [])
            ],
            leases_ended=draw(st.lists(st.sampled_from(leases), max_size=2)) if leases else [],
            sessions=sessions,
            parts=[a_part(session, number, crc64nvme=draw(crc)) for session in sessions for number in numbers],
            idempotency=[a_record(ANN, draw(KEYS), *new)] if draw(st.integers(0, 3)) == 0 else [],
            paused=draw(st.none() | st.frozensets(st.sampled_from(Priority))),
            counts=draw(st.dictionaries(COUNTERS, st.integers(1, 1 << 40), max_size=3)),
            leader_epoch=draw(st.sampled_from([None, *[self.model.epoch or None] * 4, self.model.epoch - 1])),
        )

    @rule()
    def restart(self) -> None:
        """Close and open again: nothing lives in memory alone."""
        self.runner.run(self.ledger.close())
        self.ledger = open_ledger(LedgerSettings(pool_max=1), self.url)

    @rule()
    def forget_all_keys(self) -> None:
        deleted = self.runner.run(self.ledger.forget_spent(NOW + timedelta(milliseconds=1)))
        assert deleted == len(self.model.spent)
        self.model.spent.clear()

    @invariant()
    def reads_agree(self) -> None:
        if hasattr(self, "ledger"):
            self.runner.run(self.compare())

    async def compare(self) -> None:
        assert await self.ledger.state() == self.model.state()
        for viewer in VIEWERS:
            mine = self.model.seen_by(viewer)
            assert await self.ledger.jobs(viewer, JobFilter(limit=1000)) == mine
            tagged = [job for job in mine if job.spec.tags.get("team") == "a" and job.status is JobStatus.QUEUED]
            wanted = JobFilter(status=JobStatus.QUEUED, tag=("team", "a"), limit=2)
            assert await self.ledger.jobs(viewer, wanted) == tagged[:2]
            events = await self.ledger.events_after(viewer, 0, limit=10_000)
            own = [event for event in self.model.events if viewer.sees_all or event.user_id == viewer.user_id]
            assert [replace(event, seq=0) for event in events] == own
        for session_id in self.model.sessions:
            expected = [self.model.parts[key] for key in sorted(self.model.parts) if key[0] == session_id]
            assert await self.ledger.parts(session_id) == expected
        await self.confirm()
        assert await self.ledger.spent([("ann", f"key-{number}") for number in range(1, 4)]) == self.model.spent
        await self.listen()

    async def confirm(self) -> None:
        """Only the last leadership stands."""
        for epoch in range(max(0, self.model.epoch - 2), self.model.epoch + 2):
            try:
                await self.ledger.confirm(epoch)
            except Deposed:
                assert epoch != self.model.epoch or epoch == 0
            else:
                assert epoch == self.model.epoch > 0

    async def listen(self) -> None:
        """Read on from the last event heard, in small pages: no gap, no repeat, and the numbers only grow."""
        while page := await self.ledger.events_after(OPERATOR, self.heard[-1].seq if self.heard else 0, limit=2):
            self.heard.extend(page)
            assert len(self.heard) <= len(self.model.events)
        assert [replace(event, seq=0) for event in self.heard] == self.model.events
        assert await self.ledger.last_seq() == (self.heard[-1].seq if self.heard else 0)


def test_the_ledger_agrees_with_its_model(new_url: Callable[[], str]) -> None:
    """Whatever is committed, refused or restarted in whatever order, all readers agree with the model."""

    class Machine(LedgerMachine):
        take_url = staticmethod(new_url)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=8,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            # A failure is told in seconds; looking for the smallest one takes minutes: add Phase.shrink for that.
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
