"""PUTs to presigned URLs: aiohttp, one connection each, kept alive, the body streamed with its length announced."""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import aiohttp
from yarl import URL

from rayhaul.errors import SinkBusy, SinkError
from rayhaul.metrics import SINK_BYTES, SINK_REQUESTS, Meter
from tasks.outgoing import HASH_INLINE_BYTES_MAX, Body, Buffer, Outgoing, told_crc
from tasks.source import retry_after_s
from tasks.store_calls import CONNECT_TIMEOUT_S, classify

_ERROR_BYTES_MAX = 64 * 1024
#: MD5 runs at 0.7 GiB/s a core: two keep up with ten gigabit.
_MD5_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What the store acknowledged. `etag` is unquoted."""

    etag: str
    size_bytes: int
    crc64nvme: int
    #: Whether the store computed that too, and told it.
    told_crc: bool
    #: None where it was not wanted.
    crc32c: int | None = None


class StorePuts:
    def __init__(self, *, meter: Meter, connections_max: int, stall_timeout_s: float) -> None:
        self._meter = meter
        self._connections_max = connections_max
        self._stall_timeout_s = stall_timeout_s
        self._md5_threads: ThreadPoolExecutor | None = None
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        self._md5_threads = ThreadPoolExecutor(_MD5_THREADS, thread_name_prefix="md5")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._md5_threads is not None:
            self._md5_threads.shutdown()

    async def md5(self, buffer: Buffer) -> bytes:
        """Return the MD5 of a buffer; of a large one computed in a thread."""
        if len(buffer) <= HASH_INLINE_BYTES_MAX:
            return hashlib.md5(buffer, usedforsecurity=False).digest()
        hashing = partial(hashlib.md5, buffer, usedforsecurity=False)
        return (await asyncio.get_running_loop().run_in_executor(self._md5_threads, hashing)).digest()

    async def send(
        self,
        operation: str,
        url: str,
        *,
        headers: Mapping[str, str],
        size_bytes: int,
        body: Body,
        tells_crc: bool,
        md5_hex: str | None = None,
        wants_crc32c: bool = False,
    ) -> Put:
        """Send a body once. `tells_crc`: the store's answer has a CRC-64/NVME, so MD5 need not be computed.

        Raises: SinkError; what iterating the body raises.
        """
        result = "ok"
        try:
            async with asyncio.timeout(None) as watch:
                outgoing = Outgoing(
                    body,
                    size_bytes,
                    watch=watch,
                    stall_timeout_s=self._stall_timeout_s,
                    md5_threads=None if tells_crc or md5_hex is not None else self._md5_threads,
                    md5_hex=md5_hex,
                    wants_crc32c=wants_crc32c,
                )
                try:
                    told = await self._exchange(url, {**headers, "Content-Length": str(size_bytes)}, outgoing)
                finally:
                    await outgoing.settle()
            etag = await outgoing.check_received(told)
        except (aiohttp.ClientError, OSError) as err:
            if outgoing.trouble is not None:
                result = "body"
                raise outgoing.trouble from err
            result = SinkBusy.code
            kind = "it stalled" if isinstance(err, TimeoutError) else type(err).__name__
            raise classify("", 0, text=f"{operation}: {kind}") from err
        except SinkError as error:
            result = error.code
            raise
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        finally:
            self._meter.inc(SINK_REQUESTS, operation, result)
        self._meter.inc(SINK_BYTES, by=size_bytes)
        return Put(
            etag=etag,
            size_bytes=size_bytes,
            crc64nvme=outgoing.crc64nvme,
            told_crc=told_crc(told) is not None,
            crc32c=outgoing.crc32c,
        )

    async def _exchange(self, url: str, headers: Mapping[str, str], outgoing: Outgoing) -> Mapping[str, str]:
        """PUT, and return the headers of a 200. Raises: SinkError."""
        assert self._session is not None, "not started"
        # `encoded`: what is signed must be sent as it is.
        signed = URL(url, encoded=True)
        async with self._session.put(signed, data=outgoing, headers=headers, allow_redirects=False) as response:
            if response.status == 200:
                return response.headers
            text = (await response.content.read(_ERROR_BYTES_MAX)).decode(errors="replace")
            raise classify(
                error_text(text, "Code"),
                response.status,
                text=error_text(text, "Message"),
                retry_after_s=retry_after_s(response.headers),
            )


def error_text(xml: str, name: str) -> str:
    """Return the text of the first `name` element of a store's error document; empty where it has none."""
    found = re.search(rf"<{name}>([^<]{{1,500}})</{name}>", xml)
    return found[1] if found else ""
