"""Those who use the cluster: they submit, ask again until they are told, and change their minds."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from reference import ReferenceLedger
from violations import must
from weather import Odds

from actors.ports import Accepted, Command, Submission
from actors.scheduler import Scheduler
from rayhaul.errors import InvalidRequest, NotFound
from rayhaul.job import Job, JobSpec, JobStatus, Priority, utc
from rayhaul.ledger.base import Role, Viewer
from rayhaul.metrics import Snapshot

OPERATOR = Viewer("operator", Role.OPERATOR)
USERS = ("ann", "bob", "eve")
_NOT_BEFORE_S = 40
_COMMANDS = tuple(Command)

#: Something to ask of a scheduler, and what is made of its answer (an exception where it refused).
Wish = tuple[Callable[[Scheduler], Coroutine[Any, Any, Any]], Callable[[Any], None]]


@dataclass(slots=True)
class People:
    rng: Random
    odds: Odds
    ledger: ReferenceLedger
    new_id: Callable[[str], str]
    now_s: Callable[[], float]
    note: Callable[[str], None]
    #: Submissions not answered yet, by Idempotency-Key.
    unanswered: dict[str, Submission] = field(default_factory=dict)
    #: Those on their way to the scheduler now.
    asked: set[str] = field(default_factory=set)
    accepted_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    refused: int = 0

    def submit(self, count: int, *, user: str | None = None) -> None:
        """Wish for jobs; they are asked for in the steps to come until they are accepted."""
        rng = self.rng
        specs = tuple(self._spec() for _ in range(count))
        key = self.new_id("key")
        is_poisoned = rng.random() < self.odds.poisoned
        self.unanswered[key] = Submission(
            user_id=user or rng.choice(USERS),
            correlation_id=self.new_id("correlation") + ("\ud800" if is_poisoned else ""),
            specs=specs,
            idempotency=(key, "fingerprint"),
        )

    def _spec(self) -> JobSpec:
        rng = self.rng
        kind = rng.choice(["small", "large", "large"])
        later = utc(self.now_s() + rng.randint(1, _NOT_BEFORE_S)) if rng.random() < 0.1 else None
        return JobSpec(
            url=f"https://origin.example/{self.new_id('file')}/{kind}",
            priority=rng.choice(list(Priority)),
            # Parts are sent one by one: all that an agent has not sent yet may go to others.
            connections=1,
            not_before=later,
            webhook="https://hook.example" if rng.random() < 0.1 else None,
        )

    def wishes(self) -> list[Wish]:
        """Return what is asked in this step."""
        wishes = [self._submission(key, wanted) for key, wanted in self.unanswered.items() if key not in self.asked]
        self.asked.update(self.unanswered)
        if self.accepted and self.rng.random() < self.odds.command:
            wishes.append(self._command(self.rng.choice(self.accepted), self.rng.choice(_COMMANDS)))
        if self.accepted and self.rng.random() < self.odds.job_stopped:
            wishes.append(self._stop())
        if self.rng.random() < self.odds.dead_visited:
            wishes += self._visit_dead()
        if self.accepted and self.rng.random() < self.odds.looked_at:
            wishes.append(self._look(self.rng.choice(self.accepted)))
        if self.rng.random() < self.odds.priority_paused:
            wishes.append(self._pause(self.rng.choice(list(Priority)), paused=self.rng.random() < 0.5))
        return wishes

    def wishes_at_last(self) -> list[Wish]:
        """Return what has to be asked so that everything can end."""
        wishes = self.wishes()
        wishes += [self._pause(priority, paused=False) for priority in self.ledger.rows.paused]
        rows = self.ledger.rows
        waiting = [job_id for job_id, job in rows.open.items() if job.status is JobStatus.PAUSED]
        return wishes + [self._command(job_id, Command.RESUME) for job_id in waiting]

    def _submission(self, key: str, wanted: Submission) -> Wish:
        def answered(answer: Any) -> None:
            self.asked.discard(key)
            if isinstance(answer, Accepted):
                self._accept(key, answer)
            elif isinstance(answer, InvalidRequest):
                must("\ud800" in wanted.correlation_id, "poison", f"{key} is refused though nothing is wrong with it")
                self.unanswered.pop(key, None)
                self.refused += 1

        return (lambda scheduler: scheduler.submit(wanted), answered)

    def _accept(self, key: str, answer: Accepted) -> None:
        """I5: what was answered stands, and a second answer is the first one."""
        self.note(f"{key} is accepted: {' '.join(answer.job_ids)}")
        self.unanswered.pop(key, None)
        for job_id in answer.job_ids:
            must(job_id in self.ledger.rows.jobs, "I5", f"{job_id} is accepted and not in the ledger")
        before = self.accepted_of.setdefault(key, answer.job_ids)
        must(before == answer.job_ids, "I5", f"{key} made {before}, and again {answer.job_ids}")
        if before is answer.job_ids:
            self.accepted += answer.job_ids

    def _command(self, job_id: str, command: Command) -> Wish:
        owner = self.ledger.rows.jobs[job_id].user_id
        viewer = OPERATOR if command is Command.REQUEUE else Viewer(self.rng.choice([owner, owner, owner, *USERS]))
        self.note(f"{viewer.user_id} asks to {command} {job_id}")

        def answered(answer: Any) -> None:
            if isinstance(answer, Job):
                must(viewer.sees_all or viewer.user_id == answer.user_id, "tenant", f"{viewer} steers {job_id}")
                stands = self.ledger.rows.jobs[job_id].version
                must(answer.version <= stands, "durable", f"{job_id}: version {answer.version} told, {stands} stands")
            elif isinstance(answer, NotFound):
                must(viewer.user_id != owner, "tenant", f"{owner} does not find {job_id}")

        return (lambda scheduler: scheduler.command(viewer, job_id, command), answered)

    def _visit_dead(self) -> list[Wish]:
        """Give a dead-lettered job another life, or take it out of the queue; now and then one that is not in it."""
        dead = [job_id for job_id, job in self.ledger.rows.jobs.items() if job.dead_lettered_at is not None]
        candidates = dead or self.accepted
        if not candidates:
            return []
        job_id, again = self.rng.choice(candidates), self.rng.random() < 0.5
        self.note(f"{'replay' if again else 'discard'} {job_id}")

        def answered(answer: Any) -> None:
            if isinstance(answer, Job):
                stands = self.ledger.rows.jobs[job_id].version
                must(answer.version <= stands, "durable", f"{job_id}: version {answer.version} told, {stands} stands")

        def ask(scheduler: Scheduler) -> Coroutine[Any, Any, Any]:
            return scheduler.replay(job_id) if again else scheduler.discard(job_id)

        return [(ask, answered)]

    def _look(self, job_id: str) -> Wish:
        """Ask for what a page or a dashboard shows; it must have an answer at any time."""
        looks: list[Callable[[Scheduler], Coroutine[Any, Any, Any]]] = [
            lambda scheduler: scheduler.job_state(job_id),
            lambda scheduler: scheduler.agents(),
            lambda scheduler: scheduler.queue(),
            lambda scheduler: scheduler.progress(0),
            lambda scheduler: scheduler.metrics("api", Snapshot()),
            lambda scheduler: scheduler.ready(),
        ]
        return (self.rng.choice(looks), lambda _: None)

    def _stop(self) -> Wish:
        leases = list(self.ledger.rows.leases.values())
        lease = self.rng.choice(leases) if leases else None
        agent, job_id = ("agent-1", self.rng.choice(self.accepted)) if lease is None else (lease.agent, lease.job_id)

        def answered(answer: Any) -> None:
            must(isinstance(answer, Exception | Job), "durable", "stop_job answers with a job")

        return (lambda scheduler: scheduler.stop_job(agent, job_id), answered)

    def _pause(self, priority: Priority, *, paused: bool) -> Wish:
        self.note(f"{'pause' if paused else 'resume'} {priority} jobs")

        return (lambda scheduler: scheduler.set_paused(priority, paused=paused), lambda _: None)
