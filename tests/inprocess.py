"""A whole Rayhaul in one process and without Ray: the real scheduler, agents, ledger and API, wired by hand.

What crosses Ray in production is a plain call here; everything else is the same code. An agent can be killed: its tasks
are cancelled with nothing told, as SIGKILL would do it, and another incarnation takes its name. So can the scheduler.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import time
from typing import Any, cast

import uvicorn
from ledger_files import sqlite_url

from actors.agent import Agent
from actors.courier import Courier
from actors.decisions import Rules
from actors.ports import ControlPlane
from actors.scheduler import Scheduler
from rayhaul import keys
from rayhaul.alert_file import read_objectives, read_rules, read_scaling_rule
from rayhaul.errors import Unavailable
from rayhaul.ids import IdFactory
from rayhaul.lease import Order, TrimOrder
from rayhaul.ledger.base import Batch, Role
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.metrics import Meter
from rayhaul.report import AgentReport, ReportReply
from rayhaul.settings import AgentSettings, EgressSettings, LivenessSettings, S3Settings, Settings, TransferSettings
from rayhaul.trace_export import open_tracer
from serve_app.app import create_app
from tasks.egress import GuardedClient
from tasks.sink import Sink

PART_BYTES = 5 * 1024 * 1024


def quick_settings(s3: S3Settings, **changes: Any) -> Settings:
    """Settings for tests: loopback allowed, small parts, short waits."""
    groups: dict[str, Any] = {
        "s3": s3,
        "egress": EgressSettings(allow=("127.0.0.1/32",)),
        "transfer": TransferSettings(
            part_bytes_min=PART_BYTES, single_put_bytes_max=PART_BYTES, retry_base_s=0.02, retry_cap_s=0.2
        ),
        "liveness": LivenessSettings(heartbeat_s=0.1),
        "agent": AgentSettings(slots=8),
    }
    return Settings().model_copy(update=groups | changes)


class LocalAgents:
    """Agents as objects of this process (actors.ports.AgentPool)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._agents: dict[str, Agent] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stack: dict[str, AsyncExitStack] = {}
        self._muted: set[str] = set()
        self.scheduler: Scheduler | None = None

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        if agent in self._agents and agent not in self._muted:
            await self._agents[agent].assign(orders)

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        if agent in self._agents and agent not in self._muted:
            await self._agents[agent].revoke(lease_ids)

    async def trim(self, agent: str, orders: Sequence[TrimOrder]) -> None:
        if agent in self._agents and agent not in self._muted:
            await self._agents[agent].trim(orders)

    async def drain(self, agent: str) -> None:
        if agent in self._agents:
            await self._agents[agent].drain()

    async def withdraw(self, agent: str) -> None:
        if agent in self._agents:
            await self.kill(agent)

    async def names(self) -> Sequence[str]:
        return list(self._agents)

    def mute(self, agent: str) -> None:
        """Lose all that is said between the scheduler and an agent, as a partition would."""
        self._muted.add(agent)

    def unmute(self, agent: str) -> None:
        self._muted.discard(agent)

    async def report(self, report: AgentReport) -> ReportReply:
        if report.agent in self._muted or self.scheduler is None:
            raise Unavailable("lost on the way")
        return await self.scheduler.report(report)

    async def add(self, agent: str) -> None:
        # The scheduler that asks may be killed meanwhile: what began goes on.
        await asyncio.shield(self._start(agent))

    async def _start(self, agent: str) -> None:
        settings, meter = self._settings, Meter()
        stack = self._stack[agent] = AsyncExitStack()
        limit = settings.agent.connections_max
        client = await stack.enter_async_context(
            GuardedClient(settings.egress, settings.source, connections_max=limit, meter=meter)
        )
        sink = await stack.enter_async_context(Sink(settings.s3, meter=meter, connections_max=limit))
        tracer = open_tracer(settings.otlp, "agent", meter, instance=agent)
        stack.push_async_callback(asyncio.to_thread, tracer.close)
        self._agents[agent] = Agent(
            name=agent,
            reports=self,
            settings=settings,
            client=client,
            sink=sink,
            meter=meter,
            new_id=IdFactory(),
            rng=Random(1),
            tracer=tracer,
        )
        self._running[agent] = asyncio.create_task(self._run(agent))
        # Orders may come as soon as the agent reports: it must be running by then.
        await asyncio.sleep(0)

    async def _run(self, agent: str) -> None:
        """Work until told to go; who is drained is gone."""
        mine = self._agents[agent]
        await mine.run()
        if self._agents.get(agent) is mine:
            del self._agents[agent], self._running[agent]
            await self._stack.pop(agent).aclose()

    async def kill(self, agent: str) -> None:
        """End an agent as SIGKILL would: nothing is told, nothing tidied up in the bucket."""
        await asyncio.shield(self._kill(agent))

    async def _kill(self, agent: str) -> None:
        running, stack = self._running.pop(agent), self._stack.pop(agent)
        del self._agents[agent]
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await stack.aclose()

    async def close(self) -> None:
        for agent in list(self._agents):
            await self.kill(agent)


