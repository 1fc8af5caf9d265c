"""Agents that are done with every order at once: what is left is what scheduler and ledger cost.

They say what a real agent says for a file that goes up in one PUT, one report at a time, with everything that waits in
it: Probed; then CommitAsked and, once that is acknowledged, Transferred.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from actors.ports import Reports
from rayhaul.capacity import Capacity
from rayhaul.ids import NewId
from rayhaul.job import JobResult, Metadata
from rayhaul.lease import Order, ProbeOrder, SweepOrder, TransferOrder, TrimOrder
from rayhaul.report import AgentReport, CommitAsked, Notice, Probed, ReportReply, Transferred
from rayhaul.settings import Settings

FILE_BYTES = 20_000


@dataclass(slots=True)
class _InstantAgent:
    name: str
    incarnation: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    seq: int = 0
    #: Orders in hand by their id, as the next report will tell.
    held: dict[str, ProbeOrder | TransferOrder] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)


class InstantAgents:
    """Some agents in this process (actors.ports.AgentPool). They begin to report when `run` is called."""

    def __init__(self, settings: Settings, count: int, new_id: NewId, *, jobs_count: int) -> None:
        self._settings = settings
        self._new_id = new_id
        self._agents = {
            name: _InstantAgent(name, new_id("inc")) for name in map("agent-{}".format, range(1, count + 1))
        }
        self._left_count = jobs_count
        #: Set when so many jobs are completed.
        self.done = asyncio.Event()
        self.reports_count = 0

    async def run(self, scheduler: Reports) -> None:
        """Report until cancelled."""
        async with asyncio.TaskGroup() as group:
            for agent in self._agents.values():
                group.create_task(self._work(agent, scheduler))

    # --- actors.ports.AgentPool ---

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        found = self._agents[agent]
        for order in orders:
            match order:
                case ProbeOrder():
                    found.held[order.order_id] = order
                    self._tell(found, self._probed(order))
                case TransferOrder():
                    found.held[order.lease_id] = order
                    self._tell(found, self._commit_asked(order))
                case SweepOrder():
                    # There is no bucket to look into.
                    pass
                case _:
                    raise AssertionError("there is no upload to abort")

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        raise AssertionError(f"nobody takes anything from {agent}: {lease_ids}")

    async def trim(self, agent: str, orders: Sequence[TrimOrder]) -> None:
        raise AssertionError(f"{agent} has no stripes: {orders}")

    async def add(self, agent: str) -> None:
        raise AssertionError(f"there are enough without {agent}")

    async def drain(self, agent: str) -> None:
        raise AssertionError(f"nobody drains {agent}")

    async def withdraw(self, agent: str) -> None:
        raise AssertionError(f"nobody withdraws {agent}")

    async def names(self) -> Sequence[str]:
        return list(self._agents)

    # --- the course of things ---

    async def _work(self, agent: _InstantAgent, scheduler: Reports) -> None:
        agent.wake.set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.liveness.heartbeat_s):
                    await agent.wake.wait()
            agent.wake.clear()
            agent.seq += 1
            self.reports_count += 1
            self._settle(agent, await scheduler.report(self._report(agent)))

    def _report(self, agent: _InstantAgent) -> AgentReport:
        transfers_count = sum(isinstance(order, TransferOrder) for order in agent.held.values())
        return AgentReport(
            agent=agent.name,
            incarnation=agent.incarnation,
            seq=agent.seq,
            capacity=Capacity(slots=self._settings.agent.slots, slots_used=transfers_count),
            draining=False,
            held=frozenset(agent.held),
            notices=tuple(agent.notices.values()),
        )

    def _settle(self, agent: _InstantAgent, reply: ReportReply) -> None:
        assert not reply.refused, "nothing here is stale"
        for notice_id in reply.acknowledged:
            match agent.notices.pop(notice_id):
                case CommitAsked(lease_id=lease_id):
                    order = agent.held[lease_id]
                    assert isinstance(order, TransferOrder), "a commit belongs to a transfer"
                    self._tell(agent, self._transferred(order))
                case Transferred(lease_id=lease_id):
                    del agent.held[lease_id]
                    agent.wake.set()
                    self._left_count -= 1
                    if self._left_count == 0:
                        self.done.set()
                case Probed(order_id=order_id):
                    del agent.held[order_id]
                    agent.wake.set()

    def _tell(self, agent: _InstantAgent, notice: Notice) -> None:
        agent.notices[notice.notice_id] = notice
        agent.wake.set()

    def _probed(self, order: ProbeOrder) -> Probed:
        return Probed(
            notice_id=self._new_id("note"),
            order_id=order.order_id,
            job_id=order.context.job_id,
            metadata=Metadata(
                size_bytes=FILE_BYTES,
                content_type="application/octet-stream",
                etag='"5d41402abc4b2a76b9719d911017c592"',
                last_modified="Wed, 21 Oct 2015 07:28:00 GMT",
                rangeable=True,
                filename=order.url.rpartition("/")[2],
                final_url=order.url,
                fetch_ms=12,
            ),
        )

    def _commit_asked(self, order: TransferOrder) -> CommitAsked:
        return CommitAsked(
            notice_id=self._new_id("note"),
            lease_id=order.lease_id,
            epoch=order.epoch,
            job_id=order.context.job_id,
        )

    def _transferred(self, order: TransferOrder) -> Transferred:
        return Transferred(
            notice_id=self._new_id("note"),
            lease_id=order.lease_id,
            epoch=order.epoch,
            job_id=order.context.job_id,
            result=JobResult(
                bucket=order.bucket,
                key=order.key,
                size_bytes=FILE_BYTES,
                etag="5d41402abc4b2a76b9719d911017c592",
                crc64nvme="iVCmSyxkq9Y=",
            ),
        )
