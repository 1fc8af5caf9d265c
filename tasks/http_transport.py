"""HTTP(S) as a transport: the guarded client, the probe and the ranges behind the one seam."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from rayhaul.job import Metadata
from tasks import source
from tasks.egress import GuardedClient
from tasks.links import Link
from tasks.probe import ask


class HttpTransport:
    def __init__(self, client: GuardedClient) -> None:
        self._client = client

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        return await ask(self._client, link.url, link.headers, filename)

    def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return source.open_range(
            self._client,
            url=link.url,
            headers=link.headers,
            pin=pin,
            first_byte=first_byte,
            end_byte=end_byte,
            checksum_tells=checksum_tells,
        )

    def open_whole(self, link: Link, *, pin: Metadata) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return source.open_whole(self._client, url=link.url, headers=link.headers, pin=pin)
