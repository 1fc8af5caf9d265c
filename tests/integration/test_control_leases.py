"""Leases and the agents that hold them: silence, stalls, lives of an agent, poison jobs, and a bucket that refuses."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from control_rig import HandAgent, Rig, rig_with

from rayhaul.capacity import AgentState, Capacity
from rayhaul.errors import SourceNotFound, Unavailable
from rayhaul.job import JobStatus
from rayhaul.lease import Order, ProbeOrder, TransferOrder
from rayhaul.metrics import FENCED_WRITES, JOBS_FINISHED
from rayhaul.report import COMMITTING

NAN = float("nan")


# --- bytes that stand still ---


@pytest.mark.parametrize(
    ("idle_s", "doing", "stopped", "code"),
    [
        (115.0, "moving bytes", False, None),
        (121.0, "moving bytes", True, "source_stalled"),
        (590.0, COMMITTING, False, None),
        (601.0, COMMITTING, True, "agent_lost"),
    ],
)
async def test_a_silent_lease(idle_s: float, doing: str, code: str | None, *, stopped: bool) -> None:
    """Silence longer than is borne stops the lease on its agent and hands the job back; committing is borne longer."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        lease_id = agent.order_of(job_id).lease_id
        began_s = rig.clock.now_s
        agent.tells[lease_id] = {"doing": doing}

        def stall() -> None:
            agent.tells[lease_id] = {"doing": doing, "idle_s": rig.clock.now_s - began_s}

        await rig.live(idle_s, step_s=4, each=stall)
        job = await rig.job(job_id)
        assert (lease_id not in agent.held) is stopped
        assert job.requeues == int(stopped)
        assert (None if job.error is None else job.error.code) == code
        if stopped:
            await rig.live(2)
            assert agent.order_of(job_id).epoch == 2


@pytest.mark.parametrize(("quiet_s", "stopped"), [(0.0, False), (30.0, False), (40.0, True)])
async def test_an_overdue_lease(quiet_s: float, *, stopped: bool) -> None:
    """Twice its estimate and moving: never stopped. Quiet for a quarter of the patience by then: stopped."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        lease_id = agent.order_of(job_id).lease_id
        # 999 bytes are left: ten seconds, it says, so it is overdue after the floor of 300 s.
        agent.tells[lease_id] = {"bytes_per_s": 100.0, "idle_s": 0.0}
        await rig.live(1)
        agent.tells[lease_id] = {"bytes_per_s": 0.0, "idle_s": 0.0}
        await rig.live(265)
        went_quiet_s = rig.clock.now_s

        def fall_quiet() -> None:
            idle_s = rig.clock.now_s - went_quiet_s if quiet_s else 0.0
            agent.tells[lease_id] = {"bytes_per_s": 0.0, "idle_s": idle_s}

        await rig.live(quiet_s or 900, each=fall_quiet)
        assert (lease_id not in agent.held) is stopped
        assert (await rig.job(job_id)).requeues == int(stopped)


async def test_a_silent_agent() -> None:
    """Offline after 60 s and not before; its jobs go to others, and what it says later is refused."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        first, second = await rig.begin(2)
        jobs = await rig.running(4)
        lost, kept = list(first.job_ids), list(second.job_ids)
        assert len(lost) == len(kept) == 2
        first.mute = True
        await rig.live(59)
        assert rig.record("agent-1").state is AgentState.ONLINE
        assert rig.book.leases_held("agent-1")
        await rig.live(3)
        assert rig.record("agent-1").state is AgentState.OFFLINE
        assert sorted(second.job_ids) == sorted(jobs)
        assert [(await rig.job(job_id)).requeues for job_id in lost] == [1, 1]
        assert [(await rig.job(job_id)).requeues for job_id in kept] == [0, 0]
        before = rig.count(FENCED_WRITES)
        late = first.tell_done(first.order_of(lost[0]))
        first.mute = False
        reply = await first.report()
        assert first.counted[late] is False
        assert rig.count(FENCED_WRITES) == before + 1
        assert len(reply.revoked) >= 1
        assert rig.record("agent-1").state is AgentState.ONLINE
        assert first.job_ids == []


# --- reports out of order ---


