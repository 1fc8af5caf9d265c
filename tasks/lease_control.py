"""What a running lease asks of the scheduler, and how often it tries what failed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol, TypeVar

from rayhaul.errors import (
    AgentFull,
    ChecksumMismatch,
    HostFull,
    LeaseLost,
    RayhaulError,
    SinkError,
    SourceChanged,
    UploadLost,
)
from rayhaul.lease import PartDone, UploadSession
from rayhaul.metrics import SINK_RETRIES_EXHAUSTED, Meter
from rayhaul.policy.retry import HELD_WAIT_S_MAX, RetryBudget, wait_s
from rayhaul.settings import TransferSettings
from tasks.source import RangeIgnored

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Another try within the lease cannot cure these: the source is another file, the upload or the lease is gone, or the
#: agent has no room, and the job is for another one, or the source's host has none, and it waits without a slot.
ENDS_LEASE = (AgentFull, ChecksumMismatch, HostFull, LeaseLost, RangeIgnored, SourceChanged, UploadLost)


class LeaseControl(Protocol):
    """The way from a lease to the scheduler."""

    async def opened(self, session: UploadSession) -> None:
        """Return when the upload is durably known. Told even where the wait is cancelled. Raises: LeaseLost."""
        ...

    def left(self, session: UploadSession) -> None:
        """Tell of an upload that nobody waits for any more, so that it is aborted or gone on with; returns at once."""
        ...

    async def parts_done(self, parts: Sequence[PartDone]) -> None:
        """Queue parts to be reported; returns at once. Raises: LeaseLost."""
        ...

    async def ask_commit(self) -> None:
        """Return when the job is durably uploading: from then on the object may be published. Raises: LeaseLost."""
        ...

    def progress(self, bytes_moved: int) -> None:
        """Count bytes that are safe or on their way; negative where some have to be moved again."""
        ...

    def left_out(self, source: int, why: str) -> None:
        """Note that one of the job's sources is not read from any more, and why, in a word."""
        ...

    def doing(self, what: str) -> None:
        """Note, for a person or a watchdog that asks, what the lease is doing from now on."""
        ...

    def check(self) -> None:
        """Raises: LeaseLost once somebody else may hold the lease."""
        ...


class Asking(Protocol):
    """How a step gets what it reads from an order's sources."""

    @property
    def url(self) -> str:
        """Where was asked last."""
        ...

    async def counts(self, error: RayhaulError) -> RayhaulError | None:
        """Return what a failure means for the whole step; None: it goes on at once, and that was no try."""
        ...

    def failed_urls(self) -> Sequence[str]:
        """Return where the try asked in vain, and the next one may ask again."""
        ...


class Tries:
    """Tries a step of a lease again, as long as the lease is ours and it may help."""

    def __init__(
        self,
        control: LeaseControl,
        settings: TransferSettings,
        *,
        meter: Meter,
        rng: Random,
        sink_budget: RetryBudget,
        source_budget: Callable[[str], RetryBudget],
    ) -> None:
        """The budgets are those of the bucket and of a URL's origin, each shared by all leases that use it."""
        self._control = control
        self._settings = settings
        self._meter = meter
        self._rng = rng
        self._sink_budget = sink_budget
        self._source_budget = source_budget

    async def again(self, try_once: Callable[[], Awaitable[T]], *, asking: Asking | None = None) -> T:
        """Return what one try returned, of at most `part_attempts_max`. `asking`: how it reads, where it does.

        Raises: RayhaulError.
        """
        attempt = 0
        while True:
            attempt += 1
            self._control.check()
            try:
                done = await try_once()
            except RayhaulError as caught:
                failed = caught
            else:
                if asking is not None:
                    self._source_budget(asking.url).succeeded()
                return done
            error = failed if asking is None else await asking.counts(failed)
            if error is None:
                attempt -= 1
                continue
            delay_s = self._delay_s(error, attempt, [] if asking is None else asking.failed_urls())
            self._control.doing("waiting to try again")
            await asyncio.sleep(delay_s)
            self._control.doing("moving bytes")

    def _delay_s(self, error: RayhaulError, attempt: int, failed_urls: Sequence[str]) -> float:
        """Return the time until the next try. Raises: the error, where there is none."""
        if isinstance(error, ENDS_LEASE) or not error.retryable:
            raise error
        if attempt >= self._settings.part_attempts_max:
            if isinstance(error, SinkError):
                self._meter.inc(SINK_RETRIES_EXHAUSTED)
            raise error
        _log.info("try %d failed: %s", attempt, error.message, extra={"code": error.code})
        # Each of them may be asked a second time, so each is spared.
        sources = [self._source_budget(url) for url in failed_urls]
        budgets = {id(one): one for one in ([self._sink_budget] if isinstance(error, SinkError) else sources)}
        now_s = asyncio.get_running_loop().time()
        backoff_s = wait_s(error.failure(), attempt=attempt, settings=self._settings, rng=self._rng)
        delay_s = max([backoff_s, *(budget.take(now_s) for budget in budgets.values())])
        if delay_s > HELD_WAIT_S_MAX:
            # So long a wait needs no slot: the job waits in the queue.
            raise error
        return delay_s


def weightiest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error, among some that came at once, which says best what has to follow."""
    pending, errors = [*group.exceptions], list[BaseException]()
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            errors.append(error)

    def weight(error: BaseException) -> int:
        if not isinstance(error, RayhaulError):
            return 0
        if isinstance(error, LeaseLost):
            return 1
        if isinstance(error, HostFull):
            # It says nothing of the job, as all others do.
            return 5
        if isinstance(error, ENDS_LEASE):
            return 2
        return 4 if error.retryable else 3

    return min(errors, key=weight)
