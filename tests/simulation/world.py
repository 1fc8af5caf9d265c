"""A small world on a fake clock: the real scheduler and the real ledger, agents that only talk, and faults by dice.

Agents here move no bytes; they say what real ones say, in the order real ones say it, to a model of the bucket. What
may go wrong between two sentences goes wrong with some probability: orders and answers are lost, agents die and come
back as another incarnation, commits fail before or after they stand, the scheduler is replaced. One seed, one history.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from actors.decisions import Rules
from actors.ports import Submission
from actors.scheduler import Scheduler
from rayhaul.capacity import Capacity
from rayhaul.errors import RayhaulError, SourceBusy, SourceChanged, SourceNotFound, Unavailable, UploadLost
from rayhaul.job import JobResult, JobSpec, Metadata, utc
from rayhaul.lease import (
    Aborted,
    AbortOrder,
    AgentReport,
    CommitAsked,
    LeaseFailed,
    Notice,
    Order,
    PartDone,
    PartsDone,
    Probed,
    ProbeFailed,
    ProbeOrder,
    ReportReply,
    SessionOpened,
    SessionState,
    TransferOrder,
    Transferred,
    UploadSession,
)
from rayhaul.ledger.base import Batch, Ledger
from rayhaul.ledger.store import SqlLedger
from rayhaul.metrics import Meter
from rayhaul.settings import AgentSettings, LivenessSettings, ScalingSettings, Settings, TransferSettings

SLOTS = 3
PARTS = 3
STEP_S = 1.0


@dataclass(slots=True)
class Odds:
    """Probabilities of faults, per chance; all 0 when the weather clears."""

    order_lost: float = 0.05
    report_lost: float = 0.05
    answer_lost: float = 0.05
    agent_dies: float = 0.01
    commit_fails: float = 0.02
    commit_stands_but_fails: float = 0.02
    scheduler_dies: float = 0.01
    transfer_fails: float = 0.05

    def clear(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0.0)


class FaultyLedger:
    """The real ledger whose commits fail now and then: before they stand, or after, with the answer lost."""

    def __init__(self, inner: SqlLedger, world: "World") -> None:
        self._inner = inner
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Batch) -> None:
        if self._world.happens(self._world.odds.commit_fails):
            raise Unavailable("disk full, says the dice")
        await self._inner.commit(batch)
        if self._world.happens(self._world.odds.commit_stands_but_fails):
            raise Unavailable("answer lost, says the dice")


@dataclass(slots=True)
class Bucket:
    """What a store would remember: uploads, and what was published under which key."""

    uploads: dict[str, str] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Work:
    order: Order
    #: What was said last and is waited for; None when the next step may be taken.
    waits_for: str | None = None
    stage: int = 0
    upload_id: str | None = None


@dataclass(slots=True)
class SimAgent:
    name: str
    incarnation: str
    seq: int = 0
    work: dict[str, _Work] = field(default_factory=dict)
    outbox: dict[str, Notice] = field(default_factory=dict)


class World:
    def __init__(self, seed: int, ledger: SqlLedger, *, agents: int = 3) -> None:
        self.rng = Random(seed)
        self.odds = Odds()
        self.now_s = 1_000_000.0
        self.ledger = cast("Ledger", FaultyLedger(ledger, self))
        self.bucket = Bucket()
        self._ids = 0
        self.settings = Settings().model_copy(
            update={
                "scaling": ScalingSettings(agents_min=agents),
                "agent": AgentSettings(slots=SLOTS, probe_slots=4),
                "liveness": LivenessSettings(offline_s=20, requeues_max=50),
                "transfer": TransferSettings(attempts_max=50, retry_cap_s=5),
            }
        )
        self.agents: dict[str, SimAgent] = {}
        self.scheduler = self._new_scheduler()
        self.accepted: list[str] = []

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}_{self._ids:09d}"

    def _new_scheduler(self) -> Scheduler:
        rules = Rules(
            transfer=self.settings.transfer,
            liveness=self.settings.liveness,
            key_prefix="",
            rng=Random(self.rng.random()),
            meter=Meter(),
        )
        return Scheduler(
            ledger=self.ledger,
            pool=self,
            settings=self.settings,
            bucket="bucket",
            rules=rules,
            clock=lambda: self.now_s,
            new_id=self.new_id,
        )

    # --- actors.ports.AgentPool ---

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        found = self.agents.get(agent)
        if found is None or self.happens(self.odds.order_lost):
            return
        for order in orders:
            found.work.setdefault(_key(order), _Work(order))

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        found = self.agents.get(agent)
        if found is not None and not self.happens(self.odds.order_lost):
            for lease_id in lease_ids:
                found.work.pop(lease_id, None)

    async def add(self, agent: str) -> None:
        self.agents[agent] = SimAgent(agent, self.new_id("inc"))

    async def drain(self, agent: str) -> None:
        raise AssertionError("nobody drains here")

    async def names(self) -> Sequence[str]:
        return list(self.agents)

    # --- the course of things ---

    async def submit(self, count: int, *, user: str = "u") -> None:
        """Submit jobs as a client would: again, with the same key, until they are accepted."""
        specs = tuple(JobSpec(url=f"https://origin.example/{self.new_id('file')}") for _ in range(count))
        key = (self.new_id("key"), "fingerprint")
        submission = Submission(user_id=user, correlation_id="correlation", specs=specs, idempotency=key)
        while True:
            asked = asyncio.create_task(self.scheduler.submit(submission))
            await self.step()
            if not asked.done():
                asked.cancel()  # it was asked of a scheduler that died
                continue
            with suppress(RayhaulError):
                self.accepted.extend(asked.result().job_ids)
                return

    async def step(self) -> None:
        """Let a second pass: agents work and report, the scheduler turns."""
        self.now_s += STEP_S
        if self.happens(self.odds.scheduler_dies):
            await self._replace_scheduler()
        reports = [(agent, self._report(agent)) for agent in list(self.agents.values())]
        asked = [(a, asyncio.create_task(self.scheduler.report(r))) for a, r in reports if r is not None]
        await asyncio.sleep(0)
        with suppress(RayhaulError):
            await self.scheduler.tick()
        for agent, task in asked:
            try:
                reply = await task
            except RayhaulError:
                continue
            if not self.happens(self.odds.answer_lost) and self.agents.get(agent.name) is agent:
                self._take(agent, reply)

    async def _replace_scheduler(self) -> None:
        self.scheduler = self._new_scheduler()
        await self.scheduler.start()

    def _report(self, agent: SimAgent) -> AgentReport | None:
        if self.happens(self.odds.agent_dies):
            # Another life under the same name; what it held and had to tell is gone.
            self.agents[agent.name] = SimAgent(agent.name, self.new_id("inc"))
            return None
        for key, work in list(agent.work.items()):
            if work.waits_for is None and self.happens(0.7):
                self._advance(agent, key, work)
        agent.seq += 1
        if self.happens(self.odds.report_lost):
            return None
        return AgentReport(
            agent=agent.name,
            incarnation=agent.incarnation,
            seq=agent.seq,
            capacity=Capacity(slots=SLOTS, slots_used=0),
            draining=False,
            held=frozenset(agent.work),
            notices=tuple(agent.outbox.values()),
        )

    def _take(self, agent: SimAgent, reply: ReportReply) -> None:
        for key in reply.revoked:
            agent.work.pop(key, None)
        for notice_id in reply.acknowledged:
            agent.outbox.pop(notice_id, None)
        for key, work in list(agent.work.items()):
            if work.waits_for in reply.acknowledged:
                ended = work.stage < 0
                if work.waits_for in reply.refused or ended:
                    del agent.work[key]
                else:
                    work.waits_for = None

    def _say(self, agent: SimAgent, work: _Work, notice: Notice, *, last: bool = False) -> None:
        agent.outbox[notice.notice_id] = notice
        work.waits_for = notice.notice_id
        work.stage = -1 if last else work.stage + 1

    def _advance(self, agent: SimAgent, key: str, work: _Work) -> None:
        match work.order:
            case ProbeOrder() as order:
                self._say(agent, work, self._probe(order), last=True)
            case AbortOrder() as order:
                self.bucket.uploads.pop(order.upload_id, None)
                told = Aborted(notice_id=self.new_id("n"), session_id=order.session_id, job_id=order.context.job_id)
                self._say(agent, work, told, last=True)
            case TransferOrder() as order:
                self._transfer(agent, work, order)

    def _probe(self, order: ProbeOrder) -> Notice:
        ids: dict[str, Any] = {
            "notice_id": self.new_id("n"),
            "order_id": order.order_id,
            "job_id": order.context.job_id,
        }
        if self.happens(0.02):
            return ProbeFailed(**ids, failure=SourceNotFound().failure())
        if self.happens(self.odds.transfer_fails):
            return ProbeFailed(**ids, failure=SourceBusy(retry_after_s=2).failure())
        return Probed(
            **ids,
            metadata=Metadata(
                size_bytes=PARTS * self.settings.transfer.part_bytes_min,
                content_type=None,
                etag='"v1"',
                last_modified=None,
                rangeable=True,
                filename="f",
                final_url=order.url,
                fetch_ms=1,
            ),
        )

    def _transfer(self, agent: SimAgent, work: _Work, order: TransferOrder) -> None:
        assert order.key is not None
        job_id, lease_id, epoch = order.context.job_id, order.lease_id, order.epoch
        ids: dict[str, Any] = {"notice_id": self.new_id("n"), "lease_id": lease_id, "epoch": epoch, "job_id": job_id}
        if self.happens(self.odds.transfer_fails):
            error = self.rng.choice([SourceBusy, SourceChanged])
            self._say(agent, work, LeaseFailed(**ids, failure=error().failure()), last=True)
            return
        if order.session is None and work.upload_id is None:
            work.upload_id = self.new_id("up")
            self.bucket.uploads[work.upload_id] = order.key
            session = UploadSession(
                session_id=f"session-{work.upload_id}",
                job_id=job_id,
                bucket="bucket",
                key=order.key,
                upload_id=work.upload_id,
                part_bytes=order.part_bytes,
                size_bytes=order.pin.size_bytes,
                state=SessionState.OPEN,
                created_at=utc(self.now_s),
            )
            self._say(agent, work, SessionOpened(**ids, session=session))
            return
        upload_id = work.upload_id or (order.session.upload_id if order.session else "")
        if upload_id not in self.bucket.uploads:
            self._say(agent, work, LeaseFailed(**ids, failure=UploadLost().failure()), last=True)
        elif work.stage < PARTS:
            part = PartDone(session_id=f"session-{upload_id}", number=max(1, work.stage), size_bytes=1, etag="e")
            self._say(agent, work, PartsDone(**ids, parts=(part,)))
        elif work.stage == PARTS:
            self._say(agent, work, CommitAsked(**ids))
        else:
            self.bucket.published[self.bucket.uploads.pop(upload_id)] = job_id
            result = JobResult(bucket="bucket", key=order.key, size_bytes=1, etag="e", parts_count=PARTS)
            self._say(agent, work, Transferred(**ids, result=result), last=True)


def _key(order: Order) -> str:
    match order:
        case ProbeOrder():
            return order.order_id
        case TransferOrder():
            return order.lease_id
        case AbortOrder():
            return order.session_id
