"""The connections that one process has at each host: no more than was granted, and none begins while it pauses.

Laws of this file:
1. A grant is for all leases of the process together. One that shrinks stops nothing that is under way: the next request
   waits until there are fewer.
2. What a host refuses pauses it here at once; that all others hear of it is the scheduler's business. After redirects
   the one that refuses may be another one than bytes come from, or than was asked: then it is told of that one.
3. Nobody waits for ever: after `WAIT_S_MAX`, a look at metadata later, the job goes back to the queue, where it waits
   without a slot, and no attempt is charged: nobody was asked. A lease that has a connection there waits for that one:
   it moves bytes, or is given up.
4. Whose own request has just been refused was asked for too much: to it, a pause is that refusal (`is_own`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress

from rayhaul.errors import HostFull, RayhaulError, SourceBusy
from rayhaul.origins import HostGrant, HostUse, host_of

#: Longest wait for a connection within one try. A longer pause needs no slot: the job waits in the queue.
WAIT_S_MAX = 60.0
#: A lease that waits says so this often.
_ROUND_S = 5.0
#: Hosts that are remembered in one process beyond those of its leases.
_GATES_MAX = 1000


def is_own(refused_at_s: float, now_s: float) -> bool:
    """Whether it is for a refusal of its own, then, that somebody has no turn now."""
    return now_s - refused_at_s < WAIT_S_MAX


class HostGate:
    def __init__(
        self,
        host: str,
        monotonic: Callable[[], float],
        elsewhere: Callable[[str, float | None], None] = lambda _host, _retry_after_s: None,
    ) -> None:
        """`elsewhere` is told of another host that has refused in a turn here, and of its Retry-After."""
        self.host = host
        self._monotonic = monotonic
        self._elsewhere = elsewhere
        #: None before the first grant: as many as are asked for.
        self._granted: int | None = None
        self._version = 0
        self.used = 0
        #: The most that were in use at once since this was last told.
        self._peak = 0
        #: By the scheduler's word, and by the host's own.
        self._paused_until_s = float("-inf")
        self._refused_until_s = float("-inf")
        self.refused_at_s: float | None = None
        self._changed = asyncio.Event()
        #: Who waits, in the order of coming: a lease with many lanes is not always first.
        self._line: deque[object] = deque()

    def take(self, grant: HostGrant) -> None:
        """Go by a grant from now on; by an older one than the last, not."""
        if grant.version < self._version:
            return
        self._granted, self._version = grant.connections, grant.version
        self._paused_until_s = self._monotonic() + grant.pause_s if grant.pause_s > 0 else float("-inf")
        self._wake()

    @asynccontextmanager
    async def turn(
        self,
        waiting: Callable[[], None],
        *,
        wait_s_max: float | None = None,
        way: str | None = None,
        has_another: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[None]:
        """Hold a connection for the time of the block; before, where it has to wait, `waiting` is called now and then.

        `way`: the host that requests begin at, which only leads here, and is waited for by itself (`rested`): what that
        one refuses, this one has not. Where redirects lead from here nobody knows: a refusal there is taken for both's.
        `has_another`: whether who waits has a connection here by now, and so need not be told that there is none.
        Raises: HostFull where there is none for `wait_s_max` (None: `WAIT_S_MAX`), or the host pauses for longer than
        `WAIT_S_MAX`. A SourceBusy out of the block is that of the host that it names.
        """
        if not self.is_free:
            await self._wait(waiting, WAIT_S_MAX if wait_s_max is None else wait_s_max, has_another)
        self.used += 1
        self._peak = max(self._peak, self.used)
        try:
            yield
        except SourceBusy as error:
            refuser = error.host or self.host
            if refuser != way:
                self.refuse(error.retry_after_s)
            if refuser != self.host:
                self._elsewhere(refuser, error.retry_after_s)
            raise
        finally:
            self.used -= 1
            self._wake()

    async def rested(self, waiting: Callable[[], None]) -> None:
        """Return once the host does not pause any more. Raises: HostFull where that is longer than `WAIT_S_MAX`."""
        while (pause_s := self._pause_s()) > 0:
            if pause_s > WAIT_S_MAX:
                raise HostFull(f"{self.host} asked to be left alone.", retry_after_s=pause_s)
            waiting()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_ROUND_S, pause_s)):
                    await self._changed.wait()

    @property
    def is_rested(self) -> bool:
        return self._pause_s() <= 0

    def refuse(self, retry_after_s: float | None) -> None:
        """Note that the host has just refused a request."""
        now_s = self._monotonic()
        self.refused_at_s = now_s
        self._refused_until_s = max(self._refused_until_s, now_s + (retry_after_s or 0.0))

    def use(self) -> HostUse:
        """Return what there is to tell, once: the next peak begins with what is in use now."""
        now_s = self._monotonic()
        peak, self._peak = max(self._peak, self.used), self.used
        return HostUse(
            host=self.host,
            connections=self.used,
            granted=self._granted or 0,
            version=self._version,
            refused_ago_s=None if self.refused_at_s is None else now_s - self.refused_at_s,
            pause_s=max(0.0, self._refused_until_s - now_s),
            peak=peak,
        )

    @property
    def is_free(self) -> bool:
        """Whether a request that comes now would not have to wait."""
        return not self._line and self._is_free()

    @property
    def is_idle(self) -> bool:
        return self.used == 0 and self.refused_at_s is None and self._pause_s() <= 0

    def _pause_s(self) -> float:
        return max(self._paused_until_s, self._refused_until_s) - self._monotonic()

    def _is_free(self) -> bool:
        return self._pause_s() <= 0 and (self._granted is None or self.used < self._granted)

    async def _wait(self, waiting: Callable[[], None], wait_s_max: float, has_another: Callable[[], bool]) -> None:
        place = object()
        self._line.append(place)
        try:
            await self._wait_at(place, waiting, wait_s_max, has_another)
        finally:
            self._line.remove(place)
            self._wake()

    async def _wait_at(
        self, place: object, waiting: Callable[[], None], wait_s_max: float, has_another: Callable[[], bool]
    ) -> None:
        until_s = self._monotonic() + wait_s_max
        while not (self._line[0] is place and self._is_free()):
            now_s, pause_s = self._monotonic(), self._pause_s()
            if has_another():
                until_s = now_s + wait_s_max
            if now_s + max(0.0, pause_s) > until_s or now_s >= until_s or pause_s > WAIT_S_MAX:
                raise HostFull(f"{self.host} bears no more connections now.", retry_after_s=max(0.0, pause_s))
            waiting()
            round_s = min(_ROUND_S, until_s - now_s, pause_s if pause_s > 0 else _ROUND_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(round_s):
                    await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Gates:
    """The gates of one process, by host."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._gates: dict[str, HostGate] = {}

    def of(self, grant: HostGrant | None) -> HostGate | None:
        """Return the gate that an order's requests go through; None where the scheduler knows none."""
        if grant is None:
            return None
        gate = self._gate(grant.host)
        gate.take(grant)
        return gate

    def on_the_way(self, host: str) -> HostGate:
        """Return the gate of a host that only leads to where bytes are: its pauses count, its connections do not."""
        return self._gate(host)

    def take(self, grants: Iterable[HostGrant]) -> None:
        """Go by what the scheduler grants. Of a host that is not known here any more, nothing is needed."""
        for grant in grants:
            if grant.host in self._gates:
                self._gates[grant.host].take(grant)

    def note(self, url: str, error: RayhaulError) -> None:
        """Note how a request outside the gates failed."""
        if isinstance(error, SourceBusy):
            for host in {host_of(url), error.host or host_of(url)}:
                self._refused(host, error.retry_after_s)

    def _refused(self, host: str, retry_after_s: float | None) -> None:
        if host in self._gates or len(self._gates) < _GATES_MAX:
            self._gate(host).refuse(retry_after_s)

    def uses(self, needed: Collection[str]) -> tuple[HostUse, ...]:
        """Return what there is to tell, and forget the hosts of which there is nothing and that are not `needed`."""
        for host in [host for host, gate in self._gates.items() if gate.is_idle and host not in needed]:
            del self._gates[host]
        return tuple(gate.use() for gate in self._gates.values())

    def settle(self, told: Iterable[HostUse], told_at_s: float) -> None:
        """Forget the refusals that the scheduler has heard of by now."""
        for use in told:
            gate = self._gates.get(use.host)
            if gate is not None and gate.refused_at_s is not None and gate.refused_at_s <= told_at_s:
                gate.refused_at_s = None

    def _gate(self, host: str) -> HostGate:
        if host not in self._gates:
            self._gates[host] = HostGate(host, self._monotonic, self._refused)
        return self._gates[host]
