"""What is done to the whole of a soak, every so often: who is killed, cut off, refused or crowded."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

from inprocess import Service
from origin import Origin
from soak_weather import REFUSALS
from store_proxy import StoreProxy

from serve_app.seaweed import Seaweed

AGENT_KILLED_EVERY_S = 30.0
#: How long nobody leads: an agent that is not answered stops by itself after five seconds.
SCHEDULER_KILLED_EVERY_S, SCHEDULER_AWAY_S_MAX = 60.0, 7.0
STORE_KILLED_EVERY_S = 240.0
CUT_OFF_EVERY_S, CUT_OFF_S = 60.0, 2.0
REFUSES_EVERY_S, REFUSES_S = 90.0, 2.0
STRICT_EVERY_S, STRICT_S = 90.0, 45.0
CROWDED_EVERY_S, CROWDED_S = 60.0, 3.0


class Upheavals:
    def __init__(self, service: Service, origin: Origin, proxy: StoreProxy, store: Seaweed, rng: Random) -> None:
        self.service = service
        self.origin = origin
        self.proxy = proxy
        self.store = store
        self.rng = rng
        #: How often each has happened.
        self.happened: Counter[str] = Counter()

    def all(self, ends_s: float) -> list[Coroutine[Any, Any, None]]:
        """Return what goes on until then (time.monotonic), and leaves all as it was."""
        return [
            self._every(AGENT_KILLED_EVERY_S, ends_s, self._kill_agent),
            self._every(SCHEDULER_KILLED_EVERY_S, ends_s, self._kill_scheduler),
            self._every(STORE_KILLED_EVERY_S, ends_s, self._kill_store),
            self._every(CUT_OFF_EVERY_S, ends_s, self._cut_off),
            self._every(REFUSES_EVERY_S, ends_s, self._refuse),
            self._every(STRICT_EVERY_S, ends_s, self._be_strict),
            self._every(CROWDED_EVERY_S, ends_s, self._crowd),
        ]

    async def _every(self, every_s: float, ends_s: float, strike: Callable[[], Awaitable[None]]) -> None:
        while (left_s := ends_s - time.monotonic()) > 0:
            pause_s = self.rng.uniform(0.5, 1.5) * every_s
            await asyncio.sleep(min(pause_s, left_s))
            if pause_s < left_s:
                await strike()

    async def _kill_agent(self) -> None:
        names = list(await self.service.agents.names())
        if len(names) > 1:
            await self.service.agents.kill(self.rng.choice(names))
            self.happened["agent killed"] += 1

    async def _kill_scheduler(self) -> None:
        await self.service.lead.kill()
        self.happened["scheduler killed"] += 1
        await asyncio.sleep(self.rng.uniform(0.2, SCHEDULER_AWAY_S_MAX))
        await self.service.lead.begin()

    async def _kill_store(self) -> None:
        # Its keeper starts it again.
        os.kill(self.store.pid, signal.SIGKILL)
        self.happened["store killed"] += 1

    async def _cut_off(self) -> None:
        self.proxy.is_down = True
        await asyncio.sleep(CUT_OFF_S)
        self.proxy.is_down = False
        self.happened["store cut off"] += 1

    async def _refuse(self) -> None:
        self.proxy.to_all = self.rng.choice(REFUSALS)
        await asyncio.sleep(REFUSES_S)
        self.proxy.to_all = None
        self.happened["bucket refuses"] += 1

    async def _be_strict(self) -> None:
        """Be what R2 is: parts alike, a second between two writes of a key, no checksums that it does not know."""
        self.proxy.strict, self.proxy.write_every_s = True, 1.0
        self.happened["strict as R2"] += 1
        await asyncio.sleep(STRICT_S)
        self.proxy.strict, self.proxy.write_every_s = False, 0.0

    async def _crowd(self) -> None:
        """Have the origin refuse all requests, with 429."""
        self.origin.requests_max = 0
        await asyncio.sleep(CROWDED_S)
        self.origin.requests_max = None
        self.happened["origin crowded"] += 1
