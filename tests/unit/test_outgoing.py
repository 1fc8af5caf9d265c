"""The body of a PUT: what it hashes, and what it makes of the store's answer."""

import asyncio
import hashlib
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from awscrt.checksums import crc64nvme

from rayhaul.errors import SinkBusy
from tasks.outgoing import Body, Outgoing, has_md5_etag

PIECES = [bytes([number]) * 100_000 for number in range(5)]
WHOLE = b"".join(PIECES)
MD5 = hashlib.md5(WHOLE).hexdigest()
CRC = b64encode(crc64nvme(WHOLE).to_bytes(8, "big")).decode()


class SlowThreads(ThreadPoolExecutor):
    """Begins each job late, so that whoever does not wait for it has nothing."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def late() -> Any:
            time.sleep(0.02)
            return function(*args, **kwargs)

        return super().submit(late)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with SlowThreads(2) as threads:
        yield threads


async def pieces() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


async def sent(threads: ThreadPoolExecutor | None, body: Body | None = None) -> Outgoing:
    async with asyncio.timeout(None) as watch:
        outgoing = Outgoing(
            pieces() if body is None else body, len(WHOLE), watch=watch, stall_timeout_s=10, md5_threads=threads
        )
        assert b"".join([bytes(piece) async for piece in outgoing]) == WHOLE
        await outgoing.settle()
    return outgoing


@pytest.mark.parametrize("body", [None, WHOLE, bytearray(WHOLE)], ids=["stream", "bytes", "bytearray"])
async def test_pieces_are_hashed_in_order(threads: ThreadPoolExecutor, body: Body | None) -> None:
    """However slow the threads, MD5 and CRC-64/NVME are those of the whole."""
    outgoing = await sent(threads, body)
    assert await outgoing.check_received({"ETag": f'"{MD5}"'}) == MD5
    assert outgoing.crc64nvme == crc64nvme(WHOLE)


@pytest.mark.parametrize("is_stopped", [False, True], ids=["not asked for more", "stopped while it waits"])
async def test_an_answer_before_the_last_hash(threads: ThreadPoolExecutor, *, is_stopped: bool) -> None:
    """A store that has everything answers while the last piece is being hashed; its ETag is right all the same."""
    async with asyncio.timeout(None) as watch:
        outgoing = Outgoing(pieces(), len(WHOLE), watch=watch, stall_timeout_s=10, md5_threads=threads)
        has_all = asyncio.Event()

        async def library() -> None:
            for _ in PIECES:
                await anext(outgoing)
            has_all.set()
            if is_stopped:
                await anext(outgoing, None)

        sending = asyncio.create_task(library())
        await has_all.wait()
        await outgoing.settle()
        assert await outgoing.check_received({"ETag": f'"{MD5}"'}) == MD5
        assert sending.cancelled() == is_stopped


@pytest.mark.parametrize(
    ("headers", "is_believed"),
    [
        ({"ETag": f'"{MD5}"'}, True),
        ({"ETag": '"0123"'}, False),
        ({}, False),
        ({"ETag": '"0123"', "x-amz-checksum-crc64nvme": CRC}, True),
        ({"ETag": f'"{MD5}"', "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, False),
        ({"ETag": '"0123"', "x-amz-server-side-encryption": "AES256"}, False),
        ({"ETag": '"0123"', "x-amz-server-side-encryption": "aws:kms"}, True),
        ({"ETag": '"0123"', "x-amz-server-side-encryption-customer-algorithm": "AES256"}, True),
    ],
)
async def test_what_an_answer_proves(
    threads: ThreadPoolExecutor,
    headers: dict[str, str],
    is_believed: bool,  # noqa: FBT001 - a case
) -> None:
    """The CRC-64/NVME counts first, then the ETag where it is an MD5; an answer without an ETag is none."""
    outgoing = await sent(threads)
    if is_believed:
        await outgoing.check_received(headers)
    else:
        with pytest.raises(SinkBusy):
            await outgoing.check_received(headers)


async def test_an_answer_that_proves_nothing_is_not_believed() -> None:
    """Where neither the store tells a CRC nor an MD5 was computed, the part is sent again."""
    outgoing = await sent(None)
    with pytest.raises(SinkBusy):
        await outgoing.check_received({"ETag": f'"{MD5}"'})
    assert has_md5_etag({})
