"""The byte budget is never exceeded, serves in order, and forgets who gave up."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.budget import ByteBudget


async def test_a_waiter_gets_what_is_released() -> None:
    """Who asks for more than is free waits until it is."""
    budget = ByteBudget(10)
    assert await budget.acquire(7) == 7
    waiting = asyncio.create_task(budget.acquire(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.release(7)
    assert await waiting == 5
    budget.release(5)
    assert (budget.used_bytes, budget.peak_bytes) == (0, 7)


async def test_first_come_first_served() -> None:
    """A small wish does not overtake a large one, which would else wait for ever."""
    budget = ByteBudget(10)
    await budget.acquire(6)
    large = asyncio.create_task(budget.acquire(10))
    await asyncio.sleep(0)
    small = asyncio.create_task(budget.acquire(1))
    await asyncio.sleep(0)
    assert not small.done()
    budget.release(6)
    await large
    assert not small.done()
    budget.release(10)
    await small


async def test_more_than_everything_is_everything() -> None:
    """A part larger than the budget has it alone instead of waiting for ever."""
    budget = ByteBudget(10)
    assert await budget.acquire(11) == 10
    budget.release(10)


@pytest.mark.parametrize("granted_first", [True, False])
async def test_a_cancelled_waiter_holds_nothing(granted_first: bool) -> None:  # noqa: FBT001 - a case
    """Cancelled while waiting, or after the grant but before it ran: the bytes go to the next."""
    budget = ByteBudget(10)
    await budget.acquire(10)
    leaving = asyncio.create_task(budget.acquire(10))
    staying = asyncio.create_task(budget.acquire(3))
    await asyncio.sleep(0)
    if granted_first:
        budget.release(10)
        leaving.cancel()
    else:
        leaving.cancel()
        budget.release(10)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying == 3
    assert budget.used_bytes == 3


@given(seed=st.integers(0, 10_000), bytes_max=st.integers(1, 50))
def test_never_exceeded_and_all_given_back(seed: int, bytes_max: int) -> None:
    """Whatever is acquired, released and cancelled in whatever order."""

    async def play() -> None:
        rng, budget = Random(seed), ByteBudget(bytes_max)

        async def one() -> None:
            granted = await budget.acquire(rng.randrange(60))
            try:
                assert budget.used_bytes <= bytes_max
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                budget.release(granted)

        tasks = [asyncio.create_task(one()) for _ in range(20)]
        for task in tasks:
            if rng.random() < 0.2:
                task.cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert budget.used_bytes == 0
        assert budget.peak_bytes <= bytes_max

    asyncio.run(play())
