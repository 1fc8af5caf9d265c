"""The URLs of a Metalink document as mirrors of each other, one fault a test: who brings which part."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running, through
from metalinks import PIECE, SIZE, Describer, described, describing
from origin import Origin, content_sha256

from rayhaul import AsyncClient
from rayhaul.errors import SourceNotFound
from rayhaul.job import JobStatus
from rayhaul.lease import TransferOrder
from rayhaul.metrics import SOURCES_LEFT_OUT
from rayhaul.policy import mirrors as policy
from rayhaul.settings import MIB
from serve_app.seaweed import Seaweed
from tasks.links import Link
from tasks.source import CorruptBody
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARTS = 4
#: Of a connection: a part takes more than half a second.
SLOW_BYTES_PER_S = 8 * MIB
SHA256 = content_sha256(7, SIZE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings, allow=("127.0.0.1/32",)) as side:
        yield side


@dataclass(frozen=True, slots=True)
class Two:
    """A document that names a file of the bench's origin first, and one of another origin second."""

    bench: Bench
    second: Origin
    describer: Describer

    async def order(
        self,
        *,
        faults: dict[str, Any] | None = None,
        then: dict[str, Any] | None = None,
        document: dict[str, Any] | None = None,
        seed: int = 7,
        **second: Any,
    ) -> TransferOrder:
        """Return an order of the file, whose first place has `faults` from now on, and the second `then` besides."""
        first_url = self.bench.origin.add("file.bin", size=SIZE, seed=7)
        second_url = self.second.add("copy.bin", size=SIZE, seed=seed, **second)
        self.describer.text = described(first_url, second_url, **(document or {}))
        order = await self.bench.order_of(self.describer.url())
        self.bench.origin.add("file.bin", size=SIZE, seed=7, **(faults or {}))
        self.second.add("copy.bin", size=SIZE, seed=seed, **{**second, **(then or {})})
        for origin in (self.bench.origin, self.second):
            origin.requests.clear()
        return order

    def parts_of_second(self) -> Sequence[int]:
        """Return the parts whose first byte the second place was asked for; the look at it is none."""
        ranges = [seen.range for seen in self.second.requests if seen.range is not None]
        # A part reads from where its first piece begins.
        return sorted({(begin + PIECE - 1) // PART + 1 for begin, end in ranges if end != 1})

    def left_out(self, why: str) -> float:
        return self.bench.sink.meter.snapshot().counters.get((SOURCES_LEFT_OUT.name, (why,)), 0)


@pytest_asyncio.fixture(loop_scope="module")
async def describer() -> AsyncIterator[Describer]:
    async with describing() as describer:
        yield describer


@pytest_asyncio.fixture(loop_scope="module")
async def two(side: Side, describer: Describer) -> AsyncIterator[Two]:
    bench = Bench(side)
    bench.transports = Transports(side.client)
    async with Origin() as second:
        yield Two(bench, second, describer)


@pytest.mark.parametrize(
    "death",
    [{"status": 404, "status_after": 2}, {"truncate_after": MIB}, {"status": 503, "status_after": 1}],
    ids=["gone", "cut", "busy"],
)
async def test_the_first_one_dies_half_way(two: Two, death: dict[str, Any]) -> None:
    """The second one brings the parts that are missing, at once, within the same lease and upload."""
    order = await two.order(faults={"rate_bytes_per_s": SLOW_BYTES_PER_S, **death}, rate_bytes_per_s=SLOW_BYTES_PER_S)
    control = Control()
    result = await two.bench.run(order, control)
    await two.bench.check(order, result, SIZE)
    assert two.parts_of_second()
    assert two.bench.proxy.count("create") == 1
    assert len({part.number for part in control.parts}) == len(control.parts) == PARTS
    assert "waiting to try again" not in control.doings
    # The document itself, which is what the job named, was not left out, and there is no other source.
    assert (control.reasons, result.sources) == ({}, ())
    if "truncate_after" not in death:
        assert two.bench.proxy.count("upload_part") == PARTS


async def test_the_first_one_has_a_wrong_piece(two: Two) -> None:
    """That part comes from the second one; of the first one, no byte of it is in the bucket."""
    # The first part is asked of the first one before the second one was looked at.
    order = replace(await two.order(faults={"flip_at": 10}), connections=1)
    control = Control()
    result = await two.bench.run(order, control)
    await two.bench.check(order, result, SIZE)
    assert 1 in two.parts_of_second()
    assert len(control.parts) == PARTS


async def test_all_of_the_second_one_is_wrong(two: Two) -> None:
    """Another file of the same length does no harm where pieces have hashes, whoever of the two is asked."""
    order = await two.order(faults={"rate_bytes_per_s": SLOW_BYTES_PER_S}, seed=8)
    await two.bench.check(order, await two.bench.run(order), SIZE)
    order = await two.order(faults={"flip_at": PART + 10}, seed=8)
    control = Control()
    await two.bench.sink.delete(order.key)
    await two.bench.fails(order, CorruptBody, control)
    assert 2 not in {part.number for part in control.parts}
    await two.bench.abort(control)


async def test_the_first_one_is_slow(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick one is asked for the rest, also for a part that the slow one has begun with."""
    monkeypatch.setattr(policy, "_CRAWL_AFTER_S", 0.5)
    order = await two.order(faults={"rate_bytes_per_s": MIB // 2})
    result = await two.bench.run(order)
    await two.bench.check(order, result, SIZE)
    assert len(two.parts_of_second()) >= PARTS - 1


async def test_without_hashes_of_pieces(two: Two) -> None:
    """A strong ETag shows the same file, the hash of the whole tells in the end, and on doubt nothing is mixed."""
    gone, bare = {"status": 404, "status_after": 2}, {"pieces": False}
    no_validator: dict[str, Any] = {"etag": "none", "last_modified": None}
    for document, second in ((bare, {}), ({**bare, "sha256": SHA256}, no_validator)):
        order = await two.order(faults=gone, document=document, **second)
        checked = order if "sha256" not in document else _with_checksum(order)
        await two.bench.check(order, await two.bench.run(checked), SIZE)
        assert two.parts_of_second()
        await two.bench.sink.delete(order.key)
    before = two.left_out("doubtful")
    order = await two.order(faults=gone, document=bare, seed=8)
    control = Control()
    await two.bench.fails(order, SourceNotFound, control)
    assert two.parts_of_second() == []
    assert two.left_out("doubtful") == before + 1
    assert control.reasons == {0: "source_not_found"}
    await two.bench.abort(control)


def _with_checksum(order: TransferOrder) -> TransferOrder:
    return replace(order, checksum=order.pin.digest)


@pytest.mark.parametrize("fault", [{"status": 404}, {"silent": True}], ids=["gone", "silent"])
async def test_the_first_one_is_dead_from_the_beginning(two: Two, side: Side, fault: dict[str, Any]) -> None:
    """The file is looked at where it is; an agent that has not looked reads it there; the first one may come back."""
    first_url = two.bench.origin.add("file.bin", size=SIZE, seed=7, **fault)
    two.describer.text = described(first_url, two.second.add("copy.bin", size=SIZE, seed=7))
    async with through(two.bench, "127.0.0.1/32", probe_timeout_s=2):
        two.bench.transports = Transports(two.bench.client)
        order = await two.bench.order_of(two.describer.url())
    assert (order.pin.described_place, order.pin.final_url) == (1, f"{two.second.base_url}/copy.bin")
    assert order.pin.other_hosts == (two.bench.origin.host_port,)
    two.bench.transports = Transports(side.client)
    await two.bench.check(order, await two.bench.run(order), SIZE)
    assert two.parts_of_second() == [1, 2, 3, 4]
    await two.bench.sink.delete(order.key)
    two.bench.origin.add("file.bin", size=SIZE, seed=7)
    two.second.add("copy.bin", size=SIZE, seed=7, status=500, status_after=1)
    await two.bench.check(order, await two.bench.run(order), SIZE)


async def test_further_places_are_strangers(two: Two, side: Side) -> None:
    """At most sixteen are taken, each is guarded, and the job's headers are for their own origin alone."""
    order = await two.order()
    last = "http://10.0.0.1/f"
    urls = [f"{two.bench.origin.base_url}/file.bin", "http://[bad/", last, two.describer.url("f")]
    two.describer.text = described(*urls, *(f"http://mirror-{number}.example/f" for number in range(40)))
    two.bench.transports = Transports(side.client)
    order = await two.bench.order_of(two.describer.url())
    link = Link(two.describer.url(), {"Authorization": "Bearer secret"})
    places = await two.bench.transports.places(link, order.pin)
    assert len(places) == 16
    assert [place.link.url for place in places[:2]] == [last, two.describer.url("f")]
    assert [bool(place.link.headers) for place in places] == [False, True, *[False] * 14]
    two.describer.text = described(urls[0], last)
    order = await two.bench.order_of(two.describer.url())
    before = two.left_out("egress_denied")
    await two.bench.check(order, await two.bench.run(order), SIZE)
    assert two.left_out("egress_denied") == before + 1


async def test_a_job_is_looked_at_anew(store: Seaweed, side: Side, describer: Describer, tmp_path: Path) -> None:
    """Where nothing shows that two URLs have the same file, and the first is gone before any of it is in, the second is
    taken for the whole file.
    """
    async with (
        Origin() as second,
        running_service(tmp_path, quick_settings(store.settings), agents=1) as service,
        AsyncClient(service.url, service.alice) as alice,
    ):
        dying = side.origin.add("dying.bin", size=SIZE, seed=7, status=404, status_after=1)
        describer.text = described(dying, second.add("copy.bin", size=SIZE, seed=8), pieces=False)
        job = await alice.submit(describer.url())
        assert (await alice.wait(job.id, timeout_s=60)).status is JobStatus.COMPLETED
        await alice.download(job.id, tmp_path / "file")
    assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == content_sha256(8, SIZE)
