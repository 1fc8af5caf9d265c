"""Small files that come along with the look at them: no second request, and never other bytes than those pinned."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from inprocess import quick_settings, running_service
from lease_bench import Bench, Side, running, through
from origin import LAST_MODIFIED_LATER, Origin, content_sha256

from rayhaul import AsyncClient
from rayhaul.errors import ChecksumMismatch
from rayhaul.job import JobStatus, Metadata
from rayhaul.metrics import PEEKS, SOURCE_BYTES, Meter
from rayhaul.settings import SourceSettings
from serve_app.seaweed import Seaweed
from tasks import source
from tasks.links import Link
from tasks.peeks import Peeks
from tasks.probe import probe
from tasks.source import CorruptBody
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 20_000
#: Larger than what a look asks for.
LARGE = 300_000
PEEK = SourceSettings().peek_bytes


class BoundedPeeks(Peeks):
    """Never beyond its bound, at no time."""

    _used_bytes = 0

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @used_bytes.setter
    def used_bytes(self, used_bytes: int) -> None:
        assert 0 <= used_bytes <= self._settings.peeks_bytes_max
        self._used_bytes = used_bytes


class Rig:
    """One agent's looks and leases."""

    def __init__(self, bench: Bench, **limits: Any) -> None:
        self.bench, self.meter = bench, Meter()
        self.peeks = BoundedPeeks(SourceSettings(**limits), self.meter)
        bench.transports = self.transports = Transports(bench.client, peeks=self.peeks)
        bench.origin.requests.clear()

    def add(self, name: str = "file.bin", *, size: int = SIZE, seed: int = 7, **behaviour: Any) -> str:
        return self.bench.origin.add(name, size=size, seed=seed, **behaviour)

    async def look(self, url: str, job_id: str | None = "job_1", *, timeout_s: float = 20) -> Metadata:
        link = Link(url, peek_for=job_id)
        by = self.transports.by(url)
        return await probe(by, link, filename=None, size_bytes_max=None, timeout_s=timeout_s, clock=time.monotonic)

    async def move(self, url: str, pin: Metadata, *, seed: int = 7, size: int = SIZE, **changes: Any) -> None:
        """Carry out a lease, and check what was published: its SHA-256 as well."""
        order = replace(self.bench.order_for(url, pin), **changes)
        await self.bench.check(order, await self.bench.run(order), size, seed=seed)

    @property
    def asked(self) -> list[tuple[int, int | None] | None]:
        return [seen.range for seen in self.bench.origin.requests]

    def counted(self, result: str) -> float:
        return self.meter.snapshot().counters.get((PEEKS.name, (result,)), 0)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest.fixture
def rig(side: Side) -> Rig:
    return Rig(Bench(side))


@pytest.mark.parametrize(
    "behaviour",
    [
        {},
        {"ranges": False},
        {"framing": "chunked"},
        {"framing": "close"},
        {"etag": "weak"},
        {"etag": "none"},
        {"last_modified": None},
        {"digests": ("Content-Digest",)},
        {"digests": ("Content-MD5",)},
        {"size": PEEK},
        {"size": 1},
    ],
    ids=str,
)
async def test_one_request(rig: Rig, behaviour: dict[str, Any]) -> None:
    """A small file with a validator is asked for once, and published as it is."""
    size = behaviour.get("size", SIZE)
    url = rig.add(**behaviour)
    pin = await rig.look(url)
    await rig.move(url, pin, size=size)
    assert rig.asked == [(0, PEEK)]
    assert (rig.counted("used"), rig.counted("unused"), rig.peeks.used_bytes) == (1, 0, 0)
    # It was given away: whoever begins anew asks the origin.
    await rig.move(url, pin, size=size)
    assert rig.asked == [(0, PEEK), None]


