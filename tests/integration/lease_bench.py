"""One agent's means around a real origin and a real store behind a proxy, and the scheduler's side of a lease."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest
from awscrt.checksums import crc64nvme
from fetching import ask
from origin import Origin, content_sha256
from store_proxy import StoreProxy

from rayhaul.errors import LeaseLost, RayhaulError
from rayhaul.job import JobResult, Metadata
from rayhaul.lease import JobContext, PartDone, TransferOrder, UploadSession
from rayhaul.metrics import SINK_RETRIES_EXHAUSTED, Meter
from rayhaul.policy.planning import PARTS_MAX
from rayhaul.settings import MIB, EgressSettings, S3Settings, SourceSettings, TransferSettings
from tasks.budget import ByteBudget
from tasks.checksum import crc_text
from tasks.egress import GuardedClient
from tasks.gates import Gates
from tasks.links import Link, Refresh
from tasks.marks import EPOCH, LEASE, SESSION
from tasks.pace import Pace
from tasks.probe import probe
from tasks.sink import Sink
from tasks.stripe import Stripe
from tasks.transfer import transfer
from tasks.transports import Transports

PART = 5 * MIB
SETTINGS = TransferSettings(
    part_bytes_min=PART, single_put_bytes_max=MIB, part_attempts_max=3, retry_base_s=0.001, retry_cap_s=0.01
)
MEMORY = 64 * MIB
METADATA = {"correlation-id": "corr-12345", "job-id": "job_1"}
NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(slots=True)
class Control:
    """The scheduler's side of a lease, which remembers what it was told and can take the lease away."""

    #: The step at which the lease is lost.
    lose_at: str = ""
    session: UploadSession | None = None
    parts: list[PartDone] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    doings: list[str] = field(default_factory=list)
    #: Why sources were left out.
    reasons: dict[int, str] = field(default_factory=dict)
    #: Called when a part is reported.
    on_part: Callable[[], object] = field(default=lambda: None)
    bytes_done: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.lose_at:
            raise LeaseLost

    async def opened(self, session: UploadSession) -> None:
        self.step("opened")
        self.session = session

    def left(self, session: UploadSession) -> None:
        self.steps.append("left")
        self.session = session

    async def parts_done(self, parts: Sequence[PartDone]) -> None:
        self.step("part")
        self.on_part()
        self.parts.extend(parts)

    def doing(self, what: str) -> None:
        self.doings.append(what)

    def left_out(self, source: int, why: str) -> None:
        self.reasons[source] = why

    async def ask_commit(self) -> None:
        self.step("commit")

    def progress(self, bytes_moved: int) -> None:
        self.bytes_done += bytes_moved
        self.moved.set()

    def check(self) -> None:
        if self.lose_at == f"after {len(self.parts)} parts":
            raise LeaseLost


