"""Ray, half one: the scheduler and the agents as actors, and the ways to reach them.

Laws of this file:
1. It wraps and decides nothing: `Scheduler` and `Agent` are plain classes that know no Ray.
2. Errors cross as values (crossing.py), never as pickled exceptions.
3. An error of Ray's means "may or may not have run": it becomes Unavailable; callers repeat only what is safe to.
4. Every process lives by process.py: it dies with the raylet that started it, and where its work breaks.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from actors.agent import Agent
from actors.courier import Courier
from actors.crossing import as_value
from actors.decisions import Rules
from actors.mirror import Mirror
from actors.prober import Prober
from actors.process import EXIT_DEPOSED, EXIT_SUPERSEDED, again_and_again, begin_process, for_life, settle
from actors.remote import RemoteScheduler
from actors.scheduler import Scheduler
from rayhaul.alert_file import Definitions, read_definitions
from rayhaul.errors import Unavailable
from rayhaul.ids import IdFactory
from rayhaul.lease import Order, TrimOrder
from rayhaul.ledger.base import Deposed
from rayhaul.ledger.store import open_ledger
from rayhaul.metrics import Kind, Labels, Meter
from rayhaul.settings import Settings
from rayhaul.trace_export import open_tracer
from tasks.egress import GuardedClient
from tasks.sink import Sink

logger = logging.getLogger(__name__)

NAMESPACE = "rayhaul"
SCHEDULER = "scheduler"
COURIER = "courier"
_AGENT_PREFIX = "agent-"
#: Longest wait for an answer of the scheduler; a turn with a slow disk fits well.
_CALL_TIMEOUT_S = 30.0
#: Calls under way at once in one actor; each waits for its turn and costs little.
_CALLS_MAX = 4096
#: Longest wait for Ray's control service; while its head is lost, turns go on without it.
_CONTROL_TIMEOUT_S = 5.0
#: Time between two words of what a process without reports has counted.
_METRICS_S = 5.0

T = TypeVar("T")

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


class SchedulerActor:
    """The scheduler's process. It serves calls once the ledger is open and the book rebuilt."""

    def __init__(self, settings: Settings, ledger_url: str, bucket: str, watched: Definitions) -> None:
        begin_process("scheduler", settings)
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
                quota=settings.quota,
            ),
            scaling_rule=watched.scaling_rule,
            alert_rules=watched.alert_rules,
            objectives=watched.objectives,
            clock=time.time,
            new_id=IdFactory(),
            holder=f"{socket.gethostname()}/{os.getpid()}",
        )
        # Ray runs the constructor of an async actor on the actor's loop, at restarts as well.
        self._running = for_life(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._scheduler.start()
                break
            except Unavailable as error:
                logger.warning("the ledger cannot be read yet: %s", error.message)
                await asyncio.sleep(1)
        # All jobs that are open.
        settle()
        telling = asyncio.get_running_loop().create_task(self._tell_ray())
        try:
            await self._scheduler.run()
        except Deposed:
            # Where this is the actor that Ray knows, it is started again; a left-over of a lost head is gone for good.
            os._exit(EXIT_DEPOSED)
        finally:
            telling.cancel()

    async def _tell_ray(self) -> None:
        """Show in Ray's own metrics what `GET /metrics` shows."""
        mirror = Mirror(_RayInstrument)
        while True:
            mirror.show(await self._scheduler.counted())
            await asyncio.sleep(_METRICS_S)

    async def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Carry out one of the scheduler's verbs; a RayhaulError comes back as a value."""
        return await as_value(getattr(self._scheduler, verb)(*arguments, **options))

    async def stop(self) -> None:
        """End the loop after the turn under way, and close the ledger."""
        await self._scheduler.stop()
        await self._running
        await self._ledger.close()


class _RayInstrument:
    """A metric of Ray's, which calls it `ray_` and its name, and a counter `_total` at the end (mirror.Instrument)."""

    def __init__(self, kind: Kind, name: str, help_: str, keys: Labels) -> None:
        self._keys = keys
        self._metric = (Gauge if kind is Kind.GAUGE else Counter)(name, help_, keys)

    def add(self, value: float, labels: Labels) -> None:
        tags = dict(zip(self._keys, labels, strict=True))
        if isinstance(self._metric, Gauge):
            self._metric.set(value, tags)
        else:
            self._metric.inc(value, tags)


class AgentActor:
    """An agent's process."""

    def __init__(self, name: str, settings: Settings) -> None:
        begin_process("agent", settings)
        self._ready: asyncio.Future[Agent] = asyncio.get_running_loop().create_future()
        self._running = for_life(self._run(name, settings))

    async def _run(self, name: str, settings: Settings) -> None:
        meter = Meter()
        tracer = open_tracer(settings.otlp, "agent", meter, instance=f"{name}/{os.getpid()}")
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
                tracer=tracer,
            )
            self._ready.set_result(agent)
            await agent.run()
        await asyncio.to_thread(tracer.close)
        if agent.superseded:
            # Not an exit on purpose: where this is the life that Ray knows, it starts another one.
            os._exit(EXIT_SUPERSEDED)
        # Told to go. exit_actor() takes effect in calls only, and this is none: the actor has itself killed for good.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    async def assign(self, orders: Sequence[Order]) -> None:
        await (await self._ready).assign(orders)

    async def revoke(self, lease_ids: Sequence[str]) -> None:
        await (await self._ready).revoke(lease_ids)

    async def trim(self, orders: Sequence[TrimOrder]) -> None:
        await (await self._ready).trim(orders)

    async def drain(self) -> None:
        await (await self._ready).drain()

    async def stop(self) -> None:
        """Stop at once, say goodbye and go: what was in hand goes to others, charged to nobody."""
        await (await self._ready).stop()
        await asyncio.shield(self._running)

    async def pid(self) -> int:
        """Return the process id, for drills."""
        return os.getpid()


