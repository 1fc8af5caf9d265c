"""What the scheduler keeps in memory: the open part of the ledger, the order of the queue, and what agents said last.

Laws of this file:
1. All that is durable here is a copy: `Book.rebuild` makes it from the ledger, `merge` follows each commit and never
   precedes it.
2. What is only here (heartbeats, progress, orders under way) may be lost at any time; the next reports bring it back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rayhaul.capacity import AgentState, Capacity
from rayhaul.job import Job, JobStatus, Priority, Progress
from rayhaul.lease import AgentReport, Lease, SessionState, UploadSession
from rayhaul.ledger.base import LedgerState
from rayhaul.policy import liveness, parking
from rayhaul.policy.liveness import APART_S, SUSPECT_REQUEUES, Watch
from rayhaul.policy.parking import Parking
from rayhaul.policy.queueing import SHARES, Waiting, WaitingQueue
from rayhaul.policy.quota import Usage
from rayhaul.settings import LivenessSettings

#: An agent that leases do not reach, again and again, gets no others for so long; each time twice as long, up to this.
AVOIDED_S = 5.0
AVOIDED_S_MAX = 300.0


@dataclass(slots=True)
class AgentRecord:
    """An agent as its last report described it."""

    agent: str
    incarnation: str
    seen_at_s: float
    seq: int = 0
    capacity: Capacity = field(default_factory=lambda: Capacity(slots=0, slots_used=0))
    draining: bool = False
    offline: bool = False
    #: Why it can not take leases, in one sentence, and since when.
    unfit: str | None = None
    unfit_since_s: float = 0.0
    #: When it was ordered to drain; None: it was not, in this life of the scheduler.
    drained_at_s: float | None = None
    #: Earlier lives of the same name: they have lost all they had.
    past: tuple[str, ...] = ()
    #: Leases in a row that did not arrive there, and until when it gets no others for it.
    missed: int = 0
    missed_at_s: float = 0.0
    avoided_until_s: float = 0.0

    @property
    def state(self) -> AgentState:
        if self.offline:
            return AgentState.OFFLINE
        if self.draining or self.drained_at_s is not None:
            return AgentState.DRAINING
        return AgentState.ONLINE if self.unfit is None else AgentState.UNFIT

    def hear(self, report: AgentReport, now_s: float, *, slots_max: int) -> None:
        """Take what the agent says of itself; nobody has more than `slots_max` slots."""
        self.seq, self.seen_at_s, self.offline = report.seq, now_s, False
        self.draining = report.draining
        if report.draining and self.drained_at_s is None:
            # Ordered by a scheduler before us.
            self.drained_at_s = now_s
        if report.capacity.is_sane:
            unfit = report.unfit
            self.capacity = replace(report.capacity, slots=min(report.capacity.slots, slots_max))
        else:
            unfit, self.capacity = "it reports nonsense about its capacity", Capacity(slots=0, slots_used=0)
        if unfit is not None and self.unfit is None:
            self.unfit_since_s = now_s
        self.unfit = unfit

    @property
    def takes_leases(self) -> bool:
        return self.seq > 0 and self.state is AgentState.ONLINE

    def note_missed(self, now_s: float) -> None:
        """Note that leases did not arrive: once may happen to anybody, then the next ones wait, longer each time."""
        if self.missed_at_s == now_s:
            return
        self.missed += 1
        self.missed_at_s = now_s
        if self.missed > 1:
            self.avoided_until_s = now_s + min(AVOIDED_S_MAX, AVOIDED_S * 2.0 ** (self.missed - 2))

    def note_arrivals(self, now_s: float, *, is_any_here: bool) -> None:
        """Trust the agent again once something did arrive."""
        if is_any_here and now_s >= self.avoided_until_s:
            self.missed = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """An order sent to an agent whose outcome is not known yet."""

    job_id: str
    agent: str
    #: The agent's life that it was sent to.
    incarnation: str
    sent_at_s: float
    #: Its outcome was heard; the agent puts it down when it hears that.
    answered: bool = False


class Book:
    def __init__(self, shares: Mapping[Priority, int] = SHARES) -> None:
        self.shares = shares
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, Lease] = {}
        self.leases_of_job: defaultdict[str, set[str]] = defaultdict(set)
        self.leases_of_agent: defaultdict[str, set[str]] = defaultdict(set)
        #: How many jobs hold leases, by user; nobody stands here with 0.
        self.running: Counter[str] = Counter()
        self._user_of_running: dict[str, str] = {}
        self.sessions: dict[str, UploadSession] = {}
        self.to_abort: dict[str, UploadSession] = {}
        #: The open session of a job.
        self.session_of_job: dict[str, str] = {}
        #: Open jobs that were requeued so often that they are suspected of killing agents.
        self.suspects: set[str] = set()
        #: Jobs that wait for an agent, and jobs whose metadata is still to be fetched; suspects stand in queues apart.
        self.waiting = WaitingQueue(shares)
        self.unprobed = WaitingQueue(shares)
        self.waiting_apart = WaitingQueue(shares)
        self.unprobed_apart = WaitingQueue(shares)
        self.paused: set[Priority] = set()
        self.parking = Parking()
        self.dead_letters_count = 0
        #: By user.
        self.usage: dict[str, Usage] = {}
        self.agents: dict[str, AgentRecord] = {}
        #: Probes under way, by order id.
        self.probing: dict[str, Pending] = {}
        #: Aborts under way, by session id.
        self.aborting: dict[str, Pending] = {}
        #: When a lease was sent, or found at the start, by lease id.
        self.leased_at_s: dict[str, float] = {}
        #: How leases move, by lease id.
        self.watches: dict[str, Watch] = {}
        #: Leases that their agents have reported as held.
        self.arrived: set[str] = set()
        self.progress: dict[str, tuple[int, Progress]] = {}
        self.progress_version = 0

    @classmethod
    def rebuild(cls, state: LedgerState, now_s: float, *, heard: "Book") -> "Book":
        """Make the book from the ledger, keeping what an earlier one had heard from agents and operators.

        Agents that hold leases and were not heard of count as seen now: they get their time to report.
        """
        book = cls(heard.shares)
        book.agents, book.parking, book.paused = heard.agents, heard.parking, set(state.paused)
        book.progress_version = heard.progress_version
        book.dead_letters_count = state.dead_letters_count
        book.usage = {record.user_id: Usage(day=record.day, bytes_used=record.bytes_used) for record in state.usage}
        # Jobs first: a lease counts for the user of its job.
        for job in state.open_jobs:
            book._put_job(job, now_s)
        for lease in state.leases:
            book._add_lease(lease)
            if lease.agent not in book.agents:
                book.agents[lease.agent] = AgentRecord(lease.agent, lease.incarnation, now_s)
        for session in state.sessions:
            book._put_session(session)
        book.progress = {job_id: noted for job_id, noted in heard.progress.items() if job_id in book.jobs}
        book.watches = {lease_id: heard.watches.get(lease_id) or Watch(now_s) for lease_id in book.leases}
        book.arrived = heard.arrived & book.leases.keys()
        # Those of an earlier life may be on their way still: they get their time to arrive.
        book.leased_at_s = {lease_id: heard.leased_at_s.get(lease_id, now_s) for lease_id in book.leases}
        return book

    @property
    def queues(self) -> Sequence[WaitingQueue]:
        return (self.waiting, self.unprobed, self.waiting_apart, self.unprobed_apart)

    def unprobed_of(self, job: Job) -> WaitingQueue:
        return self.unprobed_apart if job.id in self.suspects else self.unprobed

    def online_agents(self) -> Iterable[AgentRecord]:
        """Return the agents that report, whether they take leases or not."""
        return (record for record in self.agents.values() if not record.offline and record.seq > 0)

    def apart(self, now_s: float) -> frozenset[str]:
        """Return the agents that have a suspect in hand which has not proved itself yet: nothing else goes there."""
        found = {p.agent for p in self.probing.values() if not p.answered and p.job_id in self.suspects}
        for job_id in self.suspects:
            for lease_id in self.leases_of_job.get(job_id, ()):
                if now_s - self.leased_at_s.get(lease_id, now_s) < APART_S:
                    found.add(self.leases[lease_id].agent)
        return frozenset(found)

    def busy_anew(self, now_s: float) -> frozenset[str]:
        """Return the agents that have anything in hand which has just begun: no suspect goes there."""
        found = {pending.agent for pending in self.probing.values() if not pending.answered}
        for lease_id, lease in self.leases.items():
            if now_s - self.leased_at_s.get(lease_id, now_s) < APART_S:
                found.add(lease.agent)
        return frozenset(found)

    def leases_held(self, agent: str) -> list[Lease]:
        return [self.leases[lease_id] for lease_id in sorted(self.leases_of_agent.get(agent, ()))]

    def shift(self, by_s: float) -> None:
        """Move on the times of what was heard and sent: nobody is blamed for our pause, or for a clock that was set."""
        for record in self.agents.values():
            record.seen_at_s += by_s
            record.unfit_since_s += by_s
            record.avoided_until_s += by_s
            if record.drained_at_s is not None:
                record.drained_at_s += by_s
        self.leased_at_s = {lease_id: at_s + by_s for lease_id, at_s in self.leased_at_s.items()}
        for pending in (self.probing, self.aborting):
            pending.update({key: replace(sent, sent_at_s=sent.sent_at_s + by_s) for key, sent in pending.items()})
        self.watches = {lease_id: liveness.shifted(watch, by_s) for lease_id, watch in self.watches.items()}
        self.parking = parking.shifted(self.parking, by_s)

    def open_session(self, job_id: str) -> UploadSession | None:
        session_id = self.session_of_job.get(job_id)
        return None if session_id is None else self.sessions.get(session_id)

    def note_progress(self, report: AgentReport, now_s: float, settings: LivenessSettings) -> None:
        """Follow what an agent tells of the leases it holds."""
        for told in report.progress:
            job = self.jobs.get(told.job_id)
            lease = self.leases.get(told.lease_id)
            if job is None or lease is None or lease.agent != report.agent:
                continue
            total = job.metadata.size_bytes if job.metadata else None
            left = None if total is None else max(0, total - told.bytes_done)
            eta_s = left / told.bytes_per_s if left is not None and told.bytes_per_s > 0 else None
            progress = Progress(
                bytes_done=told.bytes_done,
                bytes_total=total,
                bytes_per_s=told.bytes_per_s,
                eta_s=eta_s,
                parts_done=told.parts_done,
                parts_total=told.parts_total,
            )
            if self.progress.get(job.id, (0, None))[1] != progress:
                self.progress_version += 1
                self.progress[job.id] = (self.progress_version, progress)
            watch = self.watches.get(told.lease_id) or Watch(now_s)
            self.watches[told.lease_id] = liveness.hear(watch, told, eta_s, now_s, settings)

    def merge(
        self,
        *,
        jobs: Iterable[Job],
        granted: Iterable[Lease],
        ended: Iterable[str],
        sessions: Iterable[UploadSession],
        now_s: float,
    ) -> None:
        """Follow what was committed."""
        for lease_id in ended:
            self._drop_lease(lease_id)
        for lease in granted:
            self._add_lease(lease)
            self.leased_at_s[lease.lease_id] = now_s
            self.watches[lease.lease_id] = Watch(now_s)
        for session in sessions:
            self._put_session(session)
        for job in jobs:
            self._put_job(job, now_s)

    def _put_job(self, job: Job, now_s: float) -> None:
        for queue in self.queues:
            queue.discard(job.id)
        if job.requeues >= SUSPECT_REQUEUES and not job.is_final:
            self.suspects.add(job.id)
        else:
            self.suspects.discard(job.id)
        if job.is_final:
            self.jobs.pop(job.id, None)
            self.progress.pop(job.id, None)
            return
        self.jobs[job.id] = job
        if job.status is not JobStatus.QUEUED:
            return
        begins = [moment.timestamp() for moment in (job.next_attempt_at, job.spec.not_before) if moment is not None]
        # Metadata is fetched at once even for jobs that begin later; only a failed probe waits for its next attempt.
        if job.metadata is None:
            ready_at_s = 0.0 if job.next_attempt_at is None else job.next_attempt_at.timestamp()
            queue = self.unprobed_of(job)
        else:
            ready_at_s = max(begins, default=0.0)
            queue = self.waiting_apart if job.id in self.suspects else self.waiting
        queue.push(waiting_of(job, ready_at_s), now_s)

    def _put_session(self, session: UploadSession) -> None:
        if session.state in (SessionState.COMPLETED, SessionState.ABORTED):
            self.sessions.pop(session.session_id, None)
            self.to_abort.pop(session.session_id, None)
            self.aborting.pop(session.session_id, None)
        else:
            self.sessions[session.session_id] = session
        if session.state is SessionState.ABORTING:
            self.to_abort[session.session_id] = session
        if session.state is SessionState.OPEN:
            self.session_of_job[session.job_id] = session.session_id
        elif self.session_of_job.get(session.job_id) == session.session_id:
            del self.session_of_job[session.job_id]

    def _add_lease(self, lease: Lease) -> None:
        job = self.jobs.get(lease.job_id)
        if job is not None and job.id not in self._user_of_running:
            self._user_of_running[job.id] = job.user_id
            self.running[job.user_id] += 1
        self.leases[lease.lease_id] = lease
        self.leases_of_job[lease.job_id].add(lease.lease_id)
        self.leases_of_agent[lease.agent].add(lease.lease_id)

    def _drop_lease(self, lease_id: str) -> None:
        lease = self.leases.pop(lease_id, None)
        self.leased_at_s.pop(lease_id, None)
        self.watches.pop(lease_id, None)
        self.arrived.discard(lease_id)
        if lease is None:
            return
        for index, name in ((self.leases_of_job, lease.job_id), (self.leases_of_agent, lease.agent)):
            index[name].discard(lease_id)
            if not index[name]:
                del index[name]
        if lease.job_id not in self.leases_of_job:
            self._count_off(lease.job_id)

    def _count_off(self, job_id: str) -> None:
        user_id = self._user_of_running.pop(job_id, None)
        if user_id is not None:
            self.running[user_id] -= 1
            if self.running[user_id] == 0:
                del self.running[user_id]


def waiting_of(job: Job, ready_at_s: float) -> Waiting:
    return Waiting(
        since_s=job.created_at.timestamp(),
        job_id=job.id,
        user_id=job.user_id,
        priority=job.spec.priority,
        ready_at_s=ready_at_s,
    )
