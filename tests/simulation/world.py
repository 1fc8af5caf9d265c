"""A small world on a fake clock: the real scheduler, agents that only talk, and faults by dice. One seed, one history.

Every call to the scheduler is a task of its own, and the ledger lets other tasks run in the middle of a commit now and
then; nothing here runs in a thread or looks at a real clock, so a seed (and PYTHONHASHSEED) says all there is to say.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from random import Random
from typing import Any, cast
from zlib import crc32

from bucket import Bucket, Sources
from fleet import REPORT_TIMEOUT_S, SimAgent
from network import Network, tell
from people import People, Wish
from promises import check_book, check_reply
from reference import Limits
from setups import Setup
from surroundings import SLOTS, Surroundings
from twin import Twin
from violations import Violation

from actors.decisions import Rules
from actors.scheduler import Scheduler
from rayhaul.alert_file import read_objectives, read_scaling_rule
from rayhaul.errors import RayhaulError, Unavailable
from rayhaul.ledger.base import Batch, Deposed, Ledger
from rayhaul.metrics import Meter
from rayhaul.report import AgentReport, ReportReply

STEP_S = 1.0
_TRACE_LINES = 40
_RIVAL_S = 30
_JUMP_S = 300
_REFUSES_S = 30
#: Turns a scheduler takes in a step; what a turn made true is decided on in the next one.
_TURNS = 2
#: The rule that is installed, with a window that fits into a history.
_OBJECTIVES = read_objectives()
_RULE = replace(read_scaling_rule(), window_s=10)


class FaultyLedger:
    """A ledger whose commits fail now and then: before they stand, or after, with the answer lost."""

    def __init__(self, inner: Ledger, world: "World") -> None:
        self._inner = inner
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Batch) -> None:
        world, odds = self._world, self._world.odds
        await self._pause()
        if world.happens(odds.commit_fails):
            world.note("a commit fails")
            raise Unavailable("disk full, says the dice")
        if world.happens(world.setup.ledger_lies):
            return
        try:
            await self._inner.commit(batch)
        except Violation as violation:
            # The scheduler outlives whatever its ledger raises; the history does not.
            world.broken = world.broken or violation
            raise
        await self._pause()
        if world.happens(odds.commit_stands_but_fails):
            world.note("a commit stands, its answer is lost")
            raise Unavailable("answer lost, says the dice")

    async def _pause(self) -> None:
        if self._world.happens(self._world.odds.commit_slow):
            for _ in range(self._world.rng.randint(1, 6)):
                await asyncio.sleep(0)


@dataclass(eq=False, slots=True)
class Seat:
    """A scheduler and the clock of its machine."""

    scheduler: Scheduler
    number: int
    skew_s: float = 0.0
    deposed: bool = False
    gone: bool = False


@dataclass(slots=True)
class Ask:
    """A call that is under way."""

    seat: Seat
    task: asyncio.Task[Any]
    answered: Callable[[Any], None]
    given_up_at_s: float


class World:
    def __init__(self, setup: Setup, real: Ledger | None = None) -> None:
        self.setup = setup
        self.rng = Random(setup.seed)
        self.odds = setup.odds
        self.steps = 0
        self.broken: Violation | None = None
        #: Of all lines of the trace: a replay that is one has the same.
        self.digest = 0
        self.trace: deque[str] = deque(maxlen=_TRACE_LINES)
        self.bucket = Bucket()
        self.sources = Sources()
        self._ids = 0
        self.settings = setup.settings()
        self.around = Surroundings(
            rng=self.rng,
            odds=self.odds,
            bucket=self.bucket,
            sources=self.sources,
            new_id=self.new_id,
            note=self.note,
            part_bytes=self.settings.transfer.part_bytes_min,
            self_fence_s=self.settings.liveness.self_fence_s,
            now_s=1_000_000.0,
        )
        limits = Limits(
            slots=SLOTS,
            running_per_user_max=setup.running_per_user_max,
            attempts_max=setup.attempts_max,
            requeues_max=setup.requeues_max,
            latest_s=lambda: self._latest_s,
        )
        self.reference = setup.reference(self.bucket, limits)
        self.around.completed = self.reference.completed
        self.twin = None if real is None else Twin(real, self.reference)
        self.ledger = cast("Ledger", FaultyLedger(cast("Ledger", self.twin or self.reference), self))
        self.network = Network(self.around, self.reference)
        self.people = People(
            rng=self.rng,
            odds=self.odds,
            ledger=self.reference,
            new_id=self.new_id,
            now_s=lambda: self.now_s,
            note=self.note,
        )
        self._asks: list[Ask] = []
        self._refuses_until_s = 0.0
        self._latest_s = 0.0
        self.schedulers = 0
        self.seat = self._new_seat()
        self.rivals: list[tuple[float, Seat]] = []

    @property
    def now_s(self) -> float:
        return self.around.now_s

    @property
    def scheduler(self) -> Scheduler:
        return self.seat.scheduler

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}_{self._ids:09d}"

    def note(self, text: str) -> None:
        line = f"{self.steps:4d} {text}"
        self.trace.append(line)
        self.digest = crc32(line.encode(errors="replace"), self.digest)

    # --- schedulers ---

    def _new_seat(self) -> Seat:
        self.schedulers += 1
        rules = Rules(
            transfer=self.settings.transfer,
            liveness=self.settings.liveness,
            key_prefix="",
            rng=Random(self.rng.random()),
            meter=Meter(),
            quota=self.settings.quota,
        )
        seat = Seat(cast("Scheduler", None), self.schedulers)
        seat.scheduler = self.setup.scheduler(
            ledger=self.ledger,
            pool=self.network,
            settings=self.settings,
            bucket="bucket",
            rules=rules,
            scaling_rule=_RULE,
            objectives=_OBJECTIVES,
            clock=lambda: self._clock(seat),
            new_id=self.new_id,
            holder=f"scheduler {seat.number}",
        )
        return seat

    def _clock(self, seat: Seat) -> float:
        now_s = self.now_s + seat.skew_s
        self._latest_s = max(self._latest_s, now_s)
        return now_s

    async def begin(self) -> None:
        """Start a scheduler in the seat, however often that takes."""
        while True:
            try:
                await self.seat.scheduler.start()
            except RayhaulError as error:
                self.note(f"scheduler {self.seat.number} does not start: {error.message}")
            else:
                return

    async def _replace_scheduler(self, *, rivalled: bool) -> None:
        self.note(f"scheduler {self.seat.number} {'has a rival' if rivalled else 'dies'}")
        if rivalled:
            self.rivals.append((self.now_s + self.rng.randint(3, _RIVAL_S), self.seat))
        else:
            self.seat.gone = True
        skew_s = self.seat.skew_s
        self.seat = self._new_seat()
        self.seat.skew_s = skew_s
        await self.begin()

    # --- the course of things ---

    async def step(self, *, at_last: bool = False) -> None:
        """Let a second pass: agents work and report, people ask, schedulers take their turns."""
        self.steps += 1
        self.around.now_s += STEP_S
        await self._weather()
        self.network.deliver_late()
        for agent, report in self.network.live():
            self._report(agent, report)
        for wish in self.people.wishes_at_last() if at_last else self.people.wishes():
            self._wish(wish)
        await asyncio.sleep(0)
        for _ in range(_TURNS):
            await self._turns()
            await asyncio.sleep(0)
            if self.broken is not None:
                raise self.broken
            self._collect()
        await self._relieve()
        if not self.rivals:
            check_book(self.scheduler, self.reference)

    async def _weather(self) -> None:
        odds = self.odds
        if self.happens(odds.scheduler_dies):
            await self._replace_scheduler(rivalled=False)
        if self.happens(odds.scheduler_rivalled):
            await self._replace_scheduler(rivalled=True)
        if self.happens(odds.clock_jumps):
            self.seat.skew_s += self.rng.uniform(-_JUMP_S, _JUMP_S)
            self.note(f"the clock of scheduler {self.seat.number} is off by {self.seat.skew_s:.0f} s")
        if self.happens(odds.sink_refuses):
            self._refuses_until_s = self.now_s + self.rng.randint(1, _REFUSES_S)
            self.note(f"the bucket refuses everything until {self._refuses_until_s}")
        self.bucket.refuses = self.now_s < self._refuses_until_s
        jobs = list(self.reference.rows.open.values())
        if jobs and self.happens(odds.source_changes):
            self.sources.versions[self.rng.choice(jobs).spec.url] += 1
        if jobs and self.happens(odds.source_gone):
            self.sources.gone.add(self.rng.choice(jobs).spec.url)
        if self.bucket.uploads and self.happens(odds.upload_expires):
            del self.bucket.uploads[self.rng.choice(list(self.bucket.uploads))]
        if self.network.agents and self.happens(odds.agent_drained):
            name = self.rng.choice(list(self.network.agents))
            self._wish((lambda scheduler: scheduler.drain(name), lambda _: None))

    def heal(self) -> None:
        """Let the weather clear: from now on nothing goes wrong any more."""
        self.note("the weather clears")
        self.odds.clear()
        self.network.heal()
        for _, rival in self.rivals:
            rival.gone = True
        self.rivals.clear()
        self._refuses_until_s = 0.0

    # --- calls ---

    def _ask(self, call: Callable[[Scheduler], Coroutine[Any, Any, Any]], answered: Callable[[Any], None]) -> None:
        seats = [self.seat, *(rival for _, rival in self.rivals)]
        seat = self.rng.choice(seats) if len(seats) > 1 else self.seat
        late = self.rng.randint(1, 6) if self.happens(self.odds.commit_slow) else 0

        async def asked() -> Any:
            for _ in range(late):
                await asyncio.sleep(0)
            return await call(seat.scheduler)

        task = asyncio.create_task(asked())
        self._asks.append(Ask(seat, task, answered, self.now_s + REPORT_TIMEOUT_S))

    def _wish(self, wish: Wish) -> None:
        self._ask(*wish)

    def _report(self, agent: SimAgent, report: AgentReport) -> None:
        sent_at_s = self.now_s

        def send(*, heard: bool) -> None:
            moment = self.reference.moment

            def answered(answer: Any) -> None:
                if not isinstance(answer, ReportReply):
                    return
                check_reply(self.reference, report, answer, moment=moment, poisoned=frozenset(self.around.poisoned))
                if heard and self.network.is_here(agent) and not self.happens(self.odds.answer_lost):
                    agent.lose_parts_refused(report.notices, answer)
                    agent.take(answer, sent_at_s)

            self._ask(lambda scheduler: scheduler.report(report), answered)

        if self.happens(self.odds.report_late):
            self.note(f"a report comes late: {tell(report)}")
            self._later(lambda: send(heard=False))
            return
        send(heard=True)
        if self.happens(self.odds.report_twice):
            self._later(lambda: send(heard=False))

    def _later(self, call: Callable[[], None]) -> None:
        self.network.late.append((self.now_s + self.rng.randint(1, 30), call))

    def _collect(self) -> None:
        """Hand out the answers that are there, and give up calls to schedulers that are gone."""
        under_way, self._asks = self._asks, []
        for ask in under_way:
            if not ask.task.done():
                if not ask.seat.gone and self.now_s < ask.given_up_at_s:
                    self._asks.append(ask)
                    continue
                ask.task.cancel()
                ask.answered(Unavailable("no answer"))
                continue
            error = ask.task.exception()
            if error is not None and not isinstance(error, RayhaulError):
                raise Violation(f"call: {type(error).__name__} instead of an answer: {error}") from error
            ask.answered(ask.task.result() if error is None else error)

    async def _turns(self) -> None:
        seats = [self.seat, *(rival for _, rival in self.rivals)]
        if len(seats) == 1:
            await self._turn(self.seat)
        else:
            async with asyncio.TaskGroup() as turns:
                for seat in seats:
                    turns.create_task(self._turn(seat))

    async def _turn(self, seat: Seat) -> None:
        try:
            await seat.scheduler.tick()
        except Deposed:
            self.note(f"scheduler {seat.number} is deposed")
            seat.deposed = seat.gone = True
        except RayhaulError as error:
            self.note(f"a turn of scheduler {seat.number} fails: {type(error).__name__} {error.message}")
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"turn: {type(error).__name__}: {error}") from error

    async def _relieve(self) -> None:
        """Let schedulers that are deposed, or whose time is over, go; there is always one."""
        for until_s, rival in self.rivals:
            rival.gone = rival.gone or until_s <= self.now_s
        self.rivals = [(until_s, rival) for until_s, rival in self.rivals if not rival.gone]
        if not self.seat.gone:
            return
        if self.rivals:
            self.seat = self.rivals.pop()[1]
        else:
            await self._replace_scheduler(rivalled=False)
