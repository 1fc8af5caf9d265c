"""What an agent has to tell: notices wait here until the scheduler acknowledged them."""

import asyncio
from collections.abc import Callable, Sequence

from actors.holding import Held
from rayhaul.errors import LeaseLost
from rayhaul.ids import NewId
from rayhaul.lease import PartDone, TransferOrder, UploadSession
from rayhaul.report import COMMITTING, CommitAsked, Notice, PartsDone, ReportReply, SessionOpened
from tasks.pace import Rate


class Outbox:
    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._notices: dict[str, Notice] = {}
        self._waiters: dict[str, asyncio.Future[bool]] = {}

    def notices(self) -> Sequence[Notice]:
        """Return what waits, in the order in which it happened."""
        return tuple(self._notices.values())

    def post(self, notice: Notice) -> asyncio.Future[bool]:
        """Put a notice in; the future tells whether it counted (False: refused as stale)."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._notices[notice.notice_id] = notice
        self._waiters[notice.notice_id] = waiter
        self._wake.set()
        return waiter

    async def tell(self, notice: Notice) -> None:
        """Wait until a notice is durable. Raises: LeaseLost where it was refused."""
        waiter = self.post(notice)
        try:
            counted = await waiter
        finally:
            self._notices.pop(notice.notice_id, None)
            self._waiters.pop(notice.notice_id, None)
        if not counted:
            raise LeaseLost

    def settle(self, reply: ReportReply) -> None:
        """Take the scheduler's answer."""
        for notice_id in reply.acknowledged:
            self._notices.pop(notice_id, None)
            waiter = self._waiters.pop(notice_id, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(notice_id not in reply.refused)


class Control:
    """One lease's way to the scheduler (tasks.transfer.LeaseControl)."""

    def __init__(
        self,
        held: Held,
        order: TransferOrder,
        outbox: Outbox,
        *,
        agent_rate: Rate,
        check_fence: Callable[[], None],
        new_id: NewId,
        monotonic: Callable[[], float],
    ) -> None:
        self._held = held
        self._monotonic = monotonic
        self._order = order
        self._outbox = outbox
        self._agent_rate = agent_rate
        self._check_fence = check_fence
        self._new_id = new_id
        known = held.known()
        held.parts_done = len(known)
        held.move(sum(part.size_bytes for part in known), monotonic())
        held.do("moving bytes", monotonic())

    async def opened(self, session: UploadSession) -> None:
        if not await asyncio.shield(self._tell_of(session)):
            raise LeaseLost

    def left(self, session: UploadSession) -> None:
        self._tell_of(session)

    def _tell_of(self, session: UploadSession) -> asyncio.Future[bool]:
        """Post what must be heard whatever becomes of the lease: the upload exists."""
        return self._outbox.post(
            SessionOpened(
                notice_id=self._new_id("note"),
                lease_id=self._order.lease_id,
                epoch=self._order.epoch,
                job_id=self._order.context.job_id,
                session=session,
            )
        )

    async def parts_done(self, parts: Sequence[PartDone]) -> None:
        self.check()
        self._held.parts_done += len(parts)
        waiter = self._outbox.post(
            PartsDone(
                notice_id=self._new_id("note"),
                lease_id=self._order.lease_id,
                epoch=self._order.epoch,
                job_id=self._order.context.job_id,
                parts=tuple(parts),
            )
        )
        waiter.add_done_callback(self._heard)

    async def ask_commit(self) -> None:
        self.check()
        self.doing(COMMITTING)
        await self._outbox.tell(
            CommitAsked(
                notice_id=self._new_id("note"),
                lease_id=self._order.lease_id,
                epoch=self._order.epoch,
                job_id=self._order.context.job_id,
            )
        )

    def progress(self, bytes_moved: int) -> None:
        self._held.move(bytes_moved, self._monotonic())
        if bytes_moved > 0:
            self._held.rate.bytes_total += bytes_moved
            self._agent_rate.bytes_total += bytes_moved

    def left_out(self, source: int, why: str) -> None:
        self._held.left_out[source] = why

    def doing(self, what: str) -> None:
        self._held.do(what, self._monotonic())

    def check(self) -> None:
        if self._held.lost:
            raise LeaseLost
        self._check_fence()

    def _heard(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.cancelled() and not waiter.result():
            self._held.lose()