@pytest.mark.parametrize(
    "behaviour",
    [
        # Nothing tells its version.
        {"etag": "none", "last_modified": None},
        {"etag": "weak", "last_modified": None},
        # Larger than what is asked for, or of unknown length.
        {"size": PEEK + 1},
        {"ranges": False, "framing": "chunked"},
        {"ranges": False, "size": LARGE},
        # What a 206 of this kind says of its range is inside the body.
        {"content_type": "multipart/byteranges; boundary=x"},
        # Harmed, or cut, on the way.
        {"flip_at": 5, "digests": ("Content-MD5",), "faults_max": 1},
        {"flip_at": 5, "digests": ("Content-MD5",), "faults_max": 1, "ranges": False},
        {"truncate_after": 100, "faults_max": 1},
    ],
    ids=str,
)
async def test_in_doubt_it_is_asked_for_again(rig: Rig, behaviour: dict[str, Any]) -> None:
    """What is not the whole of one known version, unharmed, does not wait for a lease."""
    url = rig.add(**behaviour)
    pin = await rig.look(url)
    assert rig.peeks.used_bytes == 0
    asked_count = len(rig.asked)
    await rig.move(url, pin, size=behaviour.get("size", SIZE))
    assert rig.asked[asked_count:] == [None]


@pytest.mark.parametrize(
    "lie", ["shifted", "short", "missing", "wrong_total", "unknown_total", "wrong_unit", "multipart"]
)
async def test_a_range_that_is_not_the_one_asked_for(rig: Rig, lie: str) -> None:
    """It proves no ranges and brings nothing; the whole file, which is asked for then, comes along."""
    url = rig.add(content_range=lie)
    pin = await rig.look(url)
    assert (pin.size_bytes, pin.rangeable) == (SIZE, False)
    await rig.move(url, pin)
    assert rig.asked == [(0, PEEK), None]
    if lie == "short":
        assert not (await rig.look(rig.add(content_range=lie, size=LARGE))).rangeable


async def test_a_larger_file_without_ranges_is_not_read(rig: Rig) -> None:
    """Its whole body follows the headers, and nothing of it is of use."""
    meter = rig.bench.client._meter
    before = meter.snapshot().counters.get((SOURCE_BYTES.name, ()), 0)
    await rig.look(rig.add(ranges=False, size=LARGE))
    assert meter.snapshot().counters.get((SOURCE_BYTES.name, ()), 0) == before


async def test_more_bytes_than_were_told(rig: Rig) -> None:
    """What does not end where it should is no file."""
    await rig.look(rig.add(framing="chunked", surplus_bytes=5))
    assert rig.peeks.used_bytes == 0


async def test_a_file_that_changes_after_the_look(rig: Rig) -> None:
    """A lease publishes the version that it pins: out of memory the one that was looked at, else the origin's."""
    url = rig.add()
    first = await rig.look(url)
    rig.add(seed=8, last_modified=LAST_MODIFIED_LATER)
    await rig.move(url, first)
    assert len(rig.asked) == 1
    # Looked at here before it changed, and elsewhere afterwards.
    rig.add()
    await rig.look(url)
    rig.add(seed=8, last_modified=LAST_MODIFIED_LATER)
    second = await rig.look(url, None)
    await rig.move(url, second, seed=8)
    assert rig.asked[1:] == [(0, PEEK), (0, 1), None]
    assert (rig.counted("used"), rig.counted("unused"), rig.peeks.used_bytes) == (1, 1, 0)


@pytest.mark.parametrize("name", ["Repr-Digest", "Content-MD5", "Content-Digest"])
async def test_a_digest_that_is_not_the_file_s(rig: Rig, name: str) -> None:
    """It fails the lease as ever, after all its tries, each of which asks the origin."""
    wrong = base64.b64encode(bytes(16 if name == "Content-MD5" else 32)).decode()
    url = rig.add(headers={name: wrong if name == "Content-MD5" else f"sha-256=:{wrong}:"})
    pin = await rig.look(url)
    await rig.bench.fails(rig.bench.order_for(url, pin), CorruptBody)
    assert rig.asked == [(0, PEEK), None, None, None]


async def test_bytes_out_of_memory_have_the_job_s_checksum(rig: Rig) -> None:
    """They are compared with it like others, and what follows asks the origin."""
    url = rig.add(flip_at=5, faults_max=1)
    pin = await rig.look(url)
    order = replace(rig.bench.order_for(url, pin), checksum=f"sha256:{content_sha256(7, SIZE)}")
    await rig.bench.fails(order, ChecksumMismatch)
    assert rig.asked == [(0, PEEK)]
    await rig.move(url, pin, checksum=order.checksum)
    assert rig.asked == [(0, PEEK), None]