@pytest.mark.parametrize("times", [1, 2])
async def test_a_late_report_takes_nothing_back(times: int) -> None:
    """A report that was on its way for long, or comes twice, tells of what was: the lease given since stands."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        old = agent.compose()
        (job_id,) = await rig.running(1)
        await rig.live(20)
        for _ in range(times):
            await rig.call(rig.scheduler.report(old))
        job = await rig.job(job_id)
        assert (job.status, job.requeues) == (JobStatus.DOWNLOADING, 0)
        assert job_id in agent.job_ids


async def test_the_same_word_twice_counts_once() -> None:
    """A report sent again because its answer was lost changes nothing."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        agent.tell_done(agent.order_of(job_id))
        again = agent.compose()
        await rig.call(rig.scheduler.report(again))
        reply = await rig.call(rig.scheduler.report(again))
        assert reply.refused == {notice.notice_id for notice in again.notices}
        assert rig.count(JOBS_FINISHED) == 1
        assert await rig.status(job_id) is JobStatus.COMPLETED


# --- lives of an agent ---


async def test_a_restarted_agent() -> None:
    """What its earlier life held is handed back at its first word; that life is told to end, and disturbs nobody."""
    async with rig_with() as rig:
        (old,) = await rig.begin(1)
        jobs = await rig.running(2)
        new = rig.enter("agent-1")
        await new.report()
        assert [(await rig.job(job_id)).requeues for job_id in jobs] == [1, 1]
        await rig.tick()
        assert sorted(new.job_ids) == sorted(jobs)
        held = dict(new.held)
        late = old.tell_done(old.order_of(jobs[0]))
        reply = await old.report()
        assert reply.superseded
        assert old.counted[late] is False
        assert reply.revoked
        await rig.live(3)
        assert new.held == held
        assert rig.record("agent-1").incarnation == new.incarnation


async def test_an_agent_leaves_with_a_lease_on_its_way() -> None:
    """A lease granted as its agent said goodbye goes elsewhere at once and uncharged, and the agent is forgotten."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        first, second = await rig.begin(2)
        jobs = await rig.submit(2)
        await rig.tick()
        first.find_all()
        second.find_all()
        first.deaf = True
        await rig.beat()
        lost = [lease.job_id for lease in rig.book.leases_held("agent-1")]
        assert len(lost) == 1
        await first.report(leaving=True)
        rig.leave(first)
        await rig.live(2)
        assert sorted(second.job_ids) == sorted(jobs)
        assert (await rig.job(lost[0])).requeues == 0
        await rig.live(70)
        assert [view.agent for view in await rig.scheduler.agents()] == ["agent-2"]


async def test_an_agent_leaves_with_a_probe_on_its_way() -> None:
    """A look at the source that an agent was asked for as it said goodbye is asked of another one."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        first, second = await rig.begin(2)
        first.deaf = True
        jobs = await rig.submit(2)
        await rig.tick()
        assert len(second.probes) == 1
        await first.report(leaving=True)
        rig.leave(first)
        await rig.live(90, each=second.find_all)
        assert sorted(second.job_ids) == sorted(jobs)


async def test_an_agent_that_is_gone_for_good_is_forgotten() -> None:
    """An agent that never came back after a restart of all is no longer shown once Ray knows it no more."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        first, second = await rig.begin(2)
        jobs = await rig.running(4)
        rig.leave(second)
        await rig.restart()
        await rig.live(130)
        assert sorted(first.job_ids) == sorted(jobs)
        assert "agent-2" not in {view.agent for view in await rig.scheduler.agents()}


@pytest.mark.parametrize(
    "capacity",
    [
        Capacity(slots=4, slots_used=0, bytes_per_s=NAN),
        Capacity(slots=-4, slots_used=0),
        Capacity(slots=4, slots_used=-1),
        Capacity(slots=4, slots_used=0, memory_bytes=-5),
    ],
)
async def test_an_agent_that_tells_nonsense(capacity: Capacity) -> None:
    """It gets no leases, says why, and gets some again when it tells sense."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        agent.capacity = capacity
        await rig.beat()
        (job_id,) = await rig.submit()
        await rig.live(3)
        assert not agent.held
        (view,) = [view for view in await rig.scheduler.agents() if view.agent == "agent-1"]
        assert (view.state, view.unfit) == ("unfit", "it reports nonsense about its capacity")
        assert view.capacity.is_sane, "what the API shows must be a number"
        agent.capacity = None
        await rig.live(2)
        await rig.look()
        assert agent.job_ids == [job_id]


