"""Learns what a file is before any of it is moved: size, validator, range support and name.

Over HTTP a ranged GET asks for it, not HEAD: links that are signed for GET refuse HEAD, and only a 206 proves that
ranges work. It asks for some of the first bytes, so that a small file comes along.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from rayhaul.errors import SourceTimeout, SourceTooLarge
from rayhaul.job import Metadata
from rayhaul.policy.naming import clean, filename_of
from tasks import digests
from tasks.answer import Answer
from tasks.egress import GuardedClient
from tasks.links import Link
from tasks.source import (
    ContentRange,
    check_coding,
    classify_status,
    content_length,
    read_peeked,
    strong_date,
    unsatisfied_total,
)
from tasks.transport import Transport

#: Refusals that mean the file, not the range: asking again without one would be rude and change nothing.
_FINAL_REFUSALS = frozenset({401, 403, 404, 408, 410, 429})


async def probe(
    transport: Transport,
    link: Link,
    *,
    filename: str | None,
    size_bytes_max: int | None,
    timeout_s: float,
    clock: Callable[[], float],
) -> Metadata:
    """Return what the source says about the file. `filename`: the caller's wish; `clock`: seconds, never backwards.

    Raises: SourceError; SourceTooLarge where the file is larger than `size_bytes_max`; InvalidRequest, EgressDenied.
    """
    started_s = clock()
    try:
        async with asyncio.timeout(timeout_s):
            metadata = await transport.probe(link, filename)
    except TimeoutError as err:
        raise SourceTimeout from err
    if metadata.size_bytes is not None and size_bytes_max is not None and metadata.size_bytes > size_bytes_max:
        raise SourceTooLarge(f"The file has {metadata.size_bytes} bytes; {size_bytes_max} are allowed.")
    return replace(metadata, fetch_ms=round((clock() - started_s) * 1000))


async def ask(
    client: GuardedClient, url: str, headers: Mapping[str, str], filename: str | None, *, peek_bytes: int = 0
) -> tuple[Metadata, bytes | None]:
    """Return what an HTTP source says about the file, and the file where it came along.

    That is one of at most `peek_bytes` whose answer tells its version, and whose bytes came at once and unharmed.
    Raises: SourceError; InvalidRequest, EgressDenied.
    """
    asked_bytes = max(1, peek_bytes)
    async with client.open_now(url, headers=headers, extra={"Range": f"bytes=0-{asked_bytes - 1}"}) as answer:
        metadata = _read_ranged(answer, filename, asked_bytes)
        if metadata is not None:
            return metadata, await read_peeked(client, answer, metadata, peek_bytes=peek_bytes)
    async with client.open_now(url, headers=headers) as answer:
        metadata = _read_whole(answer, filename)
        return metadata, await read_peeked(client, answer, metadata, peek_bytes=peek_bytes)


def _read_ranged(answer: Answer, filename: str | None, asked_bytes: int) -> Metadata | None:
    """Return what the answer to a range of the first bytes says; None where only a request without one can tell."""
    if answer.status == 206:
        check_coding(answer)
        shown = ContentRange.of(answer.headers)
        if shown is None or (shown.first, shown.end) != (0, min(asked_bytes, shown.total or asked_bytes)):
            return None
        return _metadata(answer, filename, size_bytes=shown.total, rangeable=shown.total is not None)
    if answer.status == 416 and unsatisfied_total(answer.headers) == 0:
        # No byte 0: the file is empty. The headers are those of an error page.
        empty = _metadata(answer, filename, size_bytes=0)
        return replace(empty, content_type=None, etag=None, last_modified=None, digest=None, crc32c=None)
    dislikes_range = answer.status == 501 or (400 <= answer.status < 500 and answer.status not in _FINAL_REFUSALS)
    return None if dislikes_range else _read_whole(answer, filename)


def _read_whole(answer: Answer, filename: str | None) -> Metadata:
    if answer.status != 200:
        raise classify_status(answer.status, answer.headers)
    check_coding(answer)
    return _metadata(answer, filename, size_bytes=content_length(answer.headers))


def _metadata(answer: Answer, filename: str | None, *, size_bytes: int | None, rangeable: bool = False) -> Metadata:
    disposition = answer.headers.get("Content-Disposition")
    return Metadata(
        size_bytes=size_bytes,
        content_type=answer.headers.get("Content-Type"),
        etag=answer.headers.get("ETag"),
        last_modified=strong_date(answer.headers),
        rangeable=rangeable,
        filename=clean(filename or "") or filename_of(disposition, answer.final_url),
        final_url=answer.final_url,
        fetch_ms=0,
        digest=digests.checksum_of(answer.headers, is_whole=answer.status == 200),
        crc32c=digests.crc32c_of(answer.headers, is_whole=answer.status == 200),
    )
