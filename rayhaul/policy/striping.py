"""How a job is spread over agents: who takes the parts that nobody has, and who takes over whose tail (ADR 7).

Laws of this file:
1. Parts that nobody has come first: they are cut evenly between the agents that have room.
2. Where all have somebody, the stripe with the longest way to go gives up its tail, so that it and those who help would
   be done at the same time. So stripes shrink towards the end, and what a slow agent has left goes to quick ones.
3. Parts that are on their way are taken from nobody. Where only such are left and they crawl, another agent sends the
   same parts as well; whoever is first counts.
4. Pure: the same situation gives the same plan. Fairness against waiting jobs is the caller's: `free` are agents that
   no waiting job wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from rayhaul.policy.partset import PartSet, between, highest, lowest, missing, without_lowest

#: A stripe that would be done so soon is left alone: to hand over costs about as much.
_WORTH_S = 2.0
#: One that takes longer than this gives up even single parts.
_SLOW_S = 10.0
#: Parts on their way are sent by another agent as well when they would take this many times what it needs.
_CRAWL_FACTOR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    """A lease of the job, as it stands."""

    lease_id: str
    first_part: int
    end_part: int
    #: 0 where it stands still or has just begun.
    bytes_per_s: float = 0.0
    held_s: float = 0.0
    #: Whether it was asked to leave its tail to others, and that is not the time to ask again.
    is_asked: bool = False
    #: Whether its agent knows that it is not alone.
    is_shared: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    parts_count: int
    part_bytes: int
    recorded: PartSet
    stripes: Sequence[Stripe]
    #: Parts one agent has on their way at once.
    connections: int
    #: Agents with room and no lease of this job; the first ones are taken first.
    free: Sequence[str]
    stripes_max: int
    parts_min: int
    #: The best that a stripe of this job has shown.
    best_bytes_per_s: float = 0.0

    @property
    def room(self) -> int:
        return max(0, min(len(self.free), self.stripes_max - len(self.stripes)))


@dataclass(frozen=True, slots=True)
class Grant:
    agent: str
    first_part: int
    end_part: int


@dataclass(frozen=True, slots=True)
class Trim:
    lease_id: str
    end_part: int


@dataclass(frozen=True, slots=True)
class Plan:
    grants: Sequence[Grant] = ()
    trim: Trim | None = None


def decide(now: Situation) -> Plan:
    """Return the stripes to lease, or the one to shorten first; empty where all is well."""
    if now.room == 0:
        return Plan()
    gaps = unleased(now.recorded, now.parts_count, now.stripes)
    if gaps:
        return Plan(grants=_cut(gaps, now))
    return _relieve(now)


def unleased(recorded: PartSet, parts_count: int, stripes: Sequence[Stripe]) -> list[PartSet]:
    """Return the missing parts that are in no stripe, a set for each stretch between stripes."""
    found = []
    begin = 1
    for stripe in sorted(stripes, key=lambda stripe: stripe.first_part):
        found.append(missing(recorded, begin, min(stripe.first_part, parts_count + 1)))
        begin = max(begin, stripe.end_part)
    found.append(missing(recorded, begin, parts_count + 1))
    return [parts for parts in found if parts]


def _cut(gaps: Sequence[PartSet], now: Situation) -> list[Grant]:
    """Share out the largest gaps: one agent each, and further ones where there is enough for them."""
    sizes = sorted(gaps, key=lambda parts: (-parts.bit_count(), lowest(parts)))[: now.room]
    helpers = [1] * len(sizes)
    for _ in range(now.room - len(sizes)):
        shares = [parts.bit_count() // (count + 1) for parts, count in zip(sizes, helpers, strict=True)]
        largest = max(range(len(sizes)), key=shares.__getitem__)
        if shares[largest] < now.parts_min:
            break
        helpers[largest] += 1
    agents = iter(now.free)
    return [
        Grant(next(agents), lowest(piece), highest(piece) + 1)
        for parts, count in zip(sizes, helpers, strict=True)
        for piece in pieces(parts, count)
    ]


def pieces(parts: PartSet, count: int) -> list[PartSet]:
    """Cut a set into `count` runs of about the same number of parts."""
    found = []
    for left in range(count, 0, -1):
        rest = without_lowest(parts, ceil(parts.bit_count() / left))
        found.append(parts & ~rest)
        parts = rest
    return [piece for piece in found if piece]


def _relieve(now: Situation) -> Plan:
    """Let the stripe with the longest way to go give up its tail, or have its last parts sent twice."""
    ways = sorted(((_way_s(stripe, now), stripe) for stripe in now.stripes), key=lambda way: (-way[0], way[1].lease_id))
    for way_s, stripe in ways:
        left = missing(now.recorded, stripe.first_part, min(stripe.end_part, now.parts_count + 1))
        spare = left.bit_count() - now.connections
        if spare >= (1 if way_s > _SLOW_S else now.parts_min) and way_s > _WORTH_S:
            if stripe.is_asked:
                continue
            return Plan(trim=Trim(stripe.lease_id, _new_end(stripe, left, spare, now)))
        if left and spare <= 0 and _crawls(stripe, way_s, left, now):
            if stripe.is_shared:
                return Plan(grants=[Grant(now.free[0], lowest(left), highest(left) + 1)])
            if not stripe.is_asked:
                # First its agent has to know that it is not alone.
                return Plan(trim=Trim(stripe.lease_id, stripe.end_part))
    return Plan()


def _way_s(stripe: Stripe, now: Situation) -> float:
    """Return how long a stripe will take, by its own pace, or by the best one while it has just begun."""
    left = missing(now.recorded, stripe.first_part, min(stripe.end_part, now.parts_count + 1)).bit_count()
    pace = stripe.bytes_per_s
    if pace <= 0 and stripe.held_s < _SLOW_S:
        pace = now.best_bytes_per_s
        if pace <= 0:
            # Nothing is known yet: by the number of parts, a second each.
            return float(left)
    return left * now.part_bytes / pace if pace > 0 else (inf if left else 0.0)


def _new_end(stripe: Stripe, left: PartSet, spare: int, now: Situation) -> int:
    """Return where the stripe ends so that it and its helpers are done at the same time."""
    helpers = max(1, min(now.room, spare // now.parts_min))
    own, best = stripe.bytes_per_s, now.best_bytes_per_s
    share = own / (own + helpers * best) if best > 0 and stripe.held_s >= _SLOW_S else 1 / (1 + helpers)
    keep = max(now.connections, ceil(left.bit_count() * share))
    return lowest(without_lowest(left, keep))


def _crawls(stripe: Stripe, way_s: float, left: PartSet, now: Situation) -> bool:
    if stripe.held_s < _SLOW_S or way_s <= _SLOW_S or now.best_bytes_per_s <= 0:
        return False
    if any(other is not stripe and _overlap(stripe, other) for other in now.stripes):
        return False
    return way_s > _CRAWL_FACTOR * left.bit_count() * now.part_bytes / now.best_bytes_per_s


def _overlap(one: Stripe, other: Stripe) -> bool:
    return bool(between(one.first_part, one.end_part) & between(other.first_part, other.end_part))
