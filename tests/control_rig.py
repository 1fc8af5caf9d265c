"""A rig for the control plane: the real scheduler on a real ledger, a clock that is set, agents that say what they are
told to say.

Nothing sleeps and nothing runs by itself: a test moves the clock and asks for turns. Orders reach an agent at once,
unless it is dead or deaf; what it was told to say waits until it reports.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ledger_files import sqlite_url
from seams import BUCKET, Seam

from actors.agent_record import AgentRecord
from actors.book import Book
from actors.decisions import Rules
from actors.holding import key_of
from actors.ports import Accepted, Submission
from actors.scheduler import Scheduler
from rayhaul.alert_file import read_scaling_rule
from rayhaul.capacity import Capacity
from rayhaul.errors import Failure, RayhaulError, SinkRefused
from rayhaul.ids import NewId
from rayhaul.job import FINAL, EventRecord, Job, JobResult, JobSpec, JobStatus, Metadata, utc
from rayhaul.lease import AbortOrder, Order, PartDone, ProbeOrder, SessionState, TransferOrder, TrimOrder, UploadSession
from rayhaul.ledger.base import JobFilter, Role, Viewer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.metrics import Meter, Metric
from rayhaul.origins import HostGrant, HostUse
from rayhaul.policy.alert_rules import AlertRule
from rayhaul.policy.objectives import Objective
from rayhaul.rates import RateUse
from rayhaul.report import (
    AgentReport,
    CommitAsked,
    LeaseFailed,
    LeaseProgress,
    Notice,
    PartsDone,
    Probed,
    ProbeFailed,
    ReportReply,
    SessionOpened,
    StripeDone,
    Transferred,
    Trimmed,
)
from rayhaul.settings import (
    AgentSettings,
    HostsSettings,
    LedgerSettings,
    LivenessSettings,
    QueueSettings,
    QuotaSettings,
    ScalingSettings,
    Settings,
    TransferSettings,
)
from tasks.pace import Paces

T = TypeVar("T")

BEGIN_S = 1_800_000_000.0
EVERYTHING = Viewer("rig", Role.OPERATOR)
SIZE_BYTES = 1000
#: In memory where there is such a place: durability is tested with the ledger.
_DIRECTORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(slots=True)
class Clock:
    now_s: float = BEGIN_S

    def __call__(self) -> float:
        return self.now_s


def counted_ids() -> NewId:
    numbers = count(1)
    return lambda prefix: f"{prefix}_{next(numbers):09d}"


def found(**changes: Any) -> Metadata:
    facts: dict[str, Any] = {
        "size_bytes": SIZE_BYTES,
        "content_type": "application/octet-stream",
        "etag": '"v1"',
        "last_modified": None,
        "rangeable": True,
        "filename": "file.bin",
        "final_url": "https://files.example/file.bin",
        "fetch_ms": 5,
    }
    return Metadata(**{**facts, **changes})


def rig_settings(**groups: dict[str, Any]) -> Settings:
    """Return the settings as they are shipped, but for these, by group; no environment, no `.env`."""
    kinds: dict[str, Any] = {
        "agent": AgentSettings,
        "hosts": HostsSettings,
        "ledger": LedgerSettings,
        "liveness": LivenessSettings,
        "queue": QueueSettings,
        "quota": QuotaSettings,
        "scaling": ScalingSettings,
        "transfer": TransferSettings,
    }
    known: dict[str, dict[str, Any]] = {"agent": {"slots": 4}}
    chosen = {name: kind(**{**known.get(name, {}), **groups.get(name, {})}) for name, kind in kinds.items()}
    return Settings(_env_file=None).model_copy(update=chosen)


@dataclass(eq=False, slots=True)
class HandAgent:
    """One life of an agent. `tell` puts in a notice; `report` says all that waits, and takes the answer."""

    name: str
    incarnation: str
    rig: "Rig"
    slots: int = 4
    held: dict[str, Order] = field(default_factory=dict)
    #: What waits to be said, and the order that is put down when it was heard.
    waiting: dict[str, tuple[Notice, str | None]] = field(default_factory=dict)
    seq: int = 0
    alive: bool = True
    #: Orders to it are lost on the way.
    deaf: bool = False
    #: It says nothing.
    mute: bool = False
    draining: bool = False
    unfit: str | None = None
    #: What it stopped by itself because nobody answered.
    let_go: set[str] = field(default_factory=set)
    superseded: bool = False
    capacity: Capacity | None = None
    #: Tails that it was asked for.
    asked: list[TrimOrder] = field(default_factory=list)
    #: What it says of a lease, where that is not that bytes move right now.
    tells: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: What it says of hosts.
    uses: tuple[HostUse, ...] = ()
    #: What it may use of them, by the last answers.
    granted: dict[str, HostGrant] = field(default_factory=dict)
    #: How fast it may read.
    paces: Paces = field(default_factory=Paces)
    #: Of each thing told: whether it counted.
    counted: dict[str, bool] = field(default_factory=dict)

    # --- what it has ---

    @property
    def transfers(self) -> list[TransferOrder]:
        return [order for order in self.held.values() if isinstance(order, TransferOrder)]

    @property
    def probes(self) -> list[ProbeOrder]:
        return [order for order in self.held.values() if isinstance(order, ProbeOrder)]

    @property
    def aborts(self) -> list[AbortOrder]:
        return [order for order in self.held.values() if isinstance(order, AbortOrder)]

    @property
    def job_ids(self) -> list[str]:
        """The jobs it transfers."""
        return [order.context.job_id for order in self.transfers]

    def order_of(self, job_id: str) -> TransferOrder:
        (order,) = (order for order in self.transfers if order.context.job_id == job_id)
        return order

    # --- what it says ---

    def tell(self, notice: Notice, *, ends: str | None = None) -> str:
        """Put in a notice; `ends` is the order that is done with it. Return the notice's id."""
        self.waiting[notice.notice_id] = (notice, ends)
        return notice.notice_id

    def tell_found(self, order: ProbeOrder, **changes: Any) -> str:
        notice = Probed(
            notice_id=self.rig.new_id("note"),
            order_id=order.order_id,
            job_id=order.context.job_id,
            metadata=found(**changes),
        )
        return self.tell(notice, ends=order.order_id)

    def tell_not_found(self, order: ProbeOrder, failure: Failure) -> str:
        notice = ProbeFailed(
            notice_id=self.rig.new_id("note"),
            order_id=order.order_id,
            job_id=order.context.job_id,
            failure=failure,
        )
        return self.tell(notice, ends=order.order_id)

    def tell_opened(self, order: TransferOrder, **changes: Any) -> str:
        facts: dict[str, Any] = {
            "session_id": self.rig.new_id("session"),
            "job_id": order.context.job_id,
            "bucket": order.bucket,
            "key": order.key,
            "upload_id": self.rig.new_id("upload"),
            "part_bytes": order.part_bytes,
            "size_bytes": order.pin.size_bytes,
            "state": SessionState.OPEN,
            "created_at": utc(self.rig.clock()),
        }
        session = UploadSession(**{**facts, **changes})
        return self.tell(SessionOpened(**self._under(order), session=session))

    def tell_parts(self, order: TransferOrder, session_id: str, *numbers: int, **changes: Any) -> str:
        parts = tuple(
            PartDone(**{"session_id": session_id, "number": n, "size_bytes": 10, "etag": f"e{n}", **changes})
            for n in numbers
        )
        return self.tell(PartsDone(**self._under(order), parts=parts))

    def tell_done(self, order: TransferOrder, **changes: Any) -> str:
        facts: dict[str, Any] = {
            "bucket": order.bucket,
            "key": order.key,
            "size_bytes": order.pin.size_bytes or 0,
            "etag": "etag",
        }
        result = JobResult(**{**facts, **changes})
        return self.tell(Transferred(**self._under(order), result=result), ends=order.lease_id)

    def tell_failed(self, order: TransferOrder, failure: Failure) -> str:
        return self.tell(LeaseFailed(**self._under(order), failure=failure), ends=order.lease_id)

    def tell_trimmed(self, order: TransferOrder, end_part: int) -> str:
        return self.tell(Trimmed(**self._under(order), end_part=end_part, shared=True))

    def tell_commit(self, order: TransferOrder) -> str:
        return self.tell(CommitAsked(**self._under(order)))

    def tell_stripe(self, order: TransferOrder) -> str:
        return self.tell(StripeDone(**self._under(order)), ends=order.lease_id)

    def tell_refused(self, order: TransferOrder) -> str:
        return self.tell_failed(order, SinkRefused("InvalidAccessKeyId").failure())

    def _under(self, order: TransferOrder) -> dict[str, Any]:
        return {
            "notice_id": self.rig.new_id("note"),
            "lease_id": order.lease_id,
            "epoch": order.epoch,
            "job_id": order.context.job_id,
        }

    def find_all(self) -> None:
        """Have metadata for all that it looks at."""
        for order in self.probes:
            if order.order_id not in {ends for _, ends in self.waiting.values()}:
                self.tell_found(order)

    def compose(self, **changes: Any) -> AgentReport:
        self.seq += 1
        progress = tuple(self._progress(order) for order in self.transfers)
        facts: dict[str, Any] = {
            "agent": self.name,
            "incarnation": self.incarnation,
            "seq": self.seq,
            "capacity": self.capacity or Capacity(slots=self.slots, slots_used=len(progress)),
            "draining": self.draining,
            "unfit": self.unfit,
            "held": frozenset(self.held),
            "let_go": frozenset(self.let_go),
            "progress": progress,
            "notices": tuple(notice for notice, _ in self.waiting.values()),
            "hosts": self.uses,
            "rates": self._rates(),
        }
        return AgentReport(**{**facts, **changes})

    def _rates(self) -> tuple[RateUse, ...]:
        """Say that it reads as fast as it may."""
        needed = {rate.limit for order in self.transfers for rate in order.rates}
        return tuple(replace(use, bytes_per_s=use.granted) for use in self.paces.uses(needed, 0.0))

    def _progress(self, order: TransferOrder) -> LeaseProgress:
        facts: dict[str, Any] = {
            "lease_id": order.lease_id,
            "job_id": order.context.job_id,
            "bytes_done": 1,
            "bytes_per_s": 0.0,
            "doing": "moving bytes",
        }
        return LeaseProgress(**{**facts, **self.tells.get(order.lease_id, {})})

    def fence(self) -> None:
        """Let everything go, as an agent does that was not answered for too long."""
        for order in self.transfers:
            self.let_go.add(order.lease_id)
            self._lose(order.lease_id)

    def take(self, reply: ReportReply) -> None:
        self.let_go.clear()
        self.granted = {grant.host: grant for grant in reply.hosts}
        self.paces.take(reply.rates)
        for notice_id in reply.acknowledged:
            _, ends = self.waiting.pop(notice_id, (None, None))
            self.counted[notice_id] = notice_id not in reply.refused
            if ends is not None:
                self.held.pop(ends, None)
        for key in reply.revoked:
            self._lose(key)
        if reply.superseded:
            self.superseded = True
            self.held.clear()

    def _lose(self, key: str) -> None:
        self.held.pop(key, None)
        self.waiting = {
            notice_id: (notice, ends)
            for notice_id, (notice, ends) in self.waiting.items()
            if key not in (ends, getattr(notice, "lease_id", None))
        }

    async def say(self, **changes: Any) -> ReportReply:
        """Send a report, without asking for a turn, and take the answer."""
        reply = await self.rig.scheduler.report(self.compose(**changes))
        self.take(reply)
        return reply

    async def report(self, **changes: Any) -> ReportReply:
        """Report, in a turn."""
        return await self.rig.call(self.say(**changes))

    def assign(self, orders: Sequence[Order]) -> None:
        if self.alive and not self.deaf:
            for order in orders:
                self.held.setdefault(key_of(order), order)
                if isinstance(order, TransferOrder):
                    self.paces.of(order.rates)

    def revoke(self, keys: Sequence[str]) -> None:
        if self.alive and not self.deaf:
            for key in keys:
                self._lose(key)

    def trim(self, orders: Sequence[TrimOrder]) -> None:
        """Hear that a tail is asked for; a test answers with `tell_trimmed`."""
        if self.alive and not self.deaf:
            self.asked += orders