async def test_an_agent_that_boasts() -> None:
    """Of a billion slots an agent gets as many leases as agents have slots, and its load is told from those."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        agent.capacity = Capacity(slots=10**9, slots_used=0)
        await rig.beat()
        await rig.running(20)
        assert len(agent.job_ids) == rig.settings.agent.slots
        (view,) = await rig.scheduler.agents()
        assert view.capacity.slots == rig.settings.agent.slots


async def test_an_unfit_agent() -> None:
    """It keeps what it has and gets nothing new; when it is fit again it gets leases again."""
    async with rig_with(scaling={"agents_max": 1}) as rig:
        (agent,) = await rig.begin(1)
        (running,) = await rig.running(1)
        agent.unfit = "disk full: 3 MiB free"
        await rig.beat()
        (waiting,) = await rig.submit()
        await rig.live(5)
        assert agent.job_ids == [running]
        view = (await rig.scheduler.agents())[0]
        assert (view.state, view.unfit) == ("unfit", "disk full: 3 MiB free")
        agent.tell_done(agent.order_of(running))
        await rig.beat()
        assert await rig.status(running) is JobStatus.COMPLETED
        agent.unfit = None
        await rig.beat()
        await rig.look()
        assert agent.job_ids == [waiting]


# --- jobs that kill their agents ---


class Killer:
    """Lets agents work: poison kills the agent it comes to, `at_s` after it began; other jobs take `takes_s`."""

    def __init__(self, rig: Rig, poison: Sequence[str], *, takes_s: float, at_s: float = 0.0) -> None:
        self.rig = rig
        self.poison = frozenset(poison)
        self.takes_s = takes_s
        self.at_s = at_s
        #: When an order was first seen in hand, by its id.
        self.began_s: dict[str, float] = {}
        self.deaths = 0
        self.kind: type[ProbeOrder | TransferOrder] = TransferOrder

    def __call__(self) -> None:
        now_s = self.rig.clock.now_s
        for agent in list(self.rig.pool.lives.values()):
            if not agent.alive:
                continue
            for key, order in list(agent.held.items()):
                began_s = self.began_s.setdefault(key, now_s)
                if self._is_fatal(order) and now_s - began_s >= self.at_s:
                    self.deaths += 1
                    self.rig.enter(agent.name)
                    break
            else:
                self._work(agent, now_s)

    def _is_fatal(self, order: Order) -> bool:
        return order.context.job_id in self.poison and isinstance(order, self.kind)

    def _work(self, agent: HandAgent, now_s: float) -> None:
        for probe in agent.probes:
            if not (self._is_fatal(probe) or probe.order_id in {ends for _, ends in agent.waiting.values()}):
                agent.tell_found(probe)
        spoken = {ends for _, ends in agent.waiting.values()}
        for order in agent.transfers:
            is_done = now_s - self.began_s.get(order.lease_id, now_s) >= self.takes_s
            if is_done and order.context.job_id not in self.poison and order.lease_id not in spoken:
                agent.tell_done(order)


#: Stage, how many poison jobs, how long the others take, when the poison kills, how many agents.
POISONS: list[Any] = [
    pytest.param("transfer", 1, 2.0, 0.0, 1, id="short jobs, 1 agent"),
    pytest.param("transfer", 1, 2.0, 0.0, 2, id="short jobs, 2 agents"),
    pytest.param("transfer", 1, 20.0, 0.0, 2, id="jobs of 20 s, 2 agents"),
    pytest.param("transfer", 1, 100.0, 0.0, 1, id="jobs of 100 s, 1 agent"),
    pytest.param("transfer", 1, 100.0, 0.0, 2, id="jobs of 100 s, 2 agents"),
    pytest.param("transfer", 1, 100.0, 5.0, 1, id="kills after 5 s, 1 agent"),
    pytest.param("transfer", 1, 100.0, 5.0, 2, id="kills after 5 s, 2 agents"),
    pytest.param("transfer", 3, 2.0, 0.0, 2, id="three, short jobs, 2 agents"),
    pytest.param("transfer", 3, 100.0, 0.0, 1, id="three, jobs of 100 s, 1 agent"),
    pytest.param("transfer", 3, 100.0, 0.0, 2, id="three, jobs of 100 s, 2 agents"),
    pytest.param("probe", 1, 2.0, 0.0, 1, id="probe, short jobs, 1 agent"),
    pytest.param("probe", 1, 2.0, 0.0, 2, id="probe, short jobs, 2 agents"),
    pytest.param("probe", 1, 100.0, 0.0, 1, id="probe, jobs of 100 s, 1 agent"),
    pytest.param("probe", 1, 100.0, 0.0, 2, id="probe, jobs of 100 s, 2 agents"),
    pytest.param("probe", 2, 100.0, 3.0, 1, id="two probes, jobs of 100 s, 1 agent"),
    pytest.param("probe", 2, 100.0, 3.0, 2, id="two probes, jobs of 100 s, 2 agents"),
]


@pytest.mark.parametrize(("stage", "poisons", "takes_s", "at_s", "agents"), POISONS)
async def test_poison_jobs(stage: str, poisons: int, takes_s: float, at_s: float, agents: int) -> None:
    """A job whose agent dies whenever it begins is given up after four deaths; no other job is given up with it."""
    async with rig_with(scaling={"agents_min": agents}) as rig:
        await rig.begin(agents)
        others = await rig.submit(4)
        poison = await rig.submit(poisons)
        others += await rig.submit(6 - poisons)
        killer = Killer(rig, poison, takes_s=takes_s, at_s=at_s)
        killer.kind = TransferOrder if stage == "transfer" else ProbeOrder
        for _ in range(300):
            await rig.live(5, each=killer)
            if await rig.all_final([*others, *poison]):
                break
        statuses = await rig.statuses(others)
        assert set(statuses.values()) == {JobStatus.COMPLETED}, statuses
        assert sorted(await rig.dead()) == sorted(poison)
        # Several may share a death: of two that were there when an agent died, nobody knows which one it was.
        assert killer.deaths == 4 if poisons == 1 else killer.deaths <= 4 * poisons


async def test_poison_that_hangs_its_agent() -> None:
    """A source whose answer hangs the agent that looks at it does not go round for ever and hang them all."""
    async with rig_with(scaling={"agents_min": 2, "agents_max": 2}) as rig:
        await rig.begin(2)
        (poison,) = await rig.submit()

        def hang() -> None:
            for agent in rig.pool.lives.values():
                agent.mute = agent.mute or poison in {order.context.job_id for order in agent.probes}

        for _ in range(6):
            await rig.live(80, each=hang)
            for name, agent in list(rig.pool.lives.items()):
                if agent.mute:
                    rig.enter(name)
        assert await rig.dead() == [poison]


# --- a bucket that refuses us ---


def refuse_all(rig: Rig, is_refused: Callable[[str], bool]) -> Callable[[], None]:
    """Return what agents do when the bucket refuses some jobs and takes the others."""

    def work() -> None:
        for agent in rig.pool.lives.values():
            agent.find_all()
            spoken = {ends for _, ends in agent.waiting.values()}
            for order in agent.transfers:
                if order.lease_id in spoken:
                    continue
                if is_refused(order.context.job_id):
                    agent.tell_refused(order)
                else:
                    agent.tell_done(order)

    return work


async def test_a_bucket_that_refuses_everything() -> None:
    """A thousand jobs, all refused: none fails or is charged, one tries per growing pause, one success opens up."""
    async with rig_with() as rig:
        await rig.begin(1)
        jobs = await rig.submit(1000)
        refused = True
        tries: list[float] = []

        def is_refused(_: str) -> bool:
            tries.append(rig.clock.now_s)
            return refused

        work = refuse_all(rig, is_refused)
        await rig.live(20, each=work)
        view = await rig.scheduler.queue()
        assert view.parked == "InvalidAccessKeyId"
        began = sorted(set(tries))
        assert len(tries) <= 2 * rig.settings.agent.slots
        await rig.live(1200, each=work)
        pauses = [later - earlier for earlier, later in pairwise(sorted(set(tries))) if earlier >= began[-1]]
        assert len(tries) <= 2 * rig.settings.agent.slots + 8
        assert all(b >= a - 3 for a, b in pairwise(pauses)), pauses
        assert pauses[0] >= 25
        assert max(pauses) <= 310
        facts = [await rig.job(job_id) for job_id in jobs]
        assert {(job.status, job.requeues) for job in facts} == {(JobStatus.QUEUED, 0)}
        assert max(job.attempt for job in facts) <= 0
        refused = False
        await rig.live(305, each=work)
        assert (await rig.scheduler.queue()).parked is None
        await rig.live(300, each=work)
        assert set((await rig.statuses(jobs)).values()) == {JobStatus.COMPLETED}


async def test_a_job_that_alone_is_refused() -> None:
    """Where others pass, a job that is refused again fails by itself, and the others all complete."""
    async with rig_with() as rig:
        await rig.begin(1)
        jobs = await rig.submit(20)
        await rig.live(120, each=refuse_all(rig, lambda job_id: job_id == jobs[7]))
        statuses = await rig.statuses(jobs)
        assert statuses.pop(jobs[7]) is JobStatus.FAILED
        assert set(statuses.values()) == {JobStatus.COMPLETED}


async def test_a_job_that_is_refused_before_others_come() -> None:
    """A job that the bucket will never take, alone at first, does not keep those that come later from their turn."""
    async with rig_with() as rig:
        await rig.begin(1)
        (bad,) = await rig.submit()
        work = refuse_all(rig, lambda job_id: job_id == bad)
        await rig.live(10, each=work)
        later = await rig.submit(5)
        await rig.live(900, each=work)
        assert set((await rig.statuses(later)).values()) == {JobStatus.COMPLETED}
        assert await rig.status(bad) is JobStatus.FAILED


async def test_tries_that_never_reach_the_bucket() -> None:
    """While starts are parked, jobs that fail at their source do not each cost another pause."""
    async with rig_with(transfer={"attempts_max": 1}) as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.submit(4)
        refused = True
        gone: set[str] = set()

        def work() -> None:
            agent.find_all()
            spoken = {ends for _, ends in agent.waiting.values()}
            for order in agent.transfers:
                if order.lease_id in spoken:
                    continue
                if order.context.job_id in gone:
                    agent.tell_failed(order, SourceNotFound().failure())
                elif refused:
                    agent.tell_refused(order)
                else:
                    agent.tell_done(order)

        await rig.live(5, each=work)
        gone |= set(jobs)
        jobs += await rig.submit(30)
        gone |= set(jobs[:24])
        refused = False
        await rig.live(1800, each=work)
        assert set((await rig.statuses(jobs[24:])).values()) == {JobStatus.COMPLETED}


async def test_refusals_of_parts_fail_nobody() -> None:
    """A bucket that lets uploads begin and refuses their parts refuses us, and not each job by itself."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.submit(30)

        def work() -> None:
            agent.find_all()
            said = {getattr(notice, "lease_id", None) for notice, _ in agent.waiting.values()}
            for order in agent.transfers:
                if order.lease_id not in said:
                    opened = order.session is not None or order.lease_id in begun
                    agent.tell_refused(order) if opened else agent.tell_opened(order)
                    begun.add(order.lease_id)

        begun: set[str] = set()
        await rig.live(600, each=work)
        assert JobStatus.FAILED not in (await rig.statuses(jobs)).values()