class CourierActor:
    """The courier's process. Receivers that hang or pour forth hold up nobody's turns here."""

    def __init__(self, settings: Settings, ledger_url: str, api_url: str) -> None:
        begin_process("scheduler", settings)
        self._running = for_life(self._run(settings, ledger_url, api_url))

    async def _run(self, settings: Settings, ledger_url: str, api_url: str) -> None:
        meter = Meter()
        tracer = open_tracer(settings.otlp, "courier", meter, instance=f"courier/{os.getpid()}")
        ledger = open_ledger(settings.ledger, ledger_url)
        async with GuardedClient(
            settings.egress, settings.source, connections_max=settings.webhook.concurrency_max, meter=meter
        ) as client:
            courier = Courier(
                ledger=ledger, client=client, settings=settings.webhook, meter=meter, rng=Random(), tracer=tracer
            )
            # Presigning is arithmetic: the sink is never connected here.
            links = Sink(settings.s3, meter=Meter(), connections_max=1)
            prober = Prober(ledger=ledger, links=links, meter=meter, rng=Random(), clock=time.time)
            async with asyncio.TaskGroup() as group:
                group.create_task(courier.run())
                group.create_task(again_and_again(prober.follow_links))
                group.create_task(again_and_again(lambda: prober.read_events(api_url, RayScheduler())))
                group.create_task(tell_metrics(IdFactory()("courier"), meter))


async def tell_metrics(process: str, meter: Meter) -> None:
    """Tell the scheduler every few seconds what this process has counted, for ever."""
    scheduler = RayScheduler()
    while True:
        # At once: a process is heard in full only from its first word on (counts.py).
        with suppress(Unavailable):
            await scheduler.metrics(process, meter.snapshot())
        await asyncio.sleep(_METRICS_S)


