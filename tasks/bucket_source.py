"""Objects of the cluster's own store as sources: probed by HEAD, read by presigned GETs, or copied by the store itself.

Laws of this file:
1. The cluster's own credentials read what `BucketRules` allows and nothing else; each open asks the rules again.
2. All that is read or copied is conditional on the ETag that the probe pinned, and is compared with it.
3. What the store says is turned into a source's errors in `_as_source`, and nowhere else: a user's wrong key must not
   look as if the bucket that we write to was in trouble.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rayhaul.errors import SinkBusy, SourceBusy, SourceError, SourceNotFound, SourceRefused
from rayhaul.job import Metadata
from rayhaul.origins import host_of
from rayhaul.policy.naming import clean, filename_of
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.bucket_rules import BucketRules, StoredObject
from tasks.egress import GuardedClient
from tasks.links import Link
from tasks.sink import Sink
from tasks.source import classify_status, open_range, open_whole
from tasks.store_calls import Refusal

_SCHEME = "s3:"
#: The store's address is the operator's word, not a user's; presigned links are not redirected.
_ANYWHERE = EgressSettings(allow=("0.0.0.0/0", "::/0"), redirects_max=0)
_CONNECTIONS_MAX = 64


class BucketTransport:
    def __init__(self, sink: Sink, rules: BucketRules, source: SourceSettings) -> None:
        self._sink = sink
        self._rules = rules
        self._client = GuardedClient(_ANYWHERE, source, connections_max=_CONNECTIONS_MAX, meter=sink.meter)

    async def aclose(self) -> None:
        await self._client.close()

    def stored(self, url: str) -> StoredObject | None:
        """Return the object that a link names; None where it is no s3:// link. Raises: InvalidRequest, EgressDenied."""
        return self._rules.check(url) if url.lower().startswith(_SCHEME) else None

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        found = self._rules.check(link.url)
        try:
            head = await self._sink.head_of(found.bucket, found.key)
        except Refusal as refusal:
            raise _as_source(refusal) from refusal
        with _refused_as(link):
            rangeable = head.size_bytes > 0 and await self._serves_ranges(found)
        return Metadata(
            size_bytes=head.size_bytes if head.size_bytes >= 0 else None,
            content_type=head.content_type,
            etag=f'"{head.etag}"' if head.etag else None,
            # Two objects written within its second would look alike; the ETag tells them apart.
            last_modified=None,
            rangeable=rangeable,
            filename=clean(filename or "") or filename_of(head.disposition, link.url),
            final_url=link.url,
            fetch_ms=0,
        )

    @asynccontextmanager
    async def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        url = await self._presigned(self._rules.check(link.url))
        with _refused_as(link):
            async with open_range(
                self._client,
                url=url,
                headers={},
                pin=pin,
                first_byte=first_byte,
                end_byte=end_byte,
                checksum_tells=checksum_tells,
            ) as body:
                yield body

    @asynccontextmanager
    async def open_whole(self, link: Link, *, pin: Metadata) -> AsyncIterator[AsyncIterator[bytes]]:
        url = await self._presigned(self._rules.check(link.url))
        with _refused_as(link):
            async with open_whole(self._client, url=url, headers={}, pin=pin) as body:
                yield body

    async def _serves_ranges(self, found: StoredObject) -> bool:
        """Only a 206 proves it: rclone's server answers 200 with the range."""
        url = await self._presigned(found)
        async with self._client.open_now(url, extra={"Range": "bytes=0-0"}) as answer:
            if answer.status not in {200, 206, 416}:
                raise classify_status(answer.status, answer.headers)
            return answer.status == 206

    async def _presigned(self, found: StoredObject) -> str:
        try:
            return await self._sink.calls.presign_get(found.bucket, found.key)
        except Refusal as refusal:
            raise _as_source(refusal) from refusal


@contextmanager
def _refused_as(link: Link) -> Iterator[None]:
    """Have what the store refuses told of the bucket: by that its connections are counted."""
    try:
        yield
    except SourceBusy as busy:
        busy.host = host_of(link.url)
        raise


def _as_source(refusal: Refusal) -> SourceError:
    """Return what an answer of the store means where the object is a source."""
    error = refusal.error
    if refusal.is_absence:
        return SourceNotFound("The bucket has no such object.", status=404)
    if isinstance(error, SinkBusy):
        return SourceBusy(error.message, retry_after_s=error.retry_after_s)
    return SourceRefused(error.message)
