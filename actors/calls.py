"""Calls: what is asked of the scheduler, from when it waits for a turn until its caller is told.

Laws of this file:
1. An error of ours is the answer of its call alone; a bug of ours makes the draft that it met worthless.
2. A caller is told once, and never that something is done which may not be.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.draft import Draft
from rayhaul.errors import Internal, RayhaulError, Unavailable
from rayhaul.ledger.base import LedgerConflict
from rayhaul.report import AgentReport, ReportReply

log = logging.getLogger(__name__)

Apply = Callable[[Draft], Any]


class Poisoned(Internal):
    """The content of a call brought its turn down; nothing of the turn was written."""


@dataclass(slots=True)
class Call:
    """Something asked of the scheduler: `apply` takes it into the turn's draft; `answer` is told when it is durable."""

    apply: Apply
    answer: asyncio.Future[Any]
    #: Read before the turn decides: (user id, Idempotency-Key), or the id of a job that may be final.
    idempotency: tuple[str, str] | None = None
    job_id: str | None = None
    #: What `apply` hears, where that is an agent's report.
    report: AgentReport | None = None


def attempt(call: Call, draft: Draft) -> Any:
    """Apply a call; an error of ours is its answer, and leaves the rest of the turn alone.

    Raises: Poisoned where a bug of ours met it, and the draft is not to be trusted any more.
    """
    try:
        return call.apply(draft)
    except RayhaulError as error:
        return error
    except Exception as error:
        log.exception("a call failed unexpectedly")
        raise Poisoned(f"unexpected {type(error).__name__} in the scheduler") from error


def has_weight(call: Call, answer: Any) -> bool:
    """Say whether an agent will do or leave something by this answer: leave to publish, say, or a lease to stop."""
    if call.report is None or not isinstance(answer, ReportReply):
        return False
    return bool(call.report.notices or answer.revoked or answer.superseded)


def settle(call: Call, answer: Any) -> None:
    """Give a call its answer, which is durable by now."""
    if call.answer.done():
        return
    if isinstance(answer, RayhaulError):
        call.answer.set_exception(answer)
    else:
        call.answer.set_result(answer)


def refuse(calls: Sequence[Call], error: BaseException) -> None:
    """Tell the callers of a turn that failed that nothing of it was done."""
    for call in calls:
        if not call.answer.done():
            if isinstance(error, LedgerConflict):
                call.answer.set_exception(Unavailable("another scheduler wrote; what was asked may not be done"))
            elif isinstance(error, RayhaulError):
                call.answer.set_exception(type(error)(error.message))
            else:
                call.answer.set_exception(Unavailable("the turn that carried this call failed"))
