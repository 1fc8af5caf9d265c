"""A whole history: faults for a while, then fair weather until everything has ended, then the accounts."""

from collections import Counter
from dataclasses import dataclass, field

from promises import check_ends, check_rest, gone_agents
from setups import Setup
from violations import Violation
from world import World

from rayhaul.ledger.base import Ledger

#: Steps with faults, and the most that fair weather may take: a clock that was set back by minutes is waited for.
FAULTY_STEPS = 100
FAIR_STEPS_MAX = 1500
#: After the last job has ended: what is under way comes to rest, and agents that left are forgotten.
_REST_STEPS = 12
_FORGETTING_STEPS_MAX = 40


@dataclass(slots=True)
class Figures:
    """What happened, in numbers."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Of all that happened.
    digest: int = 0

    def take(self, world: World) -> None:
        rows = world.reference.rows
        self.digest ^= world.digest
        self.counts += Counter(str(job.status) for job in rows.jobs.values())
        self.counts += Counter(
            {
                "histories": 1,
                "steps": world.steps,
                "commits": world.reference.moment,
                "jobs": len(rows.jobs),
                "leases": len(rows.granted),
                "stripes of a job": sum(lease.first_part > 1 for lease in rows.granted.values()),
                "tails given": world.reference.trims,
                "parts sent by two": world.reference.overlaps,
                "events": rows.seq,
                "schedulers": world.schedulers,
                "published late, same bytes": world.around.published_late,
                "published again, same key": sum(n - 1 for n in world.bucket.published.values() if n > 1),
                "uploads of agents that died untold": len(world.bucket.uploads),
                "poisoned notices": len(world.around.poisoned),
                "dead letters": rows.dead_letters_count,
                "agents drained": world.network.drained,
            }
        )


async def live(setup: Setup, real: Ledger | None = None) -> World:
    """Let a history happen and check it. Raises: Violation, with what led to it as a note."""
    world = World(setup, real)
    weather = str(setup.odds)
    try:
        await world.begin()
        await _happen(world)
        if world.twin is not None:
            await world.twin.compare()
        check_ends(world.reference, world.people, world.bucket)
        check_rest(world.scheduler, world.network)
    except* Violation as group:
        found = _first(group)
        found.add_note(f"seed {setup.seed}, step {world.steps}; weather: {weather}")
        found.add_note("\n".join(world.trace))
        raise found from group
    return world


async def _happen(world: World) -> None:
    for _ in range(FAULTY_STEPS):
        if world.happens(0.15):
            world.people.submit(world.rng.randint(1, 4))
        await world.step()
    world.heal()
    for _ in range(FAIR_STEPS_MAX):
        await world.step(at_last=True)
        rows = world.reference.rows
        if not (rows.open or rows.live_sessions or world.people.unanswered or world.network.late):
            break
    for rested in range(_FORGETTING_STEPS_MAX):
        await world.step(at_last=True)
        if rested >= _REST_STEPS and not gone_agents(world.scheduler, world.network):
            break


def _first(group: BaseExceptionGroup[Violation]) -> Violation:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Violation)
    return found