class Lead:
    """The scheduler that leads: it may be killed, and another one begins on the same ledger."""

    def __init__(self, make: Callable[[], Scheduler], agents: LocalAgents) -> None:
        self._make = make
        self._agents = agents
        self._scheduler: Scheduler | None = None
        self._turning: asyncio.Task[None] | None = None

    @property
    def scheduler(self) -> Scheduler:
        """Raises: Unavailable."""
        if self._scheduler is None:
            raise Unavailable("the scheduler has died")
        return self._scheduler

    @property
    def plane(self) -> ControlPlane:
        """What the API sees: whichever scheduler leads now."""
        return cast(ControlPlane, _Leading(self))

    async def begin(self) -> None:
        scheduler = self._make()
        await scheduler.start()
        self._turning = asyncio.create_task(scheduler.run())
        self._scheduler = self._agents.scheduler = scheduler

    async def kill(self) -> None:
        """End it in the middle of whatever it does, as SIGKILL would; a commit that is under way may stand."""
        assert self._turning is not None
        self._scheduler = self._agents.scheduler = None
        self._turning.cancel()
        with suppress(asyncio.CancelledError):
            await self._turning

    async def close(self) -> None:
        if self._scheduler is not None and self._turning is not None:
            await _finished(self._scheduler, self._turning)


class _Leading:
    def __init__(self, lead: Lead) -> None:
        self._lead = lead

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*args: Any, **named: Any) -> Any:
            return await getattr(self._lead.scheduler, name)(*args, **named)

        return ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    url: str
    #: API keys of an operator, of `alice` and of `bob`.
    operator: str
    alice: str
    bob: str
    settings: Settings
    lead: Lead
    agents: LocalAgents
    ledger: SqlLedger

    @property
    def scheduler(self) -> Scheduler:
        return self.lead.scheduler


def _scheduler(settings: Settings, ledger: SqlLedger, agents: LocalAgents) -> Scheduler:
    assert settings.s3.bucket is not None
    rules = Rules(
        transfer=settings.transfer,
        liveness=settings.liveness,
        key_prefix=settings.s3.prefix,
        rng=Random(1),
        meter=Meter(),
        quota=settings.quota,
    )
    scheduler = Scheduler(
        ledger=ledger,
        pool=agents,
        settings=settings,
        bucket=settings.s3.bucket,
        rules=rules,
        scaling_rule=read_scaling_rule(settings.scaling.rules_path),
        alert_rules=read_rules(settings),
        objectives=read_objectives(),
        clock=time,
        new_id=IdFactory(),
    )
    agents.scheduler = scheduler
    return scheduler


@asynccontextmanager
async def running_service(directory: Path, settings: Settings, *, agents: int = 2) -> AsyncIterator[Service]:
    """Yield a service that listens on a free port of 127.0.0.1, over a ledger in `directory`."""
    url = sqlite_url(directory)
    settings = settings.model_copy(update={"scaling": settings.scaling.model_copy(update={"agents_min": agents})})
    async with AsyncExitStack() as stack:
        ledger = open_ledger(settings.ledger, url)
        stack.push_async_callback(ledger.close)
        texts = {}
        for user, role in (("operator", Role.OPERATOR), ("alice", Role.USER), ("bob", Role.USER)):
            texts[user], key = keys.new_key(user, role, "test", datetime.now(UTC), secrets.token_bytes)
            await ledger.commit(Batch(keys=[key]))
        pool = LocalAgents(settings)
        stack.push_async_callback(pool.close)
        lead = Lead(lambda: _scheduler(settings, ledger, pool), pool)
        await lead.begin()
        stack.push_async_callback(lead.close)
        webhooks = await stack.enter_async_context(
            GuardedClient(settings.egress, settings.source, connections_max=8, meter=Meter())
        )
        tracer = open_tracer(settings.otlp, "courier", Meter(), instance="courier/test")
        stack.push_async_callback(asyncio.to_thread, tracer.close)
        courier = Courier(
            ledger=ledger,
            client=webhooks,
            settings=settings.webhook,
            meter=Meter(),
            rng=Random(1),
            tracer=tracer,
            poll_s=0.1,
        )
        carrying = asyncio.create_task(courier.run())
        stack.push_async_callback(_finished, courier, carrying)
        reader = open_ledger(settings.ledger, url, read_only=True)
        stack.push_async_callback(reader.close)
        links = await stack.enter_async_context(Sink(settings.s3, meter=Meter(), connections_max=1))
        app = create_app(plane=lead.plane, ledger=reader, links=links, settings=settings, replica="api/test")
        stack.push_async_callback(asyncio.to_thread, app.state.replica.tracer.close)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve())
        stack.push_async_callback(_served, server, serving)
        while not (server.started and await lead.scheduler.ready()):
            if serving.done():
                serving.result()
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Service(
            url=f"http://127.0.0.1:{port}",
            **texts,
            settings=settings,
            lead=lead,
            agents=pool,
            ledger=ledger,
        )


async def _finished(looping: Scheduler | Courier, turning: asyncio.Task[None]) -> None:
    await looping.stop()
    await turning


async def _served(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    server.force_exit = True
    await serving


@contextmanager
def service_thread(directory: Path, settings: Settings, *, agents: int = 2) -> Iterator[Service]:
    """Yield a service that runs in a thread of its own, for tests that block."""
    up = threading.Event()
    found: list[Service] = []
    failed: list[BaseException] = []
    loop = asyncio.new_event_loop()
    down = asyncio.Event()

    async def serve() -> None:
        async with running_service(directory, settings, agents=agents) as service:
            found.append(service)
            up.set()
            await down.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            failed.append(error)
        finally:
            up.set()
            loop.close()

    thread = threading.Thread(target=run, name="service")
    thread.start()
    up.wait()
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(down.set)
        thread.join()
        if failed:
            raise failed[0]