class _RayAgents:
    """The agents as Ray actors (ports.AgentPool). Orders are sent, not awaited: reports tell what arrived.

    What asks Ray's control service blocks, and for long while its head is lost: it is done in a thread, with a limit.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handles: dict[str, ActorHandle[Any]] = {}

    async def _handle(self, agent: str) -> ActorHandle[Any] | None:
        handle = self._handles.get(agent)
        if handle is None:
            try:
                handle = self._handles[agent] = await _asked(ray.get_actor, agent, namespace=NAMESPACE)
            except (ValueError, Unavailable):
                logger.warning("no actor of that name: %s", agent, extra={"agentId": agent})
        return handle

    async def _send(self, agent: str, verb: str, *arguments: Any) -> None:
        handle = await self._handle(agent)
        if handle is None:
            return
        try:
            getattr(handle, verb).remote(*arguments)
        except RayError as error:
            self._handles.pop(agent, None)
            logger.warning("%s not sent to %s: %s", verb, agent, type(error).__name__, extra={"agentId": agent})

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        await self._send(agent, "assign", list(orders))

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        await self._send(agent, "revoke", list(lease_ids))

    async def trim(self, agent: str, orders: Sequence[TrimOrder]) -> None:
        await self._send(agent, "trim", list(orders))

    async def drain(self, agent: str) -> None:
        await self._send(agent, "drain")

    async def withdraw(self, agent: str) -> None:
        handle = await self._handle(agent)
        if handle is None:
            return
        self._handles.pop(agent, None)
        await _asked(ray.kill, handle)
        logger.info("agent %s withdrawn", agent, extra={"agentId": agent})

    async def add(self, agent: str) -> None:
        self._handles[agent] = await _asked(_actor(AgentActor, agent, {"agent": 1}).remote, agent, self._settings)
        logger.info("agent %s asked for", agent, extra={"agentId": agent})

    async def names(self) -> Sequence[str]:
        named = await _asked(ray.util.list_named_actors, all_namespaces=True)
        return [a["name"] for a in named if a["namespace"] == NAMESPACE and a["name"].startswith(_AGENT_PREFIX)]


async def _asked(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Make a call that asks Ray's control service. Raises: ValueError for a name unknown there; Unavailable."""
    try:
        async with asyncio.timeout(_CONTROL_TIMEOUT_S):
            return await asyncio.to_thread(call, *arguments, **options)
    except (RayError, TimeoutError) as error:
        raise Unavailable("Ray's control service does not answer") from error


class RayScheduler(RemoteScheduler):
    """The scheduler's actor, reached by name (ports.ControlPlane and ports.Reports)."""

    def __init__(self) -> None:
        super().__init__(self._call_actor)
        self._handle: Any = None

    async def _call_actor(self, verb: str, *arguments: Any, **options: Any) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(SCHEDULER, namespace=NAMESPACE)
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                answer = await self._handle.call.remote(verb, *arguments, **options)
        except (RayError, ValueError, TimeoutError) as error:
            self._handle = None
            raise Unavailable("the scheduler cannot be reached; what was asked may or may not be done") from error
        return answer


def start_scheduler(settings: Settings, *, ledger_url: str, bucket: str, api_url: str) -> None:
    """Start the actors of scheduler and courier unless they live; the scheduler starts the agents.

    `api_url` is where the API will be, seen from the head: events are read there to see how long they take.

    Raises: ServiceError where the alert files can not be used, or have no rule to scale by.
    """
    # Read here, where the files are: the actor may run on another machine.
    watched = read_definitions(settings)
    _actor(SchedulerActor, SCHEDULER, {"head": 0.001}).remote(settings, ledger_url, bucket, watched)
    _actor(CourierActor, COURIER, {"head": 0.001}).remote(settings, ledger_url, api_url)


def dismiss_agents(timeout_s: float) -> None:
    """Have all agents stop at once and say goodbye, and wait a little for it; the scheduler starts nothing meanwhile.

    What does not answer in time is left as it is: its leases are handed back when its life is over.
    """
    asked: list[Any] = []
    with suppress(ValueError, AttributeError, RayError):
        ray.get(ray.get_actor(SCHEDULER, namespace=NAMESPACE).call.remote("rest"), timeout=timeout_s)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(_AGENT_PREFIX):
            # ValueError: it has gone. AttributeError: it runs code from before agents could be asked.
            with suppress(ValueError, AttributeError, RayError):
                asked.append(ray.get_actor(actor["name"], namespace=NAMESPACE).stop.remote())
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=timeout_s)


def stop_scheduler(timeout_s: float) -> None:
    """Let the turn under way end and the ledger close. Raises: Unavailable."""
    try:
        ray.get(ray.get_actor(SCHEDULER, namespace=NAMESPACE).stop.remote(), timeout=timeout_s)
    except (RayError, ValueError) as error:
        raise Unavailable("the scheduler did not stop in time") from error
