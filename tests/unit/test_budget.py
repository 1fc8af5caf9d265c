"""The byte budget is never exceeded, starves nobody, holds up nobody for who is slow, and forgets who gave up."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.budget
from tasks.budget import ByteBudget, Claim, Row


@pytest.fixture(autouse=True)
def steps_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.budget, "STEP_BYTES", 1)


async def grown(claim: Claim, bytes_count: int) -> Claim:
    while not claim.has_room(bytes_count):
        await claim.step()
    return claim


async def turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_waiter_gets_what_is_released() -> None:
    """Who asks for more than is free waits until it is."""
    budget = ByteBudget(10)
    first = await grown(budget.claim(7), 7)
    waiting = asyncio.create_task(grown(budget.claim(5), 5))
    await turns()
    assert not waiting.done()
    first.release()
    (await waiting).release()
    assert (budget.used_bytes, budget.peak_bytes) == (0, 10)


async def test_who_is_slow_holds_what_it_has() -> None:
    """Claims to four times what there is, with a byte each, hold up no small one."""
    budget = ByteBudget(20)
    slow = [await asyncio.wait_for(grown(budget.claim(10), 1), 1) for _ in range(8)]
    small = await asyncio.wait_for(grown(budget.claim(5), 5), 1)
    small.release()
    assert budget.used_bytes == 8
    for claim in slow:
        claim.release()


async def test_nobody_waits_for_who_waits_for_him() -> None:
    """Claims that together want more than there is all grow to their end, whichever comes first."""
    budget = ByteBudget(10)

    async def one() -> None:
        claim = budget.claim(6)
        for count in range(7):
            await grown(claim, count)
            await asyncio.sleep(0)
        claim.release()

    await asyncio.wait_for(asyncio.gather(*[one() for _ in range(8)]), 5)
    assert budget.used_bytes == 0


async def test_rows_wait_for_nobody_who_waits_for_them() -> None:
    """Two rows of three buffers, of which the first is filled last, and begun anew: each is served to its end."""
    budget = ByteBudget(20)

    async def one() -> None:
        row = Row(15)
        first, *others = (budget.claim(5, row) for _ in range(3))
        await grown(first, 1)
        first.release()
        for count in range(6):
            for claim in others:
                await grown(claim, count)
        for claim in others:
            claim.settle()
        # Meanwhile the others do the same.
        await turns()
        first = budget.claim(5, row)
        for claim in (await grown(first, 5), *others):
            claim.release()

    async with asyncio.timeout(5):
        await asyncio.gather(*(one() for _ in range(4)))
    assert budget.used_bytes == 0
    assert budget.peak_bytes <= 20


async def test_a_large_one_grows_while_small_ones_come_and_go() -> None:
    """It is not overtaken for ever."""
    budget = ByteBudget(10)
    first = await grown(budget.claim(6), 6)
    large = asyncio.create_task(grown(budget.claim(10), 10))
    await turns()
    smalls = [asyncio.create_task(grown(budget.claim(3), 3)) for _ in range(4)]
    await turns()
    first.release()
    for small in smalls:
        await turns()
        if small.done():
            (await small).release()
    async with asyncio.timeout(1):
        while not large.done():
            for small in [small for small in smalls if small.done()]:
                (await small).release()
            await asyncio.sleep(0)
    (await large).release()
    for small in smalls:
        (await asyncio.wait_for(small, 1)).release()
    assert budget.used_bytes == 0


async def test_more_than_everything_is_everything() -> None:
    """A part larger than the budget has it alone instead of waiting for ever."""
    budget = ByteBudget(10)
    claim = await asyncio.wait_for(grown(budget.claim(11), 11), 1)
    assert (budget.used_bytes, claim.has_room(11)) == (10, True)
    claim.release()
    assert budget.used_bytes == 0


async def test_a_whole_buffer_wants_nothing_more() -> None:
    """What a settled claim did not take is others' to count on."""
    budget = ByteBudget(10)
    first, second = await grown(budget.claim(10), 4), budget.claim(10)
    assert not second.may_step, "both could wait for each other"
    first.settle()
    await asyncio.wait_for(grown(second, 6), 1)
    assert not second.may_step
    first.release()
    await asyncio.wait_for(grown(second, 10), 1)
    second.release()


@pytest.mark.parametrize("granted_first", [True, False])
async def test_a_cancelled_waiter_holds_nothing(granted_first: bool) -> None:  # noqa: FBT001 - a case
    """Cancelled while waiting, or after the grant but before it ran: the bytes go to the next once it lets go."""
    budget = ByteBudget(1)
    holding = await grown(budget.claim(1), 1)
    left = budget.claim(1)
    leaving = asyncio.create_task(left.step())
    staying = asyncio.create_task(grown(budget.claim(1), 1))
    await turns()
    if granted_first:
        holding.release()
        leaving.cancel()
    else:
        leaving.cancel()
        holding.release()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    left.release()
    (await asyncio.wait_for(staying, 1)).release()
    assert budget.used_bytes == 0


@given(seed=st.integers(0, 10_000), bytes_max=st.integers(1, 50))
def test_never_exceeded_and_all_given_back(seed: int, bytes_max: int) -> None:
    """Whatever is claimed, grown, released and cancelled in whatever order, all come to their end."""

    async def play() -> None:
        rng, budget = Random(seed), ByteBudget(bytes_max)

        async def one() -> None:
            claim = budget.claim(rng.randrange(60))
            try:
                for count in range(rng.randrange(60)):
                    await grown(claim, min(count, claim.wanted_bytes))
                    assert budget.used_bytes <= bytes_max
                    if rng.random() < 0.3:
                        await asyncio.sleep(0)
                claim.settle()
                await asyncio.sleep(0)
            finally:
                claim.release()

        tasks_ = [asyncio.create_task(one()) for _ in range(20)]
        for task in tasks_:
            if rng.random() < 0.2:
                task.cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            results = await asyncio.gather(*tasks_, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert budget.used_bytes == 0
        assert budget.peak_bytes <= bytes_max

    asyncio.run(play())
