"""Ray, half one: the scheduler and the agents as actors, and the ways to reach them.

Laws of this file:
1. It wraps and decides nothing: `Scheduler` and `Agent` are plain classes that know no Ray.
2. Errors cross as values (`_Failed`), never as pickled exceptions.
3. An error of Ray's means "may or may not have run": it becomes Unavailable; callers repeat only what is safe to.
4. Every process dies with the raylet that started it: Ray lets workers of a killed raylet run on, as zombies.
"""

import asyncio
import ctypes
import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.agent import Agent
from actors.decisions import Rules
from actors.ports import Accepted, AgentView, Command, ProgressPage, QueueView, Submission
from actors.scheduler import Scheduler
from rayhaul import errors, log
from rayhaul.errors import RayhaulError, Unavailable
from rayhaul.ids import IdFactory
from rayhaul.job import Job
from rayhaul.lease import AgentReport, Order, ReportReply
from rayhaul.ledger.base import ApiKey, Viewer
from rayhaul.ledger.store import open_ledger
from rayhaul.metrics import Meter, Snapshot
from rayhaul.settings import Settings
from tasks.egress import GuardedClient
from tasks.sink import Sink

logger = logging.getLogger(__name__)

NAMESPACE = "rayhaul"
SCHEDULER = "scheduler"
_AGENT_PREFIX = "agent-"
#: Longest wait for an answer of the scheduler; a turn with a slow disk fits well.
_CALL_TIMEOUT_S = 30.0
#: Calls under way at once in one actor; each waits for its turn and costs little.
_CALLS_MAX = 4096
_PR_SET_PDEATHSIG = 1

#: What an actor that must outlive everything else is started with (docs.ray.io, actor fault tolerance).
_FOR_EVER: dict[str, Any] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    "num_cpus": 0,
    "max_restarts": -1,
    # A call that failed may have run; only our own callers know what is safe to repeat.
    "max_task_retries": 0,
    "max_concurrency": _CALLS_MAX,
    "enable_task_events": False,
}


def _actor(kind: type, name: str, resources: dict[str, float]) -> Any:
    """Return a plain class as the actor of that name, which is made unless it exists."""
    wrapped: Any = ray.remote(kind)
    return wrapped.options(name=name, resources=resources, **_FOR_EVER)


@dataclass(frozen=True, slots=True)
class _Failed:
    kind: str
    message: str
    retry_after_s: float | None


