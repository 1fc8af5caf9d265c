"""The sources of one order: which of them have the pinned file, and which is asked for the next part.

Laws of this file:
1. The main source is the one that was pinned. A mirror is read from only after its own answer to a probe showed the
   same file (rayhaul/policy/mirrors.py), and from then on each of its answers must show the version of that answer.
2. A source that shows another file, changes, or refuses is left out for the rest of the order, and that is told.
3. A part that one source does not bring is asked of each other one at once; only when none is left does a try count as
   failed, by what the main source said.
4. An order with one source goes exactly as if there was nothing here.
5. The further URLs of a Metalink document are mirrors as well. What they bring counts as the document's.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from math import inf

from rayhaul.errors import HostFull, RayhaulError, SourceBusy, SourceChanged, SourceError
from rayhaul.job import MIRRORS_MAX, Metadata
from rayhaul.lease import TransferOrder
from rayhaul.metrics import SOURCES_LEFT_OUT, Meter
from rayhaul.origins import Source, host_of
from rayhaul.policy import mirrors as policy
from rayhaul.policy.mirrors import Match, Standing
from rayhaul.redaction import redacted
from rayhaul.settings import SourceSettings
from tasks.gates import Gates, HostGate, is_own
from tasks.lease_control import LeaseControl
from tasks.links import Link, Links, Refresh
from tasks.pace import Line
from tasks.probe import probe
from tasks.source import RangeIgnored
from tasks.transport import Place, Transport
from tasks.transports import Transports

_log = logging.getLogger(__name__)

#: Looks at a mirror that could not be reached, within one order.
_LOOKS_MAX = 3
#: So long connections wait for that before their first part, all but one.
_LOOK_WAIT_S = 1.0

#: What a lease does while a host has no connection for it.
AT_GATE = "waiting for a connection to its host"


class Supply:
    """One source in the hands of an order."""

    def __init__(
        self,
        source: Source,
        links: Links,
        by: Callable[[str], Transport],
        *,
        gate: HostGate | None,
        line: Line,
        pin: Metadata | None,
        way: Callable[[str], HostGate] | None = None,
        index: int | None = None,
        in_pieces: bool = False,
    ) -> None:
        """`by` returns the transport of a link; `index`: where a document names it, that `source.index` stands for.

        `way` returns the gate of the host that a request begins at; None: where that leads is not known.
        """
        #: Which of the job's sources its bytes count as.
        self.source = source.index
        #: What it is called within the order.
        self.index = source.index if index is None else index
        self.url = source.url
        self.headers = source.headers
        self.links = links
        self.by = by
        #: Whether what it brings is compared piece by piece.
        self.in_pieces = in_pieces
        self.gate = gate
        self._way = way
        self.line = line
        #: The version that its answers must show; None before it was looked at.
        self.pin = pin
        self.standing = Standing()
        #: Why it is not read from any more, in a word.
        self.left_out: str | None = None
        self.serves_ranges = True
        self.looks_count = 0
        #: Connections of its host that this order has.
        self._turns_count = 0
        #: When it refused a request of this order.
        self._refused_at_s = -inf
        #: What it failed with last.
        self.error: RayhaulError | None = None

    @property
    def host(self) -> str:
        return host_of(self.url)

    @property
    def may_be_looked_at(self) -> bool:
        return self.pin is None and self.left_out is None and self.looks_count < _LOOKS_MAX

    def serves(self, *, ranges: bool) -> bool:
        return self.pin is not None and self.left_out is None and (self.serves_ranges or not ranges)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a connection for the time of the block."""
        self.standing = self.standing.taken()
        try:
            yield
        finally:
            self.standing = self.standing.left()

    @asynccontextmanager
    async def turn(self, control: LeaseControl) -> AsyncIterator[None]:
        """Hold one of its host's connections. Raises: HostFull; SourceBusy where it has just refused this order."""
        if self.gate is None:
            yield
            return
        clock = asyncio.get_running_loop().time
        try:
            async with self._turn_at(self.gate, control):
                yield
        except HostFull as full:
            if is_own(self._refused_at_s, clock()):
                raise SourceBusy(full.message, retry_after_s=full.retry_after_s) from full
            raise
        except SourceBusy:
            self._refused_at_s = clock()
            raise

    @asynccontextmanager
    async def _turn_at(self, gate: HostGate, control: LeaseControl) -> AsyncIterator[None]:
        first = self._first_gate
        if first is not None:
            await first.rested(lambda: control.doing(AT_GATE))
        way = None if first is None else first.host
        async with gate.turn(lambda: control.doing(AT_GATE), way=way, has_another=lambda: self._turns_count > 0):
            control.doing("moving bytes")
            self._turns_count += 1
            try:
                yield
            finally:
                self._turns_count -= 1

    @property
    def is_free(self) -> bool:
        """Whether a request that comes now would not have to wait."""
        first = self._first_gate
        return self.gate is None or (self.gate.is_free and (first is None or first.is_rested))

    @property
    def _first_gate(self) -> HostGate | None:
        """Of the host that only leads to the one the bytes are at; None where it is the same."""
        first = host_of(self.links.current.url)
        return None if self._way is None or self.gate is None or first == self.gate.host else self._way(first)


