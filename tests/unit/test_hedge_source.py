"""Which source a part counts as, where two have brought of it."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from awscrt.checksums import crc64nvme

from tasks.hedging import Feed
from tasks.rooms import Buffered

PART = bytearray(b"a part of a file")
FIRST, HEDGE = 0, 1


async def first_request(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    ("given_bytes", "is_hedged", "source"),
    [(5, True, HEDGE), (len(PART), True, FIRST), (len(PART), False, FIRST)],
    ids=["in-the-middle", "too-late", "not-at-all"],
)
async def test_a_part_is_of_the_source_that_brought_its_end(*, given_bytes: int, is_hedged: bool, source: int) -> None:
    flow: Any = first_request(bytes(PART[:given_bytes]))
    reading: Any = SimpleNamespace(source=FIRST)
    feed = Feed(flow, reading=reading, first_byte=0, end_byte=len(PART), idle_s_max=None)
    feed.goes_into(lambda: crc64nvme(bytes(PART[:given_bytes])))
    sent = bytearray(await anext(feed))
    if is_hedged:
        room: Any = None
        assert feed.take(Buffered(PART, room, HEDGE))
    async for piece in feed:
        sent += piece
    assert (sent, feed.source) == (PART, source)
