"""Metalink as a source: a real origin serves the description and the file, and either may be wrong."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running
from metalinks import PIECE, SIZE, Describer, described, describing
from origin import content_sha256

from rayhaul import AsyncClient
from rayhaul.errors import (
    ChecksumMismatch,
    EgressDenied,
    InvalidRequest,
    RayhaulError,
    SourceChanged,
    SourceNotFound,
    SourceRefused,
    SourceTruncated,
)
from serve_app.seaweed import Seaweed
from tasks import extras
from tasks.links import Link
from tasks.source import CorruptBody
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def describer() -> AsyncIterator[Describer]:
    async with describing() as describer:
        yield describer


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings, allow=("127.0.0.1/32",)) as side:
        yield side


@pytest.fixture
def bench(side: Side) -> Bench:
    bench = Bench(side)
    bench.transports = Transports(side.client)
    return bench


def file_url(bench: Bench, **behaviour: Any) -> str:
    bench.origin.add("file.bin", size=SIZE, seed=7, **behaviour)
    bench.origin.requests.clear()
    return f"{bench.origin.base_url}/file.bin"


# --- what goes right ---


async def test_the_file_that_is_described(bench: Bench, describer: Describer) -> None:
    """Found by its media type: name, size and hash are the document's, the bytes the file's, in parallel parts."""
    describer.text = described(file_url(bench))
    order = await bench.order_of(describer.url())
    assert (order.pin.filename, order.pin.size_bytes) == ("named by it.bin", SIZE)
    assert order.pin.final_url == f"{bench.origin.base_url}/file.bin"
    asked_count = len(describer.headers)
    await bench.check(order, await bench.run(order), SIZE)
    assert len(bench.ranges()) > 4
    # The document is read once by a process, not by each of its connections.
    assert len(describer.headers) == asked_count


async def test_by_its_ending(bench: Bench, describer: Describer) -> None:
    """Many servers know no such media type; `.meta4` tells as well, and any other XML stays a file."""
    describer.text, describer.media_type = described(file_url(bench)), "text/xml"
    assert (await bench.order_of(describer.url("a.meta4"))).pin.described_by is not None
    found = (await bench.order_of(describer.url("a.xml"))).pin
    assert (found.described_by, found.filename) == (None, "a.xml")


async def test_the_whole_hash_is_compared(bench: Bench, describer: Describer) -> None:
    """The document's hash is the file's digest, and is compared before anything is published."""
    describer.text = described(file_url(bench), sha256=content_sha256(7, SIZE), pieces=False)
    order = await bench.order_of(describer.url())
    assert order.pin.digest == f"sha256:{content_sha256(7, SIZE)}"
    good = replace(order, checksum=order.pin.digest)
    await bench.check(good, await bench.run(good), SIZE)
    await bench.sink.delete(order.key)
    describer.text = described(file_url(bench), sha256="0" * 64, pieces=False)
    order = await bench.order_of(describer.url())
    control = Control()
    await bench.fails(replace(order, checksum=order.pin.digest), ChecksumMismatch, control)
    await bench.abort(control)


async def test_another_agent_reads_the_document_itself(bench: Bench, side: Side, describer: Describer) -> None:
    """Who has not probed asks for the document, and goes on with it only where it is the pinned one."""
    describer.text = described(file_url(bench))
    order = await bench.order_of(describer.url())
    bench.transports = Transports(side.client)
    await bench.check(order, await bench.run(order), SIZE)
    bench.transports = Transports(side.client)
    describer.text += " "
    control = Control()
    order = replace(order, key=f"{order.key}2")
    await bench.fails(order, SourceChanged, control)
    await bench.abort(control)


async def test_headers_stay_with_their_origin(bench: Bench, describer: Describer) -> None:
    """The job's headers are for the server of its URL, not for those that the document names."""
    describer.text = described(file_url(bench))
    assert bench.transports is not None
    link = Link(describer.url(), {"Authorization": "Bearer secret"})
    pin = await bench.transports.by(link.url).probe(link, None)
    async with bench.transports.by(link.url).open_whole(link, pin=pin) as body:
        assert await anext(body)
    assert all(headers["Authorization"] == "Bearer secret" for headers in describer.headers)
    assert all("authorization" not in seen.headers for seen in bench.origin.requests)


