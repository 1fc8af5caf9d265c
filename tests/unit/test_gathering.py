"""Calls that cross together: none is lost or mixed up, and nobody waits for more than the crossings before."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.gathering import Gathering
from rayhaul.errors import Unavailable


class _Border:
    """Answers a crossing when it is told to."""

    def __init__(self) -> None:
        self.crossings: list[Sequence[int]] = []
        self.gates: list[asyncio.Future[None]] = []

    async def cross(self, calls: Sequence[int]) -> Sequence[str]:
        self.crossings.append(calls)
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        return [f"answer {call}" for call in calls]


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_meanwhile_goes_with_the_next() -> None:
    border = _Border()
    gathering = Gathering(border.cross)
    asked = []
    for number in range(200):
        asked.append(asyncio.ensure_future(gathering.ask(number)))
        await _turns()
    assert border.crossings == [[0], [1]]
    border.gates[0].set_result(None)
    await _turns()
    assert await asked[0] == "answer 0"
    assert border.crossings[2] == list(range(2, 66))
    for number in range(1, 4):
        border.gates[number].set_result(None)
        await _turns()
    border.gates[4].set_result(None)
    border.gates[5].set_result(None)
    assert await asyncio.gather(*asked) == [f"answer {number}" for number in range(200)]
    assert sorted(call for calls in border.crossings for call in calls) == list(range(200))


async def test_who_gave_up_before_it_left_is_not_carried_over() -> None:
    border = _Border()
    gathering = Gathering(border.cross)
    asked = [asyncio.ensure_future(gathering.ask(number)) for number in range(4)]
    await _turns()
    asked[2].cancel()
    # This one has left: it is carried out, and nobody hears of it.
    asked[1].cancel()
    await _turns()
    for gate in list(border.gates):
        gate.set_result(None)
    await _turns()
    border.gates[2].set_result(None)
    assert await asked[0] == "answer 0"
    assert await asked[3] == "answer 3"
    assert [list(calls) for calls in border.crossings] == [[0], [1], [3]]


@pytest.mark.parametrize("too_few", [True, False])
async def test_a_crossing_that_fails_fails_for_all_it_carried_and_for_no_others(*, too_few: bool) -> None:
    async def cross(calls: Sequence[int]) -> Sequence[str]:
        if 7 in calls and not too_few:
            raise Unavailable("nobody there")
        return [] if 7 in calls else ["good"] * len(calls)

    gathering = Gathering(cross)
    with pytest.raises(ValueError if too_few else Unavailable):
        await gathering.ask(7)
    assert await gathering.ask(8) == "good"