async def test_only_the_job_s_own(rig: Rig) -> None:
    """Neither another job nor a look that nothing may come along with has it."""
    url = rig.add()
    # One that is looked at again has its file once.
    await rig.look(url, "job_2")
    await rig.look(url, "job_2")
    pin = await rig.look(url, None)
    assert rig.asked == [(0, PEEK), (0, PEEK), (0, 1)]
    await rig.move(url, pin)
    assert rig.asked[3:] == [None]
    assert rig.peeks.used_bytes == SIZE


async def test_memory_is_bounded(side: Side) -> None:
    """Many looks at once and no lease: some bring their files along, and the rest ask for a byte, as ever."""
    rig = Rig(Bench(side), peeks_bytes_max=4 * PEEK)
    urls = [rig.add(f"{number}.bin", seed=number) for number in range(40)]
    found = await asyncio.gather(*(rig.look(url, url) for url in urls))
    assert [pin.size_bytes for pin in found] == [SIZE] * 40
    kept = rig.peeks.used_bytes // SIZE
    assert 4 <= kept <= 4 * PEEK // SIZE
    assert rig.asked.count((0, 1)) >= 40 - 4 * PEEK // SIZE


async def test_time_is_bounded(side: Side) -> None:
    """What no lease comes for is forgotten."""
    rig = Rig(Bench(side), peek_keep_s=0.01)
    url = rig.add()
    pin = await rig.look(url)
    async with asyncio.timeout(60):
        while rig.peeks.used_bytes:
            await asyncio.sleep(0.01)
    await rig.move(url, pin)
    assert rig.asked == [(0, PEEK), None]
    assert (rig.counted("used"), rig.counted("unused")) == (0, 1)


@pytest.mark.parametrize("behaviour", [{}, {"size": LARGE}, {"ranges": False}], ids=str)
async def test_a_body_that_does_not_come(rig: Rig, behaviour: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The look tells what the headers say, and does not wait for the rest."""
    monkeypatch.setattr(source, "PEEK_S_MAX", 0.02)
    url = rig.add(**behaviour, stall_after=10)
    assert (await rig.look(url, timeout_s=4)).size_bytes == behaviour.get("size", SIZE)
    assert rig.peeks.used_bytes == 0


async def test_the_connection_stays_fit(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """After looks at files of all sizes, at some pace, the next request goes over the same connection."""
    monkeypatch.setattr(source, "PEEK_S_MAX", 60)
    bench = Bench(side)
    async with through(bench):
        rig = Rig(bench)
        for size in (SIZE, PEEK, PEEK + 1, LARGE, SIZE):
            await rig.look(rig.add(size=size, drips_at=(0,), drip_bytes_per_s=4 * PEEK))
    assert rig.asked == [(0, PEEK)] * 5
    assert len({seen.connection for seen in bench.origin.requests}) == 1


@pytest_asyncio.fixture(loop_scope="module")
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.mark.parametrize("agents", [1, 2])
async def test_a_batch(tmp_path: Path, store: Seaweed, origin: Origin, agents: int) -> None:
    """Of many small files each is asked for once, also where several agents share the work."""
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    async with (
        running_service(tmp_path, settings, agents=agents) as service,
        AsyncClient(service.url, service.alice) as alice,
    ):
        urls = [origin.add(f"{number}.bin", size=SIZE, seed=number) for number in range(8)]
        jobs = await alice.submit_many({"url": url, "computeSha256": True} for url in urls)
        for seed, job_id in enumerate(jobs):
            job = await alice.wait(job_id, timeout_s=60)
            assert job.status is JobStatus.COMPLETED
            assert job.result is not None
            assert job.result.sha256 == content_sha256(seed, SIZE)
        assert sorted(seen.path for seen in origin.requests) == [f"{number}.bin" for number in range(len(urls))]


async def test_none_comes_along_under_a_limit_of_bandwidth(tmp_path: Path, store: Seaweed, origin: Origin) -> None:
    """A look reads at no pace."""
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    async with (
        running_service(tmp_path, settings, agents=1) as service,
        AsyncClient(service.url, service.alice) as alice,
    ):
        job = await alice.submit(origin.add("file.bin", size=SIZE), bandwidth_bytes_per_second=10_000_000)
        assert (await alice.wait(job.id, timeout_s=60)).status is JobStatus.COMPLETED
        assert [seen.range for seen in origin.requests] == [(0, 1), None]