def _kinds(kind: type[RayhaulError] = RayhaulError) -> dict[str, type[RayhaulError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _kinds(child)
    return found


def _begin_process(service: str, level: str) -> None:
    """Set up logging, and have the kernel kill this process when its parent dies (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log.setup(service, level)


async def _as_value(call: Any) -> Any:
    try:
        return await call
    except RayhaulError as error:
        return _Failed(type(error).__name__, error.message, error.retry_after_s)


class SchedulerActor:
    """The scheduler's process. It serves calls once the ledger is open and the book rebuilt."""

    def __init__(self, settings: Settings, ledger_url: str, bucket: str) -> None:
        _begin_process("scheduler", settings.log_level)
        meter = Meter()
        self._ledger = open_ledger(settings.ledger, ledger_url)
        self._scheduler = Scheduler(
            ledger=self._ledger,
            pool=_RayAgents(settings),
            settings=settings,
            bucket=bucket,
            rules=Rules(
                transfer=settings.transfer,
                liveness=settings.liveness,
                key_prefix=settings.s3.prefix,
                rng=Random(),
                meter=meter,
            ),
            clock=time.time,
            new_id=IdFactory(),
        )
        # Ray runs the constructor of an async actor on the actor's loop, at restarts as well.
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._scheduler.start()
                break
            except Unavailable as error:
                logger.warning("the ledger cannot be read yet: %s", error.message)
                await asyncio.sleep(1)
        await self._scheduler.run()

    async def call(self, verb: str, *arguments: Any) -> Any:
        """Carry out one of the scheduler's verbs; a RayhaulError comes back as a value."""
        return await _as_value(getattr(self._scheduler, verb)(*arguments))

    async def stop(self) -> None:
        """End the loop after the turn under way, and close the ledger."""
        await self._scheduler.stop()
        await self._running
        await self._ledger.close()


class AgentActor:
    """An agent's process."""

    def __init__(self, name: str, settings: Settings) -> None:
        _begin_process("agent", settings.log_level)
        self._ready: asyncio.Future[Agent] = asyncio.get_running_loop().create_future()
        self._running = asyncio.get_running_loop().create_task(self._run(name, settings))

    async def _run(self, name: str, settings: Settings) -> None:
        meter = Meter()
        async with (
            GuardedClient(
                settings.egress, settings.source, connections_max=settings.agent.connections_max, meter=meter
            ) as client,
            Sink(settings.s3, meter=meter, connections_max=settings.agent.connections_max) as sink,
        ):
            agent = Agent(
                name=name,
                reports=RayScheduler(),
                settings=settings,
                client=client,
                sink=sink,
                meter=meter,
                new_id=IdFactory(),
                rng=Random(),
            )
            self._ready.set_result(agent)
            await agent.run()
        # Told to go: an exit on purpose is not restarted.
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    async def assign(self, orders: Sequence[Order]) -> None:
        await (await self._ready).assign(orders)

    async def revoke(self, lease_ids: Sequence[str]) -> None:
        await (await self._ready).revoke(lease_ids)

    async def drain(self) -> None:
        await (await self._ready).drain()

    async def pid(self) -> int:
        """Return the process id, for drills."""
        import os  # noqa: PLC0415 - only drills ask

        return os.getpid()


class _RayAgents:
    """The agents as Ray actors (ports.AgentPool). Orders are sent, not awaited: reports tell what arrived."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handles: dict[str, ActorHandle[Any]] = {}

    def _handle(self, agent: str) -> ActorHandle[Any] | None:
        handle = self._handles.get(agent)
        if handle is None:
            try:
                handle = self._handles[agent] = ray.get_actor(agent, namespace=NAMESPACE)
            except ValueError:
                logger.warning("no actor of that name: %s", agent, extra={"agentId": agent})
        return handle

    def _send(self, agent: str, verb: str, *arguments: Any) -> None:
        handle = self._handle(agent)
        if handle is None:
            return
        try:
            getattr(handle, verb).remote(*arguments)
        except RayError as error:
            self._handles.pop(agent, None)
            logger.warning("%s not sent to %s: %s", verb, agent, type(error).__name__, extra={"agentId": agent})

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        self._send(agent, "assign", list(orders))

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        self._send(agent, "revoke", list(lease_ids))

    async def drain(self, agent: str) -> None:
        self._send(agent, "drain")

    async def add(self, agent: str) -> None:
        handle: Any = _actor(AgentActor, agent, {"agent": 1}).remote(agent, self._settings)
        self._handles[agent] = handle
        logger.info("agent %s started", agent, extra={"agentId": agent})

    async def names(self) -> Sequence[str]:
        named = ray.util.list_named_actors(all_namespaces=True)
        return [a["name"] for a in named if a["namespace"] == NAMESPACE and a["name"].startswith(_AGENT_PREFIX)]


class RayScheduler:
    """The scheduler's actor, reached by name (ports.ControlPlane and ports.Reports)."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def _call(self, verb: str, *arguments: Any) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(SCHEDULER, namespace=NAMESPACE)
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                answer = await self._handle.call.remote(verb, *arguments)
        except (RayError, ValueError, TimeoutError) as error:
            self._handle = None
            raise Unavailable("the scheduler cannot be reached; what was asked may or may not be done") from error
        if isinstance(answer, _Failed):
            kind = _kinds().get(answer.kind, errors.Internal)
            raise kind(answer.message, retry_after_s=answer.retry_after_s)
        return answer

    async def submit(self, submission: Submission) -> Accepted:
        accepted: Accepted = await self._call("submit", submission)
        return accepted

    async def command(self, viewer: Viewer, job_id: str, command: Command) -> Job:
        job: Job = await self._call("command", viewer, job_id, command)
        return job

    async def progress(self, since: int) -> ProgressPage:
        page: ProgressPage = await self._call("progress", since)
        return page

    async def agents(self) -> Sequence[AgentView]:
        views: Sequence[AgentView] = await self._call("agents")
        return views

    async def queue(self) -> QueueView:
        view: QueueView = await self._call("queue")
        return view

    async def create_key(self, key: ApiKey) -> None:
        await self._call("create_key", key)

    async def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        key: ApiKey = await self._call("revoke_key", key_id, now)
        return key

    async def metrics(self, replica: str, snapshot: Snapshot) -> Snapshot:
        total: Snapshot = await self._call("metrics", replica, snapshot)
        return total

    async def ready(self) -> bool:
        try:
            return bool(await self._call("ready"))
        except Unavailable:
            return False

    async def report(self, report: AgentReport) -> ReportReply:
        reply: ReportReply = await self._call("report", report)
        return reply


def start_scheduler(settings: Settings, *, ledger_url: str, bucket: str) -> None:
    """Start the scheduler's actor unless it lives; it starts the agents."""
    _actor(SchedulerActor, SCHEDULER, {"head": 0.001}).remote(settings, ledger_url, bucket)


def stop_scheduler(timeout_s: float) -> None:
    """Let the turn under way end and the ledger close. Raises: Unavailable."""
    try:
        ray.get(ray.get_actor(SCHEDULER, namespace=NAMESPACE).stop.remote(), timeout=timeout_s)
    except (RayError, ValueError) as error:
        raise Unavailable("the scheduler did not stop in time") from error