class Bench:
    """An origin, a store behind a proxy, and the means of one agent, with keys of its own."""

    def __init__(self, side: "Side") -> None:
        self.origin = side.origin
        self.proxy = side.proxy
        self.client = side.client
        self.sink = side.sink
        self.memory = ByteBudget(MEMORY)
        self.refresh: Refresh | None = None
        self.paces: Mapping[str, Pace] = {}
        self.gates: Gates | None = None
        #: None: HTTP alone.
        self.transports: Transports | None = None
        self.prefix = f"test/{uuid.uuid4()}"
        self.proxy.reset()
        self.origin.connections_open_max = 0

    def exhausted(self) -> float:
        return self.sink.meter.snapshot().counters.get((SINK_RETRIES_EXHAUSTED.name, ()), 0)

    async def order(
        self,
        size: int,
        *,
        seed: int = 7,
        pinned: Mapping[str, object] = NOTHING,
        faults: Mapping[str, object] = NOTHING,
    ) -> TransferOrder:
        """Return an order for a file that was probed while its origin behaved as `pinned`, and now has `faults`."""
        self.origin.add("file.bin", size=size, seed=seed, **pinned)
        url = f"{self.origin.base_url}/file.bin"
        pin = await ask(self.client, url)
        self.origin.add("file.bin", size=size, seed=seed, **{**pinned, **faults})
        self.origin.requests.clear()
        return self.order_for(url, pin)

    async def order_of(self, url: str) -> TransferOrder:
        """Return an order for what a probe by `transports` finds."""
        assert self.transports is not None, "no other source than HTTP"
        pin = await probe(
            self.transports.by(url), Link(url), filename=None, size_bytes_max=None, timeout_s=20, clock=time.monotonic
        )
        return self.order_for(url, pin)

    def order_for(self, url: str, pin: Metadata) -> TransferOrder:
        return TransferOrder(
            lease_id="lease_1",
            epoch=1,
            context=JobContext(job_id="job_1", user_id="alice", correlation_id="corr-12345"),
            url=url,
            headers={},
            pin=pin,
            bucket=self.sink.bucket,
            key=f"{self.prefix}/file.bin",
            part_bytes=PART,
            first_part=1,
            end_part=PARTS_MAX + 1,
            connections=4,
            checksum=None,
            size_bytes_max=None,
            session=None,
        )

    async def run(
        self, order: TransferOrder, control: Control | None = None, *, settings: TransferSettings = SETTINGS
    ) -> JobResult:
        result = await self.carry_out(order, control, settings=settings)
        assert result is not None, "the whole file is published"
        return result

    async def carry_out(
        self,
        order: TransferOrder,
        control: Control | None = None,
        *,
        settings: TransferSettings = SETTINGS,
        stripe: Stripe | None = None,
    ) -> JobResult | None:
        try:
            return await transfer(
                order,
                client=self.client,
                sink=self.sink,
                control=control or Control(),
                settings=settings,
                memory=self.memory,
                clock=time.time,
                rng=Random(1),
                stripe=stripe,
                refresh=self.refresh,
                gates=self.gates,
                paces=self.paces,
                transports=self.transports,
            )
        finally:
            assert self.memory.used_bytes == 0, "all memory is given back"

    async def fails(
        self, order: TransferOrder, kind: type[RayhaulError], control: Control | None = None, **more: TransferSettings
    ) -> RayhaulError:
        """Run an order that must fail like this and publish nothing."""
        with pytest.raises(kind) as caught:
            await self.run(order, control, **more)
        assert type(caught.value) is kind
        assert await self.sink.head(order.key) is None
        return caught.value

    async def check(self, order: TransferOrder, result: JobResult, size: int, *, seed: int = 7) -> None:
        """Check that exactly the file was published, and nothing is left open."""
        assert (result.bucket, result.key, result.size_bytes) == (order.bucket, order.key, size)
        link = self.sink.presign_get(order.key, filename="x", expires_s=60)
        digest, crc = hashlib.sha256(), 0
        async with aiohttp.ClientSession() as session, session.get(link) as response:
            assert response.status == 200
            assert response.headers["ETag"].strip('"') == result.etag
            async for piece in response.content.iter_any():
                digest.update(piece)
                crc = crc64nvme(piece, crc)
        assert digest.hexdigest() == content_sha256(seed, size)
        assert result.crc64nvme == crc_text(crc)
        head = await self.sink.head(order.key)
        assert head is not None
        assert {n: v for n, v in head.metadata.items() if n not in {SESSION, LEASE, EPOCH}} == METADATA
        assert await self.sink.list_uploads(self.prefix) == []

    async def abort(self, control: Control) -> None:
        """Do what an AbortOrder asks for; then no upload may be open."""
        assert control.session is not None
        await self.sink.abort(control.session.key, control.session.upload_id)
        assert await self.sink.list_uploads(self.prefix) == []

    def ranges(self) -> list[int]:
        """Return the part numbers whose ranges were asked for, in ascending order."""
        return sorted(seen.range[0] // PART + 1 for seen in self.origin.requests if seen.range is not None)


@asynccontextmanager
async def through(bench: Bench, *allow: str, **limits: Any) -> AsyncIterator[None]:
    """Have the bench go through another client, with these limits, that may also reach `allow`."""
    usual = bench.client
    async with GuardedClient(
        EgressSettings(allow=(bench.origin.host_port, *allow)),
        SourceSettings(**limits),
        connections_max=4,
        meter=usual._meter,
    ) as client:
        bench.client = client
        try:
            yield
        finally:
            bench.client = usual


@dataclass(frozen=True, slots=True)
class Side:
    """What is costly to start, shared by the tests of this file."""

    origin: Origin
    proxy: StoreProxy
    client: GuardedClient
    sink: Sink


@asynccontextmanager
async def running(settings: S3Settings, *, strict: bool = False, allow: tuple[str, ...] = ()) -> AsyncIterator[Side]:
    """`allow`: what the client may reach besides the origin."""
    meter = Meter()
    async with (
        Origin() as origin,
        StoreProxy(settings, strict=strict) as proxy,
        GuardedClient(
            EgressSettings(allow=(origin.host_port, *allow)),
            SourceSettings(stall_timeout_s=5, first_byte_timeout_s=5),
            connections_max=16,
            meter=meter,
        ) as client,
        Sink(proxy.settings, meter=meter, connections_max=16, retries=SETTINGS, stall_timeout_s=10) as sink,
    ):
        yield Side(origin, proxy, client, sink)


WAYS: Mapping[str, Mapping[str, object]] = {
    "ranges": {},
    "one stream": {"ranges": False},
    "unknown length": {"ranges": False, "framing": "chunked"},
}
