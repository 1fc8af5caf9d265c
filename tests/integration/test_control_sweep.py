"""When the bucket is swept, in the scheduler's hands."""

from datetime import timedelta
from itertools import pairwise

import pytest
from control_rig import Rig, rig_with

from rayhaul.job import utc
from rayhaul.lease import SweepOrder

INTERVAL_S = 600


def sweeps(rig: Rig) -> list[str]:
    """Return the sweeps that were ordered, and have them done."""
    found = []
    for agent in rig.pool.lives.values():
        for key, order in list(agent.held.items()):
            if isinstance(order, SweepOrder):
                found.append(order.order_id)
                del agent.held[key]
    return found


@pytest.mark.parametrize("lives_s", [60, 300, 3600])
async def test_a_scheduler_that_begins_anew_again_and_again(lives_s: int) -> None:
    """Sweeps every ten minutes all the same, and never more often."""
    async with rig_with() as rig:
        await rig.begin(1)
        swept_at_s: list[float] = []
        for _ in range(3600 // lives_s):
            for _ in range(lives_s // 30):
                await rig.live(30, step_s=30)
                swept_at_s += [rig.clock.now_s for _ in sweeps(rig)]
            await rig.restart()
        between_s = [later - earlier for earlier, later in pairwise(swept_at_s)]
        assert 5 <= len(swept_at_s) <= 6
        assert all(INTERVAL_S <= passed_s <= INTERVAL_S + 60 for passed_s in between_s), between_s


async def test_soon_after_a_long_pause() -> None:
    """A scheduler that was away for longer than the interval does not wait for another one."""
    async with rig_with() as rig:
        await rig.begin(1)
        assert (await rig.ledger.state()).swept_at == utc(rig.clock())
        rig.clock.now_s += 2 * INTERVAL_S
        await rig.restart()
        await rig.live(5)
        assert len(sweeps(rig)) == 1
        swept_at = (await rig.ledger.state()).swept_at
        assert swept_at is not None
        assert utc(rig.clock()) - swept_at < timedelta(seconds=10)


async def test_a_scheduler_whose_clock_is_behind() -> None:
    """One that takes over with a clock half a minute behind looks no sooner; one set back by hours looks once."""
    async with rig_with() as rig:
        await rig.begin(1)
        await rig.live(INTERVAL_S + 60, step_s=5)
        assert len(sweeps(rig)) == 1
        swept_at = (await rig.ledger.state()).swept_at
        assert swept_at is not None
        for set_back_s, times in ((30, 0), (7200, 1)):
            rig.clock.now_s = swept_at.timestamp() - set_back_s
            await rig.restart()
            await rig.live(60, step_s=5)
            assert len(sweeps(rig)) == times