async def test_a_job(store: Seaweed, side: Side, describer: Describer, tmp_path: Path) -> None:
    """Through the API, scheduler and ledger: the document's name, and its hash in the result."""
    bench = Bench(side)
    describer.text = described(file_url(bench), sha256=content_sha256(7, SIZE))
    async with running_service(tmp_path, quick_settings(store.settings), agents=1) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            job = await alice.submit(describer.url())
            done = await alice.wait(job.id, timeout_s=60)
            assert done.result is not None
            assert (done.filename, done.result.sha256) == ("named by it.bin", content_sha256(7, SIZE))


# --- what goes wrong ---


@pytest.mark.parametrize("piece", [0, 7, 15])
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_piece_that_is_wrong(bench: Bench, describer: Describer, piece: int, *, ranges: bool) -> None:
    """Bytes that are not what was described are not published, in ranges and in one stream."""
    describer.text = described(file_url(bench, ranges=ranges), wrong_piece=piece)
    order = await bench.order_of(describer.url())
    control = Control()
    await bench.fails(replace(order, connections=1), CorruptBody, control)
    assert {part.number for part in control.parts}.isdisjoint({piece * PIECE // PART + 1})
    if control.session is not None:
        await bench.abort(control)


async def test_cut_in_the_middle(bench: Bench, describer: Describer) -> None:
    """A file that is cut is read again where it broke off, as any other."""
    describer.text = described(file_url(bench))
    order = await bench.order_of(describer.url())
    file_url(bench, truncate_after=100_000, faults_max=2)
    await bench.check(order, await bench.run(order), SIZE)
    await bench.sink.delete(order.key)
    file_url(bench, truncate_after=100_000)
    control = Control()
    await bench.fails(order, SourceTruncated, control)
    await bench.abort(control)


@pytest.mark.parametrize(("modified", "kind"), [("Wed, 01 Jan 2020 00:00:00 GMT", SourceChanged), (None, CorruptBody)])
async def test_the_file_changes(
    bench: Bench, describer: Describer, modified: str | None, kind: type[RayhaulError]
) -> None:
    """Another version of the file ends the session; one that looks the same is told by its pieces."""
    describer.text = described(file_url(bench))
    order = await bench.order_of(describer.url())
    bench.origin.add("file.bin", size=SIZE, seed=8, **({} if modified is None else {"last_modified": modified}))
    control = Control()
    await bench.fails(order, kind, control)
    assert control.parts == []
    await bench.abort(control)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nonsense", SourceRefused),
        ("<a>" + "x" * 5_000_000, SourceRefused),
        ("SIZE", SourceRefused),
        ("http://127.0.0.1:{port}/missing.bin", SourceNotFound),
        ("http://10.0.0.1/f", EgressDenied),
        ("s3://media/f", InvalidRequest),
        ("file:///etc/passwd", InvalidRequest),
    ],
)
async def test_descriptions_that_lead_nowhere(
    bench: Bench, describer: Describer, text: str, kind: type[RayhaulError]
) -> None:
    """A document that is none or too long, a size that is a lie, files that are missing or that nobody may fetch."""
    url = file_url(bench)
    if text == "SIZE":
        describer.text = described(url, size=SIZE + 1, pieces=False)
    elif "://" in text:
        describer.text = described(text.format(port=bench.origin.base_url.rpartition(":")[2]))
    else:
        describer.text = text
    with pytest.raises(kind):
        await bench.order_of(describer.url())


async def test_a_description_of_a_description(bench: Bench, describer: Describer) -> None:
    """What a document leads to is a file, also where it is a document: there are no chains and no circles."""
    describer.text = described(describer.url("self.meta4"), size=None, pieces=False)
    found = (await bench.order_of(describer.url())).pin
    assert found.size_bytes == len(describer.text)


async def test_without_the_extra(side: Side, describer: Describer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot read the document says what it lacks, and does not publish the document itself."""
    describer.text = described("http://127.0.0.1:9/nobody")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    link = Link(describer.url())
    with pytest.raises(SourceRefused, match=r"pip install 'rayhaul\[metalink\]'"):
        await Transports(side.client).by(link.url).probe(link, None)
