"""The control loop: calls come in, turns go out; a turn observes, decides, makes durable, and only then acts.

Laws of this file:
1. Whoever calls waits for the turn that carries the call; a turn is one transaction, so a hundred calls cost one fsync.
2. Nothing is answered and no order leaves before the turn's commit stands, under our own leadership.
3. A commit that failed may stand all the same: callers are told so, and the book is rebuilt from the ledger.
4. Starting is rebuilding: there is no second code path for recovery.
5. A call whose content can not be kept fails alone: the turn is repeated in halves without it (poison.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from actors.book import Book
from actors.calls import Apply, Call, Poisoned, attempt, has_weight, refuse, settle
from actors.decisions import Rules
from actors.dispatch import Dispatch
from actors.draft import Draft
from actors.orders import EVERYTHING
from actors.poison import Isolation
from actors.scaler import Scaler
from actors.watch import Watch
from actors.watchdog import observe_silence, observe_stalls
from rayhaul.errors import InvalidRequest, NotFound, RayhaulError, Unavailable
from rayhaul.ids import NewId
from rayhaul.job import utc
from rayhaul.ledger.base import Batch, Deposed, IdempotencyRecord, Ledger, LedgerConflict
from rayhaul.metrics import LEADERSHIP, LEDGER_COMMIT, TICK_ERRORS, Meter
from rayhaul.report import AgentReport, ReportReply, SessionOpened, Swept

log = logging.getLogger(__name__)

#: The loop turns at least this often, for what only time brings.
TURN_S = 1.0
#: A turn that comes so late was held up, or the clock was set: silence during it is nobody's fault.
_LATE_S = 5.0
#: Pause after a turn that failed, so that a broken ledger is not hammered.
_FAILED_TURN_PAUSE_S = 0.5
#: Answers rest on a leadership that was confirmed no longer ago than this.
_CONFIRM_S = 1.0


class Loop:
    def __init__(
        self,
        *,
        book: Book,
        ledger: Ledger,
        dispatch: Dispatch,
        scaler: Scaler,
        hear_report: Callable[[Draft, AgentReport], ReportReply],
        watch: Watch,
        after_turn: Callable[[float], Awaitable[None]],
        rules: Rules,
        clock: Callable[[], float],
        new_id: NewId,
        holder: str,
    ) -> None:
        self.book = book
        #: What the ledger knows of the Idempotency-Keys of this turn's calls.
        self.spent: dict[tuple[str, str], IdempotencyRecord] = {}
        self.works = False
        #: Hears and answers, but starts nothing any more.
        self.is_resting = False
        self._ledger = ledger
        self._dispatch = dispatch
        self._scaler = scaler
        self._hear_report = hear_report
        self._watch = watch
        self._after_turn = after_turn
        self._rules = rules
        self._clock = clock
        self._new_id = new_id
        self._holder = holder
        self._meter: Meter = rules.meter
        self.isolation = Isolation(partial(self._turn, decide=False), self.report_call, self._meter)
        self._inbox: list[Call] = []
        self._wake = asyncio.Event()
        self._leader_epoch: int | None = None
        self._confirmed_at_s = float("-inf")
        self._turned_at_s: float | None = None
        self._started = False
        self._stopping = False
        self._book_in_doubt = False

    async def start(self) -> None:
        """Take the lead and rebuild from the ledger. Raises: Unavailable."""
        if self._leader_epoch is None:
            self._leader_epoch = await self._ledger.lead(self._holder)
            self._meter.set(LEADERSHIP, self._leader_epoch)
        state = await self._ledger.state()
        self.book = Book.rebuild(state, self._clock(), heard=self.book)
        self._meter.restore(state.counts)
        self._book_in_doubt = False
        self._started = self.works = True
        log.info(
            "scheduler ready, leadership %d: %d open jobs, %d leases, %d uploads",
            self._leader_epoch,
            len(self.book.jobs),
            len(self.book.leases),
            len(self.book.sessions),
        )

    async def run(self) -> None:
        """Turn until `stop`. Raises: Deposed when another scheduler took the lead."""
        try:
            await self._run()
        finally:
            self._started = self.works = False
            left, self._inbox = self._inbox, []
            refuse(left, Unavailable("the scheduler has stopped"))

    async def _run(self) -> None:
        # What there is to do at a start, such as looking for agents, does not wait for somebody to call.
        self._wake.set()
        while not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.tick()
            except Deposed:
                log.exception("another scheduler took the lead: this one stops")
                raise
            except RayhaulError as error:
                self._meter.inc(TICK_ERRORS)
                log.warning("turn failed: %s", error.message, extra={"code": error.code})
                await asyncio.sleep(_FAILED_TURN_PAUSE_S)
            except Exception:
                # The loop must outlive its own mistakes: the turn is dropped as a whole and counted.
                self._meter.inc(TICK_ERRORS)
                log.exception("turn failed")
                await asyncio.sleep(_FAILED_TURN_PAUSE_S)

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def tick(self) -> None:
        """Take one turn: observe, decide, make durable, act. Safe to repeat at any point.

        Raises: Deposed, after which no call is taken any more; RayhaulError where nothing is known to be done.
        """
        calls, self._inbox = self._inbox, []
        try:
            if self._book_in_doubt:
                await self.start()
            self._note_pause()
            try:
                await self._turn(calls, decide=not self.is_resting)
            except (InvalidRequest, Poisoned) as error:
                await self.isolation.take_apart(calls, error)
        except BaseException as error:
            # Queues were taken from, and a commit may stand unheard: what we remember may not be true any more.
            self._book_in_doubt = True
            if isinstance(error, LedgerConflict | Unavailable):
                self.works = False
            if isinstance(error, Deposed):
                self._started = False
            refuse(calls, error)
            raise

    def check_started(self) -> None:
        """Raises: Unavailable."""
        if not self._started:
            raise Unavailable("the scheduler is starting, or another one has the lead")

    async def ask(self, apply: Apply, **reads: Any) -> Any:
        """Have `apply` carried out in the next turn, and return what it returned once that is durable."""
        return await self.put(Call(apply, asyncio.get_running_loop().create_future(), **reads))

    async def put(self, call: Call) -> Any:
        self.check_started()
        self._inbox.append(call)
        self._wake.set()
        return await call.answer

    def report_call(self, report: AgentReport) -> Call:
        answer = asyncio.get_running_loop().create_future()
        return Call(lambda draft: self._hear_report(draft, report), answer, report=report)

    async def _turn(self, calls: Sequence[Call], *, decide: bool = True) -> None:
        if self._book_in_doubt:
            await self.start()
        draft = Draft(self.book, utc(self._clock()), self._new_id)
        try:
            await self._read_ahead(calls, draft)
            answers = [(call, attempt(call, draft)) for call in calls]
            if decide:
                self._decide(draft)
            self._watch.write(draft)
            batch = draft.seal(self._leader_epoch)
            await self._commit(batch, is_urgent=bool(draft.revokes) or any(has_weight(*told) for told in answers))
        except BaseException:
            # Nothing of it is done by a later turn, which may be one that decides nothing.
            self._dispatch.put_back(draft)
            self._scaler.put_back()
            raise
        draft.merge(batch)
        draft.tell(self._meter)
        if not batch.is_empty:
            # What has just become true (a job is here, its metadata is, a slot is free) is decided on at once.
            self._wake.set()
        for call, answer in answers:
            settle(call, answer)
        await self._dispatch.act(draft, self.book)
        knew_agents = self._scaler.knows_agents
        await self._scaler.act(self.book, draft.now_s)
        if self._scaler.knows_agents and not knew_agents:
            # Whether there are enough of them is decided at once.
            self._wake.set()
        await self._after_turn(draft.now_s)

    def _decide(self, draft: Draft) -> None:
        try:
            observe_silence(draft, self.book, self._rules)
            observe_stalls(draft, self.book, self._rules)
            self._scaler.decide(draft, self.book, self._rules)
            self._dispatch.decide(draft, self.book)
        except Exception as error:
            # The calls of this turn are not to blame: they are taken without it.
            log.exception("deciding failed unexpectedly")
            raise Poisoned(f"unexpected {type(error).__name__} in the scheduler") from error

    def _note_pause(self) -> None:
        now_s = self._clock()
        if self._turned_at_s is not None:
            late_s = now_s - self._turned_at_s - TURN_S
            if abs(late_s) > _LATE_S:
                log.warning("the loop was held up, or the clock was set, by %.0f s", late_s)
                self.book.shift(late_s)
                self._scaler.shift(late_s)
        self._turned_at_s = now_s

    async def _commit(self, batch: Batch, *, is_urgent: bool) -> None:
        """Write the batch. With nothing to write, see from time to time, or where it is urgent, that we still lead."""
        now_s = self._clock()
        if not batch.is_empty:
            await self._write(batch)
            self._meter.observe(LEDGER_COMMIT, max(0.0, self._clock() - now_s))
        elif is_urgent or abs(now_s - self._confirmed_at_s) > _CONFIRM_S:
            assert self._leader_epoch is not None
            await self._ledger.confirm(self._leader_epoch)
        else:
            return
        self.works = True
        self._confirmed_at_s = now_s

    async def _write(self, batch: Batch) -> None:
        try:
            await self._ledger.commit(batch)
        except RayhaulError:
            raise
        except Exception as error:
            # A bug of ours met this batch: find the call it came with, after a look at what was written.
            self._book_in_doubt = True
            log.exception("the ledger failed unexpectedly")
            raise Poisoned(f"unexpected {type(error).__name__} in the ledger") from error

    async def _read_ahead(self, calls: Sequence[Call], draft: Draft) -> None:
        """Bring what the calls need from the ledger and is not in the book."""
        wanted = [call.idempotency for call in calls if call.idempotency is not None]
        self.spent = dict(await self._ledger.spent(wanted)) if wanted else {}
        for call in calls:
            if call.job_id is not None:
                await self._read_job(draft, call.job_id)
            for notice in () if call.report is None else call.report.notices:
                if isinstance(notice, SessionOpened) and draft.lease(notice.lease_id) is None:
                    await self._read_session(draft, notice.session.session_id)
                for upload in notice.uploads if isinstance(notice, Swept) else ():
                    await self._read_job(draft, upload.job_id)
                    await self._read_session(draft, upload.session_id)

    async def _read_job(self, draft: Draft, job_id: str) -> None:
        if draft.job(job_id) is None:
            with suppress(NotFound):
                draft.load(await self._ledger.job(EVERYTHING, job_id))

    async def _read_session(self, draft: Draft, session_id: str) -> None:
        """An upload that is told of late may have ended already: what is over is not aborted."""
        if draft.session(session_id) is None:
            known = await self._ledger.session(session_id)
            if known is not None:
                draft.load_session(known)

    def _idle_s(self) -> float:
        due_s = [due for queue in self.book.queues if (due := queue.due_at_s()) is not None]
        return min([TURN_S, *(max(0.0, due - self._clock()) for due in due_s)])
