"""Schedulers and ledgers with one protection taken out, for the tests that ask whether the simulation would notice."""

from dataclasses import replace
from typing import Any

from reference import ReferenceLedger

from actors.draft import Draft
from actors.loop import Loop
from actors.scheduler import Scheduler
from rayhaul.ledger.base import Batch, LedgerState
from rayhaul.report import Aborted, Notice, Probed, ProbeFailed, Swept


class Fenceless(Scheduler):
    """Takes a notice for what it says of a job, under whichever lease it was said."""

    def _hear_notice(self, draft: Draft, notice: Notice) -> bool:
        if not isinstance(notice, Probed | ProbeFailed | Aborted | Swept) and draft.lease(notice.lease_id) is None:
            for lease in draft.leases_of_job(notice.job_id):
                notice = replace(notice, lease_id=lease.lease_id, epoch=lease.epoch)
        return super()._hear_notice(draft, notice)


class _SureLoop(Loop):
    @property
    def _book_in_doubt(self) -> bool:
        return False

    @_book_in_doubt.setter
    def _book_in_doubt(self, value: bool) -> None:
        pass


class Sure(Scheduler):
    """Never rebuilds its book: a commit that failed did not stand, it thinks."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._loop.__class__ = _SureLoop


class EpochsForgotten(ReferenceLedger):
    """Epochs do not survive a scheduler: each begins to count anew."""

    async def state(self) -> LedgerState:
        state = await super().state()
        return replace(state, open_jobs=[replace(job, epoch=0) for job in state.open_jobs])


class Leaderless(ReferenceLedger):
    """Takes what anybody writes."""

    checks_versions = False
    checks_leader = False


class Undecided(ReferenceLedger):
    """Two schedulers may answer; only what they write is kept apart, by the jobs' versions."""

    checks_leader = False


class Halves(ReferenceLedger):
    """A commit that is no transaction: leases are written, and then it fails."""

    async def commit(self, batch: Batch) -> None:
        self.check_refusals(batch)
        if len(batch.leases_granted) > 1:
            batch = replace(batch, leases_granted=batch.leases_granted[:1])
        await super().commit(batch)
