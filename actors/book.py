"""What the scheduler keeps in memory: the open part of the ledger, the order of the queue, and what agents said last.

Laws of this file:
1. All that is durable here is a copy: `Book.rebuild` makes it from the ledger, `merge` follows each commit and never
   precedes it.
2. What is only here (heartbeats, progress, orders under way) may be lost at any time; the next reports bring it back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rayhaul.capacity import AgentState, Capacity
from rayhaul.job import Job, JobStatus, Priority, Progress
from rayhaul.lease import Lease, SessionState, UploadSession
from rayhaul.ledger.base import LedgerState
from rayhaul.policy.queueing import SHARES, Waiting, WaitingQueue


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

    @property
    def state(self) -> AgentState:
        if self.offline:
            return AgentState.OFFLINE
        return AgentState.DRAINING if self.draining else AgentState.ONLINE


@dataclass(frozen=True, slots=True)
class Pending:
    """An order sent to an agent whose outcome is not known yet."""

    job_id: str
    agent: str
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
        self.waiting = WaitingQueue(shares)
        self.unprobed = WaitingQueue(shares)
        self.paused: set[Priority] = set()
        self.dead_letters_count = 0
        self.agents: dict[str, AgentRecord] = {}
        #: Probes under way, by order id.
        self.probing: dict[str, Pending] = {}
        #: Aborts under way, by session id.
        self.aborting: dict[str, Pending] = {}
        #: When a lease was sent, by lease id; only for leases of this scheduler's life.
        self.leased_at_s: dict[str, float] = {}
        self.progress: dict[str, tuple[int, Progress]] = {}
        self.progress_version = 0

    @classmethod
    def rebuild(cls, state: LedgerState, now_s: float, *, heard: "Book") -> "Book":
        """Make the book from the ledger, keeping what an earlier one had heard from agents and operators.

        Agents that hold leases and were not heard of count as seen now: they get their time to report.
        """
        book = cls(heard.shares)
        book.agents, book.paused = heard.agents, heard.paused
        book.progress, book.progress_version = heard.progress, heard.progress_version
        book.dead_letters_count = state.dead_letters_count
        # Jobs first: a lease counts for the user of its job.
        for job in state.open_jobs:
            book._put_job(job, now_s)
        for lease in state.leases:
            book._add_lease(lease)
            if lease.agent not in book.agents:
                book.agents[lease.agent] = AgentRecord(lease.agent, lease.incarnation, now_s)
        for session in state.sessions:
            book._put_session(session)
        return book

    def online_agents(self) -> Iterable[AgentRecord]:
        return (record for record in self.agents.values() if not record.offline and record.seq > 0)

    def open_session(self, job_id: str) -> UploadSession | None:
        session_id = self.session_of_job.get(job_id)
        return None if session_id is None else self.sessions.get(session_id)

    def note_progress(self, job_id: str, progress: Progress) -> None:
        if job_id in self.jobs and self.progress.get(job_id, (0, None))[1] != progress:
            self.progress_version += 1
            self.progress[job_id] = (self.progress_version, progress)

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
        for session in sessions:
            self._put_session(session)
        for job in jobs:
            self._put_job(job, now_s)

    def _put_job(self, job: Job, now_s: float) -> None:
        self.waiting.discard(job.id)
        self.unprobed.discard(job.id)
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
            queue = self.unprobed
        else:
            ready_at_s = max(begins, default=0.0)
            queue = self.waiting
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