@dataclass(eq=False, slots=True)
class HandPool:
    """The agents, as the scheduler reaches them (actors.ports.AgentPool)."""

    lives: dict[str, HandAgent] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    #: What was asked for, in order.
    added: list[str] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    #: Every transfer ordered: (job id, agent, epoch).
    sent: list[tuple[str, str, int]] = field(default_factory=list)

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        self.sent += [(o.context.job_id, agent, o.epoch) for o in orders if isinstance(o, TransferOrder)]
        if agent in self.lives:
            self.lives[agent].assign(orders)

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        if agent in self.lives:
            self.lives[agent].revoke(lease_ids)

    async def trim(self, agent: str, orders: Sequence[TrimOrder]) -> None:
        if agent in self.lives:
            self.lives[agent].trim(orders)

    async def add(self, agent: str) -> None:
        self.added.append(agent)
        self.known.add(agent)

    async def drain(self, agent: str) -> None:
        self.drained.append(agent)
        if agent in self.lives and self.lives[agent].alive and not self.lives[agent].deaf:
            self.lives[agent].draining = True

    async def withdraw(self, agent: str) -> None:
        self.withdrawn.append(agent)
        self.known.discard(agent)

    async def names(self) -> Sequence[str]:
        return sorted(self.known)


@dataclass(eq=False, slots=True)
class Rig:
    ledger: SqlLedger
    #: In front of the ledger, as the scheduler has it.
    seam: Seam
    settings: Settings
    rule: AlertRule
    clock: Clock = field(default_factory=Clock)
    new_id: NewId = field(default_factory=counted_ids)
    pool: HandPool = field(default_factory=HandPool)
    meter: Meter = field(default_factory=Meter)
    alert_rules: Sequence[AlertRule] = ()
    objectives: Sequence[Objective] = ()
    scheduler: Scheduler = field(init=False)

    def new_scheduler(self, holder: str = "rig") -> Scheduler:
        rules = Rules(
            transfer=self.settings.transfer,
            liveness=self.settings.liveness,
            key_prefix=self.settings.s3.prefix,
            rng=Random(1),
            meter=self.meter,
            quota=self.settings.quota,
        )
        ledger: Any = self.seam
        return Scheduler(
            ledger=ledger,
            pool=self.pool,
            settings=self.settings,
            bucket=BUCKET,
            rules=rules,
            scaling_rule=self.rule,
            alert_rules=self.alert_rules,
            objectives=self.objectives,
            clock=self.clock,
            new_id=self.new_id,
            holder=holder,
        )

    async def restart(self) -> None:
        """Let the scheduler die where it stands, and start another one."""
        self.scheduler = self.new_scheduler()
        await self.scheduler.start()

    # --- turns ---

    async def tick(self, times: int = 1) -> None:
        for _ in range(times):
            await self.scheduler.tick()

    async def call(self, call: Coroutine[Any, Any, T]) -> T:
        """Carry out one call in a turn of its own; return its answer or raise it."""
        (answer,) = await self.together(call)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def together(self, *calls: Coroutine[Any, Any, T]) -> list[T | BaseException]:
        """Carry out calls in one turn; return their answers, errors among them."""
        tasks = [asyncio.create_task(call) for call in calls]
        # Until each has put itself into the inbox.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # What fails the turn is told to each caller as well.
        with suppress(RayhaulError):
            await self.tick()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        return list(answers)

    async def live(self, seconds: float, *, step_s: float = 1.0, each: Callable[[], None] | None = None) -> None:
        """Let time pass: in every step all agents report, `each` is called, and a turn is taken."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            self.clock.now_s += step_s
            if each is not None:
                each()
            await self.beat()

    async def beat(self) -> None:
        """Let all agents report, in one turn, and take the next one."""
        speakers = [a for a in self.pool.lives.values() if a.alive and not a.mute and not a.superseded]
        for answer in await self.together(*(agent.say() for agent in speakers)):
            if isinstance(answer, BaseException):
                raise answer
        await self.tick()

    # --- agents ---

    async def begin(self, agents: int) -> list[HandAgent]:
        """Start the scheduler and the agents it asks for, and let them report."""
        await self.restart()
        # It looks which agents there are, decides, and asks for those that are missing.
        await self.tick(3)
        lives = [self.enter(f"agent-{number}") for number in range(1, agents + 1)]
        await self.beat()
        return lives

    def enter(self, name: str, **changes: Any) -> HandAgent:
        """Let another life of an agent begin; the one before, if any, is dead."""
        if name in self.pool.lives:
            self.pool.lives[name].alive = False
        self.pool.known.add(name)
        slots = self.settings.agent.slots
        agent = HandAgent(name, self.new_id("inc"), self, **{"slots": slots, **changes})
        self.pool.lives[name] = agent
        return agent

    def leave(self, agent: HandAgent) -> None:
        """Let an agent's process end, as Ray sees it."""
        agent.alive = False
        self.pool.known.discard(agent.name)
        if self.pool.lives.get(agent.name) is agent:
            del self.pool.lives[agent.name]

    # --- jobs ---

    async def put_in(self, *specs: JobSpec, user: str = "alice") -> Accepted:
        return await self.scheduler.submit(
            Submission(user_id=user, correlation_id="correlation", specs=specs or (spec(),))
        )

    async def submit(self, jobs: int = 1, *, user: str = "alice", **changes: Any) -> list[str]:
        """Submit jobs, one call in one turn; return their ids."""
        specs = [spec(**changes) for _ in range(jobs)]
        accepted = await self.call(self.put_in(*specs, user=user))
        return list(accepted.job_ids)

    async def running(self, jobs: int = 1, **changes: Any) -> list[str]:
        """Submit jobs, and bring them as far as there are slots for them."""
        job_ids = await self.submit(jobs, **changes)
        await self.look()
        return job_ids

    async def look(self) -> None:
        """Have all metadata that is waited for brought, and what can start started."""
        while self.book.unprobed.due_at_s() is None and (len(self.book.unprobed) or self.book.probing):
            await self.tick()
            for agent in self.pool.lives.values():
                if agent.alive:
                    agent.find_all()
            await self.beat()
        await self.tick()
        await self.beat()

    async def job(self, job_id: str) -> Job:
        return await self.ledger.job(EVERYTHING, job_id)

    async def status(self, job_id: str) -> JobStatus:
        return (await self.job(job_id)).status

    async def statuses(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        return {job_id: await self.status(job_id) for job_id in job_ids}

    async def dead(self) -> list[str]:
        return [job.id for job in await self.ledger.jobs(EVERYTHING, JobFilter(dead_lettered=True, limit=1000))]

    async def events(self, job_id: str) -> list[str]:
        return [str(record.event) for record in await self.history(job_id)]

    async def history(self, job_id: str) -> Sequence[EventRecord]:
        return await self.ledger.history(EVERYTHING, job_id)

    async def all_final(self, job_ids: Sequence[str]) -> bool:
        return all(status in FINAL for status in (await self.statuses(job_ids)).values())

    def holder(self, job_id: str) -> HandAgent:
        """Return the agent that has the job in hand."""
        (agent,) = (agent for agent in self.pool.lives.values() if agent.alive and job_id in agent.job_ids)
        return agent

    # --- what the scheduler has in mind ---

    @property
    def book(self) -> Book:
        return self.scheduler._book

    def record(self, name: str) -> AgentRecord:
        return self.book.agents[name]

    def count(self, metric: Metric, *labels: str) -> float:
        """Return what a counter stands at; without labels the sum over all of them."""
        counters = self.meter.snapshot().counters
        return sum(n for (name, found), n in counters.items() if name == metric.name and labels in ((), found))


def spec(**changes: Any) -> JobSpec:
    return JobSpec(**{"url": "https://files.example/file.bin", **changes})


@asynccontextmanager
async def rig_with(*, window_s: int | None = None, **groups: dict[str, Any]) -> AsyncIterator[Rig]:
    """Yield a rig over a fresh ledger, with settings by group and another window of the scaling rule."""
    settings = rig_settings(**groups)
    rule = read_scaling_rule()
    if window_s is not None:
        rule = replace(rule, window_s=window_s)
    with TemporaryDirectory(dir=_DIRECTORY) as directory:
        ledger = open_ledger(settings.ledger, sqlite_url(Path(directory)))
        rig = Rig(ledger, Seam(ledger), settings, rule)
        try:
            yield rig
        finally:
            await ledger.close()
