"""An agent's look at what a file is, within the connections that it may have at the hosts it asks.

Laws of this file:
1. A request is sent in a turn of its host's gate, as a transfer's are. While a job's owner is asked for a fresh link,
   no turn is held.
2. A look waits longer for its turn than a transfer: it keeps no slot of one, and its job would only come again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rayhaul.errors import SourceError
from rayhaul.job import Metadata
from rayhaul.lease import ProbeOrder
from rayhaul.origins import Source
from rayhaul.settings import Settings
from tasks.first_found import first_found
from tasks.gates import Gates
from tasks.links import Link, Links, Refresh
from tasks.probe import probe
from tasks.transports import Transports

#: Longest wait for a connection; a host that pauses for long is busy sooner.
LOOK_WAIT_S_MAX = 600.0


class Looking:
    def __init__(
        self,
        settings: Settings,
        *,
        transports: Transports,
        gates: Gates,
        refresh: Refresh,
        monotonic: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._transports = transports
        self._gates = gates
        self._refresh = refresh
        self._monotonic = monotonic

    async def look(self, order: ProbeOrder) -> Metadata:
        """Return what the order's source says of the file, or one of its mirrors. Raises: RayhaulError."""
        main = Source(index=order.source, url=order.url, headers=order.headers, grant=order.grant)
        return await first_found((main, *order.mirrors), partial(self._look_at, order))

    async def _look_at(self, order: ProbeOrder, source: Source) -> Metadata:
        links = Links(
            Link(source.url, source.headers, peek_for=order.context.job_id if order.may_peek else None),
            context=order.context,
            receiver=order.refresh_webhook if source.index == 0 else None,
            refresh=self._refresh,
        )
        while True:
            link = links.current
            try:
                found = await self._ask_in_turn(order, source, link)
            except SourceError as error:
                if not await links.are_fresh_after(link, error):
                    raise
            else:
                return replace(found, source=source.index)

    async def _ask_in_turn(self, order: ProbeOrder, source: Source, link: Link) -> Metadata:
        gate = self._gates.of(source.grant)
        if gate is not None:
            async with gate.turn(lambda: None, wait_s_max=LOOK_WAIT_S_MAX):
                return await self._ask(order, link)
        try:
            return await self._ask(order, link)
        except SourceError as error:
            self._gates.note(link.url, error)
            raise

    async def _ask(self, order: ProbeOrder, link: Link) -> Metadata:
        return await probe(
            self._transports.by(link.url),
            link,
            filename=order.filename,
            size_bytes_max=self._settings.transfer.size_bytes_of(order.size_bytes_max),
            timeout_s=self._settings.source.probe_timeout_s,
            clock=self._monotonic,
        )
