"""What the tests of the source side share: clients that reach one origin, and ways to ask and to read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from origin import LAST_MODIFIED, Origin

from rayhaul.job import Metadata
from rayhaul.metrics import Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.egress import GuardedClient
from tasks.http_transport import HttpTransport
from tasks.links import Link
from tasks.probe import probe
from tasks.source import open_range, open_whole

SIZE = 300_000
SEED = 5

Connect = Callable[..., GuardedClient]


@asynccontextmanager
async def connecting(origin: Origin) -> AsyncIterator[Connect]:
    """Give a maker of clients that may reach the origin's port on its address, and nothing else; close them all."""
    clients: list[GuardedClient] = []

    def connect(
        *allow: str, source: SourceSettings | None = None, meter: Meter | None = None, **more: Any
    ) -> GuardedClient:
        client = GuardedClient(
            EgressSettings(allow=(origin.host_port, *allow)),
            source or SourceSettings(),
            connections_max=8,
            meter=meter or Meter(),
            **more,
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


def pinned(origin: Origin, path: str = "f.bin", **changes: Any) -> Metadata:
    """Return what a probe of an honest file of SIZE bytes says."""
    pin = Metadata(
        size_bytes=SIZE,
        content_type="application/octet-stream",
        etag=f'"{SEED}-{SIZE}-first"',
        last_modified=LAST_MODIFIED,
        rangeable=True,
        filename=path,
        final_url=f"{origin.base_url}/{path}",
        fetch_ms=1,
    )
    return replace(pin, **changes)


def patience(behaviour: Mapping[str, Any]) -> SourceSettings:
    """Return the one limit short that the test waits for, and the usual ones elsewhere."""
    if "silent" in behaviour:
        return SourceSettings(first_byte_timeout_s=0.3)
    return SourceSettings(stall_timeout_s=0.3) if "stall_after" in behaviour else SourceSettings()


async def ask(client: GuardedClient, url: str, **more: Any) -> Metadata:
    link = Link(url, more.pop("headers", {}))
    limit_s = client.source.probe_timeout_s
    asked = {"filename": None, "size_bytes_max": None, "timeout_s": limit_s, "clock": time.monotonic, **more}
    return await probe(HttpTransport(client), link, **asked)


async def read_range(
    client: GuardedClient, url: str, pin: Metadata, first: int, end: int, *, headers: Mapping[str, str] | None = None
) -> bytes:
    async with open_range(client, url=url, headers=headers or {}, pin=pin, first_byte=first, end_byte=end) as body:
        return b"".join([piece async for piece in body])


async def read_whole(
    client: GuardedClient, url: str, pin: Metadata, *, headers: Mapping[str, str] | None = None
) -> bytes:
    async with open_whole(client, url=url, headers=headers or {}, pin=pin) as body:
        return b"".join([piece async for piece in body])


class Canary:
    """A listener that must never be reached."""

    def __init__(self) -> None:
        self.connections_count = 0
        self.port = 0

    def _accepted(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_count += 1
        writer.close()

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1") -> AsyncIterator["Canary"]:
        server = await asyncio.start_server(self._accepted, host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


class ScriptedNames(AbstractResolver):
    """The system's resolver, but some names have scripted answers: one list a lookup, the last for ever."""

    def __init__(self, answers: Mapping[str, list[list[str]]], *, delay_s: float = 0) -> None:
        self._inner = aiohttp.ThreadedResolver()
        self._answers = {name: list(script) for name, script in answers.items()}
        self._delay_s = delay_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        await asyncio.sleep(self._delay_s)
        script = self._answers.get(host)
        if script is None:
            return await self._inner.resolve(host, port, family)
        addresses = script.pop(0) if len(script) > 1 else script[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        await self._inner.close()


async def joined(opening: AbstractAsyncContextManager[AsyncIterator[bytes]], got: bytearray | None = None) -> bytes:
    """Return all bytes of a body; `got` has those that came, should it break off."""
    got = bytearray() if got is None else got
    async with opening as body:
        async for piece in body:
            got += piece
    return bytes(got)
