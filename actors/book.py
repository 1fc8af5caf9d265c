"""What the scheduler keeps in memory: the open part of the ledger, the order of the queue, and what agents said last.

Laws of this file:
1. All that is durable here is a copy: `Book.rebuild` makes it from the ledger, `merge` follows each commit and never
   precedes it.
2. What is only here (heartbeats, progress, orders under way) may be lost at any time; the next reports bring it back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from actors.agent_record import AgentRecord
from actors.hosts import Hosts
from actors.pending import Asked, Pending, Setback
from actors.rates import Rates
from rayhaul.job import Job, JobStatus, Priority, Progress
from rayhaul.lease import Lease, PartDone, ProbeOrder, SessionState, UploadSession
from rayhaul.ledger.base import LedgerState
from rayhaul.origins import host_of, host_of_job, hosts_of_mirrors
from rayhaul.policy import liveness, parking
from rayhaul.policy.held_back import HeldBack
from rayhaul.policy.liveness import APART_S, SUSPECT_REQUEUES, Watch
from rayhaul.policy.parking import Parking
from rayhaul.policy.partset import PartSet, with_numbers
from rayhaul.policy.queueing import SHARES, Waiting, WaitingQueue
from rayhaul.policy.quota import Usage
from rayhaul.report import LeaseProgress
from rayhaul.settings import HostsSettings


class Book:
    def __init__(
        self, shares: Mapping[Priority, int] = SHARES, hosts: Hosts | None = None, rates: Rates | None = None
    ) -> None:
        self.shares = shares
        #: What is known of origin hosts.
        self.hosts = Hosts(HostsSettings()) if hosts is None else hosts
        #: Limits in bytes per second, and who was granted how much of them.
        self.rates = Rates() if rates is None else rates
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
        #: Recorded parts of open sessions.
        self.parts: dict[str, PartSet] = {}
        #: Open jobs that were requeued so often that they are suspected of killing agents.
        self.suspects: set[str] = set()
        #: Jobs that wait for an agent, and jobs whose metadata is still to be fetched; suspects stand in queues apart.
        self.waiting = WaitingQueue(shares)
        self.unprobed = WaitingQueue(shares)
        self.waiting_apart = WaitingQueue(shares)
        self.unprobed_apart = WaitingQueue(shares)
        #: Jobs out of `waiting` whose host has no connection left.
        self.held_back = HeldBack(shares)
        #: The same of `unprobed`.
        self.looks_held_back = HeldBack(shares)
        self.paused: set[Priority] = set()
        self.parking = Parking()
        self.dead_letters_count = 0
        #: When an agent was last sent to sweep the bucket; None: no scheduler has been there for that yet.
        self.swept_at: datetime | None = None
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
        #: What agents last said of their leases.
        self.told: dict[str, LeaseProgress] = {}
        #: Leases whose tails were asked for.
        self.asked: dict[str, Asked] = {}
        #: The best pace of a stripe of a running job, in bytes/s.
        self.best_bytes_per_s: dict[str, float] = {}
        self.setbacks: dict[str, Setback] = {}
        #: Why sources of a job are not read from, by job and source.
        self.left_out: dict[str, dict[int, str]] = {}
        #: Jobs whose stripes have just changed, and are looked at in the next turn.
        self.restripe: set[str] = set()
        #: How far running jobs are, each with the version of all progress in which it last changed (progress.py).
        self.progress: dict[str, tuple[int, Progress]] = {}
        self.progress_version = 0

    @classmethod
    def rebuild(cls, state: LedgerState, now_s: float, *, heard: "Book") -> "Book":
        """Make the book from the ledger, keeping what an earlier one had heard from agents and operators.

        Agents that hold leases and were not heard of count as seen now: they get their time to report.
        """
        heard.hosts.forget_leases()
        heard.rates.forget_leases()
        book = cls(heard.shares, heard.hosts, heard.rates)
        book.agents, book.parking, book.paused = heard.agents, heard.parking, set(state.paused)
        book.progress_version = heard.progress_version
        book.dead_letters_count, book.swept_at = state.dead_letters_count, state.swept_at
        book.usage = {record.user_id: Usage(day=record.day, bytes_used=record.bytes_used) for record in state.usage}
        # Jobs first: a lease counts for the user of its job.
        for job in state.open_jobs:
            book._put_job(job, now_s)
        for lease in state.leases:
            book._add_lease(lease)
            if lease.agent not in book.agents:
                book.agents[lease.agent] = AgentRecord(lease.agent, lease.incarnation, now_s)
        book.hosts.assume()
        book.rates.assume()
        for session in state.sessions:
            book._put_session(session)
        for session_id, numbers in state.parts.items():
            book.parts[session_id] = with_numbers(0, numbers)
        book.told = {lease_id: told for lease_id, told in heard.told.items() if lease_id in book.leases}
        book.asked = {lease_id: asked for lease_id, asked in heard.asked.items() if lease_id in book.leases}
        running = {lease.job_id for lease in book.leases.values()}
        book.best_bytes_per_s = {id_: best for id_, best in heard.best_bytes_per_s.items() if id_ in running}
        book.setbacks = {job_id: setback for job_id, setback in heard.setbacks.items() if job_id in book.jobs}
        book.left_out = {job_id: sources for job_id, sources in heard.left_out.items() if job_id in book.jobs}
        book.progress = {job_id: noted for job_id, noted in heard.progress.items() if job_id in book.jobs}
        book.watches = {lease_id: heard.watches.get(lease_id) or Watch(now_s) for lease_id in book.leases}
        book.arrived = heard.arrived & book.leases.keys()
        # Those of an earlier life may be on their way still: they get their time to arrive.
        book.leased_at_s = {lease_id: heard.leased_at_s.get(lease_id, now_s) for lease_id in book.leases}
        return book

    @property
    def queues(self) -> Sequence[WaitingQueue | HeldBack]:
        aside = (self.held_back, self.looks_held_back)
        return (self.waiting, self.unprobed, self.waiting_apart, self.unprobed_apart, *aside)

    def unprobed_of(self, job: Job) -> WaitingQueue:
        return self.unprobed_apart if job.id in self.suspects else self.unprobed

    def begin_look(self, order: ProbeOrder, pending: Pending) -> ProbeOrder:
        """Note a look that is about to be ordered, and return the order with what its agent may use of its hosts."""
        self.probing[order.order_id] = pending
        hosts = [host_of(url) for url in (order.url, *(source.url for source in order.mirrors))]
        self.hosts.add_look(order.order_id, pending.agent, list(dict.fromkeys(hosts)))
        grants = {host: self.hosts.grant(pending.agent, host, pending.sent_at_s) for host in hosts}
        mirrors = [replace(source, grant=grants[host_of(source.url)]) for source in order.mirrors]
        return replace(order, grant=grants[hosts[0]], mirrors=tuple(mirrors))

    def note_look_answered(self, order_id: str) -> None:
        """Give its connection back; its agent holds the order until it hears from us."""
        self.probing[order_id] = replace(self.probing[order_id], answered=True)
        self.hosts.drop_look(order_id)

    def end_look(self, order_id: str) -> None:
        self.probing.pop(order_id, None)
        self.hosts.drop_look(order_id)

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

    def wait_to_send(self, lease_id: str, now_s: float) -> None:
        """Let its time to arrive, and to move, begin anew: that it is not sent yet is nothing against its agent."""
        self.leased_at_s[lease_id] = now_s
        self.watches[lease_id] = Watch(now_s)

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
        self.hosts.shift(by_s)
        for asked in self.asked.values():
            asked.at_s += by_s
        self.setbacks = {id_: replace(back, until_s=back.until_s + by_s) for id_, back in self.setbacks.items()}

    def open_session(self, job_id: str) -> UploadSession | None:
        session_id = self.session_of_job.get(job_id)
        return None if session_id is None else self.sessions.get(session_id)

    def merge(
        self,
        *,
        jobs: Iterable[Job],
        granted: Iterable[Lease],
        ended: Iterable[str],
        trimmed: Iterable[Lease],
        sessions: Iterable[UploadSession],
        parts: Iterable[PartDone],
        now_s: float,
    ) -> None:
        """Follow what was committed."""
        for lease_id in ended:
            self._drop_lease(lease_id)
        for lease in granted:
            self._add_lease(lease)
            self.leased_at_s[lease.lease_id] = now_s
            self.watches[lease.lease_id] = Watch(now_s)
        for lease in trimmed:
            if lease.lease_id in self.leases:
                self.leases[lease.lease_id] = lease
                self.restripe.add(lease.job_id)
        for session in sessions:
            self._put_session(session)
        for part in parts:
            if part.session_id in self.parts:
                self.parts[part.session_id] |= 1 << part.number
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
            self.setbacks.pop(job.id, None)
            self.left_out.pop(job.id, None)
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
            self.parts.setdefault(session.session_id, 0)
            self.restripe.add(session.job_id)
            return
        self.parts.pop(session.session_id, None)
        if self.session_of_job.get(session.job_id) == session.session_id:
            del self.session_of_job[session.job_id]

    def _add_lease(self, lease: Lease) -> None:
        job = self.jobs.get(lease.job_id)
        if job is not None and job.id not in self._user_of_running:
            self._user_of_running[job.id] = job.user_id
            self.running[job.user_id] += 1
        if job is not None:
            self.hosts.add_lease(
                lease.lease_id, lease.agent, host_of_job(job), job.spec.connections, hosts_of_mirrors(job)
            )
            self.rates.add_lease(lease.lease_id, lease.agent, job)
        self.leases[lease.lease_id] = lease
        self.leases_of_job[lease.job_id].add(lease.lease_id)
        self.leases_of_agent[lease.agent].add(lease.lease_id)

    def _drop_lease(self, lease_id: str) -> None:
        lease = self.leases.pop(lease_id, None)
        self.leased_at_s.pop(lease_id, None)
        self.watches.pop(lease_id, None)
        self.arrived.discard(lease_id)
        self.told.pop(lease_id, None)
        self.asked.pop(lease_id, None)
        self.hosts.drop_lease(lease_id)
        self.rates.drop_lease(lease_id)
        if lease is None:
            return
        self.restripe.add(lease.job_id)
        for index, name in ((self.leases_of_job, lease.job_id), (self.leases_of_agent, lease.agent)):
            index[name].discard(lease_id)
            if not index[name]:
                del index[name]
        if lease.job_id not in self.leases_of_job:
            self._count_off(lease.job_id)
            self.best_bytes_per_s.pop(lease.job_id, None)

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
