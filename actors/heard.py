"""What a turn hears of agents and only remembers: no row of the ledger holds it.

Laws of this file:
1. It reads through to the book, and is brought into it once the turn's commit stands; a draft that is dropped takes it
   along.
2. It may be lost: what a turn that fails heard is said again, and what a scheduler before this one heard befalls anew.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping

from actors.book import Book
from actors.pending import Asked, Setback
from rayhaul.errors import SinkRefused
from rayhaul.policy import parking

log = logging.getLogger(__name__)


class Heard:
    def __init__(self, book: Book, now_s: float) -> None:
        self._book = book
        self._now_s = now_s
        #: Whether the bucket takes us.
        self.parking = book.parking
        self._setbacks: dict[str, Setback | None] = {}
        self._left_out: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._answered: dict[str, Asked] = {}

    def accepted_by_sink(self, job_id: str) -> None:
        """Note that the bucket takes us."""
        self.parking = parking.accepted(self.parking, job_id, self._now_s)

    def refused_by_sink(self, job_id: str, why: str, *, park_s: float) -> None:
        """Note that the bucket refuses us."""
        self.parking = parking.refused(self.parking, job_id, why, self._now_s, park_s=park_s)

    def answer(self, lease_id: str, asked: Asked) -> None:
        """Note what an agent has answered to a request for its tail."""
        self._answered[lease_id] = asked

    def note_left_out(self, job_id: str, sources: Iterable[tuple[int, str]]) -> None:
        """Take an agent's word that it does not read from some of a job's sources any more, and why."""
        self._left_out[job_id].update(sources)

    def left_out(self, job_id: str) -> Mapping[int, str]:
        """Return why sources of a job are not read from, as far as agents have told."""
        return {**self._book.left_out.get(job_id, {}), **self._left_out[job_id]}

    def setback(self, job_id: str) -> Setback | None:
        """Return what befell stripes of a job since a part of it was last recorded."""
        return self._setbacks[job_id] if job_id in self._setbacks else self._book.setbacks.get(job_id)

    def put_setback(self, job_id: str, setback: Setback | None) -> None:
        self._setbacks[job_id] = setback

    def merge(self) -> None:
        """Bring it into the book, which knows by now what leases and jobs the commit has left."""
        book = self._book
        self._merge_parking()
        for lease_id, asked in self._answered.items():
            if lease_id in book.leases:
                book.asked[lease_id] = asked
                book.restripe.add(book.leases[lease_id].job_id)
        for job_id, sources in self._left_out.items():
            if sources and job_id in book.jobs:
                book.left_out.setdefault(job_id, {}).update(sources)
        for job_id, setback in self._setbacks.items():
            book.setbacks.pop(job_id, None)
            if setback is not None and job_id in book.jobs:
                book.setbacks[job_id] = setback

    def _merge_parking(self) -> None:
        was, self._book.parking = self._book.parking, self.parking
        if was.is_parked and not self.parking.is_parked:
            log.info("the bucket takes us again: jobs are started")
        elif self.parking.is_parked and not was.is_parked:
            log.error(
                "the bucket refuses us, starts are parked: %s", self.parking.why, extra={"code": SinkRefused.code}
            )
