"""Poison: of the calls of a turn that failed, the one whose content can not be kept is found, and fails alone.

Laws of this file:
1. The calls are taken again in ever smaller turns, and the notices of a report after them, until the bad one is alone.
2. A bad notice is remembered by its id and refused from then on: its agent would say it again and again, with all else
   it has to say.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from actors.calls import Call, Poisoned, refuse, settle
from rayhaul.errors import InvalidRequest, RayhaulError
from rayhaul.metrics import POISONED_CALLS, Meter
from rayhaul.report import AgentReport, ReportReply

log = logging.getLogger(__name__)

#: Poisoned notices that are remembered until their agents have heard of it.
_POISONED_MAX = 1000


class Isolation:
    """`turn` takes calls into a turn of their own in which nothing is decided; `report_call` is a report as a call."""

    def __init__(
        self,
        turn: Callable[[Sequence[Call]], Awaitable[None]],
        report_call: Callable[[AgentReport], Call],
        meter: Meter,
    ) -> None:
        #: Notices that the ledger can not take, by id.
        self.poisoned: dict[str, None] = {}
        self._turn = turn
        self._report_call = report_call
        self._meter = meter

    async def take_apart(self, calls: Sequence[Call], error: RayhaulError) -> None:
        """Take the calls of a turn that failed again, in ever smaller turns, until the bad one is alone.

        Raises: `error` where it is none of the calls.
        """
        if not calls:
            raise error
        half = len(calls) // 2
        for some in (calls[:half], calls[half:]):
            if some:
                await self._retake(some)

    async def _retake(self, calls: Sequence[Call]) -> None:
        try:
            await self._turn(calls)
        except (InvalidRequest, Poisoned) as error:
            if len(calls) == 1:
                await self._isolate(calls[0], error)
            else:
                await self.take_apart(calls, error)

    async def _isolate(self, call: Call, error: RayhaulError) -> None:
        notices = () if call.report is None else call.report.notices
        if len(notices) > 1:
            await self._halve(call)
            return
        self._meter.inc(POISONED_CALLS)
        if not notices or notices[0].notice_id in self.poisoned:
            log.warning("a call can not be carried out: %s", error.message, extra={"code": error.code})
            refuse([call], error)
            return
        job_id, kind = notices[0].job_id, type(notices[0]).__name__
        log.error("a notice can not be taken, %s: %s", kind, error.message, extra={"jobId": job_id})
        self.poisoned[notices[0].notice_id] = None
        while len(self.poisoned) > _POISONED_MAX:
            del self.poisoned[next(iter(self.poisoned))]
        await self._retake([call])

    async def _halve(self, call: Call) -> None:
        """Hear a report in two pieces, each with half of the notices, and give one answer."""
        assert call.report is not None
        notices = call.report.notices
        half = len(notices) // 2
        replies: list[ReportReply] = []
        # First with none: where that fails, it is none of the notices.
        for some in ((), notices[:half], notices[half:]):
            piece = self._report_call(replace(call.report, notices=some))
            await self._retake([piece])
            try:
                replies.append(piece.answer.result())
            except RayhaulError as error:
                refuse([call], error)
                return
        settle(call, _joined(replies))


def _joined(replies: Sequence[ReportReply]) -> ReportReply:
    """Return the one answer to a report that was heard in pieces."""
    return replace(
        replies[-1],
        acknowledged=frozenset().union(*(reply.acknowledged for reply in replies)),
        refused=frozenset().union(*(reply.refused for reply in replies)),
    )
