"""One turn's choice of jobs by what their hosts bear: those that may not start now are put out of the way."""

from collections import Counter, defaultdict

from actors.book import Book
from actors.draft import Draft
from actors.full_agents import FullAgents
from actors.sources import to_look_at
from rayhaul.origins import host_of, host_of_job
from rayhaul.policy.queueing import Waiting, WaitingQueue
from rayhaul.policy.scheduling import Spread


class HostTurns:
    def __init__(self, draft: Draft, book: Book, full: FullAgents) -> None:
        self._draft = draft
        self._book = book
        self._full = full
        #: Leases, or looks, begun in this turn, by host: the book does not know them yet.
        self._begun = Counter[str]()
        #: Agents of which looks are about to be ordered, by host.
        self._lookers_at = defaultdict[str, set[str]](set)
        #: Who looks at a job's source, by job; nobody at that of a job that is gone.
        self.lookers: dict[str, str] = {}

    def room(self, host: str) -> int:
        return max(0, self._book.hosts.room(host, self._draft.now_s) - self._begun[host])

    def room_to_look(self, host: str) -> int:
        return max(0, self._book.hosts.room_to_look(host, self._draft.now_s) - self._begun[host])

    def may_start(self, waiting: Waiting) -> bool:
        """Whether its host has a connection for one more lease; else the job stands aside until it has."""
        job = self._draft.job(waiting.job_id)
        if job is None:
            return True
        host = host_of_job(job)
        if self._is_put_off(self._book.waiting, waiting, host):
            return False
        if self.room(host) <= 0:
            self._book.held_back.push(waiting, host, self._draft.now_s)
            return False
        self._begun[host] += 1
        return True

    def may_look(self, spread: Spread, waiting: Waiting) -> bool:
        """Whether its source may be looked at; else the job waits until its host may be asked, or stands aside.

        Takes a slot of an agent that has room for it, and a share of the host's connections, or would have.
        """
        job = self._draft.job(waiting.job_id)
        if job is None:
            return True
        host = host_of(to_look_at(job)[0].url)
        if self._is_put_off(self._book.unprobed, waiting, host):
            return False
        others, full = self._lookers_at[host], self._full.of(job.id, self._draft.now_s)
        agent = None
        if self.room_to_look(host) > 0:
            agent = spread.take(lambda name: name not in full and self._book.hosts.may_look_from(host, name, others))
        if agent is None:
            self._book.looks_held_back.push(waiting, host, self._draft.now_s)
            return False
        self._begun[host] += 1
        others.add(agent)
        self.lookers[job.id] = agent
        return True

    def _is_put_off(self, queue: WaitingQueue, waiting: Waiting, host: str) -> bool:
        until_s = self._book.hosts.pause_until_s(host, self._draft.now_s)
        if until_s is None:
            return False
        queue.push(waiting._replace(ready_at_s=until_s), self._draft.now_s)
        return True