class Supplies:
    """All sources of one order, shared by its connections."""

    def __init__(
        self,
        order: TransferOrder,
        transports: Transports,
        settings: SourceSettings,
        control: LeaseControl,
        *,
        line: Line,
        gates: Gates | None,
        refresh: Refresh | None,
        meter: Meter,
    ) -> None:
        self._order = order
        self._transports = transports
        self._settings = settings
        self._control = control
        self._meter = meter
        self._line = line
        self._gates = gates
        main_host = host_of(order.pin.final_url)
        # A document's own host brings none of the file.
        shown_url = order.pin.final_url if order.pin.other_hosts else order.url
        main = Source(index=order.pin.source, url=shown_url, headers=order.headers, grant=order.grant)
        self.main = Supply(
            main,
            Links(
                Link(order.url, order.headers, peek_for=order.context.job_id),
                context=order.context,
                pin=order.pin,
                receiver=order.refresh_webhook if order.pin.source == 0 else None,
                refresh=refresh,
            ),
            transports.by,
            gate=None if gates is None else gates.of(order.grant),
            way=None if gates is None else gates.on_the_way,
            line=line.towards(main_host),
            pin=order.pin,
        )
        self._all = {self.main.index: self.main}
        for source in order.mirrors:
            self._all[source.index] = Supply(
                source,
                Links(Link(source.url, source.headers), context=order.context),
                transports.by,
                gate=None if gates is None else gates.of(source.grant),
                line=line.towards(host_of(source.url)),
                pin=None,
            )
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_one(self) -> bool:
        return len(self._all) == 1

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def find_places(self) -> None:
        """Take the further URLs for mirrors, where the main source is a document that names some."""
        if not self._order.pin.other_hosts:
            return
        try:
            places = await self._transports.places(self.main.links.current, self._order.pin)
        except RayhaulError as error:
            # The first part asks for the document again, and says what that means.
            _log.info("the Metalink document tells no further URLs (%s)", error.code)
            return
        for place in places[: MIRRORS_MAX - len(self._order.mirrors)]:
            self._add(place)

    def _add(self, place: Place) -> None:
        host = host_of(place.link.url)
        grant = next((grant for grant in self._order.other_grants if grant.host == host), None)
        supply = Supply(
            Source(index=self.main.source, url=place.link.url, headers=place.link.headers, grant=grant),
            Links(place.link, context=self._order.context),
            lambda _url: place.transport,
            gate=None if self._gates is None else self._gates.of(grant),
            line=self._line.towards(host),
            pin=None,
            index=max(self._all) + 1,
            in_pieces=place.in_pieces,
        )
        self._all[supply.index] = supply

    def urls_of(self, indexes: Collection[int]) -> Sequence[str]:
        """Return the URLs of those, of some sources, that are still read from."""
        return [one.url for one in self._all.values() if one.index in indexes and one.left_out is None]

    # --- choosing ---

    async def pick(self, but: Collection[int], *, ranges: bool) -> Supply | None:
        """Return the source to ask next, of those that are not in `but`; None where none is left."""
        index = policy.choose(self._standings(ranges=ranges), but)
        if index is None and any(one.may_be_looked_at for one in self._all.values() if one.index not in but):
            await self._look()
            index = policy.choose(self._standings(ranges=ranges), but)
        return None if index is None else self._all[index]

    def apart_from(self, supply: Supply) -> Collection[int] | None:
        """Return whom a second request for bytes of `supply` does not go to; None where no host is free for it."""
        free = {index for index, standing in self._standings(ranges=True).items() if standing.is_free}
        if not free:
            return None
        return {supply.index} if free - {supply.index} else ()

    def crawls(self, supply: Supply, bytes_count: int, waited_s: float) -> bool:
        """Whether a range that has come so far from a source should be asked for elsewhere."""
        if self.is_one:
            return False
        return policy.crawls(bytes_count, waited_s, supply.index, self._standings(ranges=True))

    def _standings(self, *, ranges: bool) -> dict[int, Standing]:
        return {
            supply.index: supply.standing.at_gate(is_free=supply.is_free)
            for supply in self._all.values()
            if supply.serves(ranges=ranges)
        }

    # --- what they have ---

    def begin_to_look(self) -> None:
        """Look at the mirrors that were not looked at yet, all at once; returns at once."""
        if not self.is_one and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_at_all(), name="mirrors")

    async def looked(self) -> None:
        """Return when the mirrors were looked at, or that takes too long to be waited for."""
        if self._looking is not None:
            await asyncio.wait([self._looking], timeout=_LOOK_WAIT_S)

    async def _look(self) -> None:
        self.begin_to_look()
        assert self._looking is not None, "there are mirrors"
        # Whoever waits may be cancelled; the others go on.
        await asyncio.wait([self._looking])
        self._looking.result()

    async def _look_at_all(self) -> None:
        await asyncio.gather(*(self._look_at(one) for one in self._all.values() if one.may_be_looked_at))

    async def _look_at(self, supply: Supply) -> None:
        supply.looks_count += 1
        try:
            async with supply.turn(self._control):
                seen = await probe(
                    supply.by(supply.url),
                    Link(supply.url, supply.headers),
                    filename=self._order.pin.filename,
                    size_bytes_max=None,
                    timeout_s=self._settings.probe_timeout_s,
                    clock=asyncio.get_running_loop().time,
                )
        except RayhaulError as error:
            supply.error = error
            supply.standing = supply.standing.failed(0, 0.0)
            if not error.retryable or supply.looks_count >= _LOOKS_MAX:
                self.leave_out(supply, error.code)
            return
        found = policy.match(self._order.pin, seen, self._order.checksum, in_pieces=supply.in_pieces)
        if found is Match.SAME or (found is Match.CHECKED_LATER and not self._order.is_apart):
            supply.pin, supply.serves_ranges = seen, seen.rangeable
        else:
            self.leave_out(supply, "other_file" if found is Match.OTHER else "doubtful")

    # --- what they did ---

    def failed(self, supply: Supply, error: RayhaulError, *, bytes_count: int, waited_s: float) -> None:
        """Note that a source did not bring what it was asked for; where that will not change, it is left out."""
        supply.error = error
        supply.standing = supply.standing.failed(bytes_count, waited_s)
        if self.is_one:
            return
        if isinstance(error, RangeIgnored):
            supply.serves_ranges = False
        elif isinstance(error, SourceChanged) or not error.retryable:
            self.leave_out(supply, error.code)

    def leave_out(self, supply: Supply, why: str) -> None:
        if supply.left_out is not None:
            return
        supply.left_out = why
        kind = "source" if supply.index == 0 else "mirror" if supply.index == supply.source else "place"
        _log.warning("%s left out (%s): %s", kind, why, redacted(supply.url))
        self._meter.inc(SOURCES_LEFT_OUT, why)
        if all(one.left_out is not None for one in self._all.values() if one.source == supply.source):
            self._control.left_out(supply.source, why)

    def verdict(self, error: RayhaulError, *, ranges: bool) -> RayhaulError:
        """Return what it means that none brought a part, of which `error` is what the last one said."""
        if self.is_one:
            return error
        if ranges and not any(one.serves(ranges=True) for one in self._all.values()) and self._serves_whole():
            # The whole file in one stream may still do.
            return error if isinstance(error, RangeIgnored) else RangeIgnored()
        counts = next((one.error for one in self._by_weight() if one.error is not None), error)
        if not isinstance(counts, SourceError):
            return counts
        return type(counts)(self._told(), retry_after_s=counts.retry_after_s, status=counts.status)

    def _serves_whole(self) -> bool:
        return any(one.serves(ranges=False) for one in self._all.values())

    def _by_weight(self) -> Sequence[Supply]:
        """Return the main source first, but after those that may be asked again."""
        return sorted(self._all.values(), key=lambda one: (one.left_out is not None, one is not self.main))

    def _told(self) -> str:
        parts = [
            f"{supply.host} ({supply.standing.bytes_count} bytes): "
            f"{supply.error.message if supply.error else supply.left_out or 'not asked'}"
            for supply in self._all.values()
        ]
        return f"None of {len(self._all)} sources brings the file. " + " ".join(parts)