async def test_a_refusal_heard_twice_is_one_refusal() -> None:
    """A report that is said again because its commit failed does not make one refusal two."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        good, bad = await rig.running(2)
        agent.tell_done(agent.order_of(good))
        agent.tell_refused(agent.order_of(bad))
        rig.seam.fail["commit"] = Unavailable("the disk is full")
        with pytest.raises(Unavailable):
            await agent.report()
        rig.seam.fail.clear()
        rig.clock.now_s += 1
        await agent.report()
        assert (await rig.statuses([good, bad])) == {good: "completed", bad: "queued"}


async def test_a_clock_set_back_does_not_park_for_ever() -> None:
    """Starts that are parked are tried again after the pause, whatever the clock was set to meanwhile."""
    async with rig_with() as rig:
        await rig.begin(1)
        jobs = await rig.submit(3)
        refused = True
        work = refuse_all(rig, lambda _: refused)
        await rig.live(5, each=work)
        assert (await rig.scheduler.queue()).parked
        rig.clock.now_s -= 86_400
        refused = False
        fresh = await rig.submit(1)
        await rig.live(120, each=work)
        # The others wait for the time of their next attempt, which the ledger keeps.
        assert set((await rig.statuses(fresh)).values()) == {JobStatus.COMPLETED}
        assert set((await rig.statuses(jobs)).values()) == {JobStatus.QUEUED}
