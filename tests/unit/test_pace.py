"""A pace holds its rate, whatever it is set to meanwhile, and is shared by leases, not by connections."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from rayhaul.rates import RateGrant
from tasks.pace import Line, Pace, Paces, bytes_per_s_of


async def test_a_pace_takes_the_time_it_should() -> None:
    """A second's worth of bytes takes a second less the burst; who comes late gets no more than the burst."""
    clock = asyncio.get_running_loop().time
    pace = Pace(1000)
    began_s = clock()
    for _ in range(5):
        await pace.take(100)
    assert clock() - began_s >= 0.24
    await asyncio.sleep(0.6)
    began_s = clock()
    for _ in range(5):
        await pace.take(100)
    assert clock() - began_s >= 0.24


async def test_a_pace_that_changes_under_way() -> None:
    """At no pace nothing passes; with a new one those who wait go by that, in their order."""
    pace = Pace(1)
    passed: list[str] = []

    async def pass_on(name: str, bytes_count: int) -> None:
        await pace.take(bytes_count)
        passed.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(pass_on("first", 1000))
        group.create_task(pass_on("second", 1000))
        await asyncio.sleep(0.02)
        pace.set(0)
        await asyncio.sleep(0.05)
        assert not passed
        began_s = asyncio.get_running_loop().time()
        pace.set(10_000)
    assert passed == ["first", "second"]
    assert asyncio.get_running_loop().time() - began_s >= 0.19, "what is owed stays owed"


async def test_who_gives_up_leaves_its_place() -> None:
    """A piece that is not wanted any more costs the others nothing."""
    pace = Pace(1000)
    leaving = asyncio.create_task(pace.take(100_000))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(5):
        await pace.take(300)


async def moved(lines: Sequence[tuple[Line, int]], until: int) -> tuple[Sequence[int], float]:
    """Have each lease move pieces of 1000 bytes over its so many connections until one has moved `until` pieces.

    Return how many each has moved, and how long that took, in seconds.
    """
    count, clock = Counter[int](), asyncio.get_running_loop().time
    began_s, done = clock(), asyncio.Event()

    async def lane(index: int, line: Line) -> None:
        while not done.is_set():
            await line.pass_on(1000)
            count[index] += 1
            if count[index] >= until:
                done.set()

    lanes = [lane(index, line) for index, (line, lanes_count) in enumerate(lines) for _ in range(lanes_count)]
    running = [asyncio.create_task(one) for one in lanes]
    await done.wait()
    took_s = clock() - began_s
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return [count[index] for index in range(len(lines))], took_s


async def test_many_connections_get_no_more_than_one() -> None:
    """Two leases at one pace, one of eight connections: each has half. What a job's own limit leaves, the other has."""
    own = Pace(200_000)
    (many, one), took_s = await moved([(Line({"own": own}), 8), (Line({"own": own}), 1)], until=40)
    assert many <= 2 * one
    assert many + one <= 200 * (took_s + 0.25) + 9
    own, narrow = Pace(200_000), Pace(20_000)
    (held, free), took_s = await moved([(Line({"job": narrow, "own": own}), 8), (Line({"own": own}), 1)], until=60)
    assert held <= 20 * (took_s + 0.25) + 1
    assert free == 60


async def test_pieces_are_cut_for_those_in_line() -> None:
    """A quarter of a second's worth, divided between the leases; the narrowest pace says."""
    wide, narrow = Pace(8_000_000), Pace(800_000)
    assert Line({}).piece_bytes_max is None
    with Line({"own": wide}) as line:
        assert line.piece_bytes_max == 2_000_000
        with Line({"own": wide}), Line({"own": wide, "job": narrow}) as third:
            assert line.piece_bytes_max == 2_000_000 // 3
            assert third.piece_bytes_max == 200_000
    assert Pace(0).piece_bytes_max == 4 * 1024


async def test_the_newest_grant_counts() -> None:
    """Also where it comes before an older one; what no lease needs is forgotten."""
    paces = Paces(own_bytes_per_s=10)
    of_job, own = paces.of([RateGrant(limit="job:1", bytes_per_s=100, version=3)]).values()
    assert (of_job.bytes_per_s, own.bytes_per_s) == (100, 10)
    paces.take(
        [RateGrant(limit="job:1", bytes_per_s=700, version=2), RateGrant(limit="job:2", bytes_per_s=1, version=9)]
    )
    assert of_job.bytes_per_s == 100
    paces.take([RateGrant(limit="job:1", bytes_per_s=50, version=4)])
    assert [(use.limit, use.granted, use.version) for use in paces.uses({"job:1"}, 0.0)] == [("job:1", 50, 4)]
    assert paces.uses(set(), 1.0) == ()
    assert Paces().of([]) == {}


async def test_a_host_s_pace_is_for_its_bytes_alone() -> None:
    """Bytes of another host do not wait for it."""
    line = Line({"host:a:80": Pace(1_000), "host:b:80": Pace(100_000), "cluster": Pace(400_000)})
    assert line.towards("a:80").piece_bytes_max == 4 * 1024
    assert line.towards("b:80").piece_bytes_max == 25_000
    assert line.towards("c:80").piece_bytes_max == 100_000


def test_what_may_pass_in_several_lines() -> None:
    """Each at its narrowest pace, a pace that all share counts once, and a line without any passes all there is."""
    shared = Pace(100)
    one, other = Line({"job:1": Pace(70), "host:x": shared}), Line({"job:2": Pace(60), "host:x": shared})
    assert bytes_per_s_of([one]) == 70
    assert bytes_per_s_of([one, one]) == 70, "the connections of a lease stand in one line"
    assert bytes_per_s_of([one, other]) == 100
    assert bytes_per_s_of([one, Line({"job:3": Pace(60)})]) == 130
    assert bytes_per_s_of([one, Line({})]) is None
    assert bytes_per_s_of([]) is None
