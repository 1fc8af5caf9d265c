"""Saves an object from its presigned link to a file: beside it first, checked, then renamed."""

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from rayhaul.client.errors import ConnectionFailed, DownloadMismatch, SinkFailed
from rayhaul.client.retries import backoff_s
from rayhaul.client.transport import Transport
from rayhaul.wire import ResultView

#: Called with the bytes done and the bytes in all.
OnBytes = Callable[[int, int], None]

READ_BYTES = 1024 * 1024


class PartFile:
    """`NAME.part`, its length and its hash, until it is the whole object. Its methods block on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part_path = path.with_name(path.name + ".part")
        self._file = self._part_path.open("wb", buffering=0)
        self._sha256 = hashlib.sha256()
        self.bytes_done = 0

    def append(self, received: bytes) -> None:
        view = memoryview(received)
        while view:
            view = view[self._file.write(view) :]
        self._sha256.update(received)
        self.bytes_done += len(received)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self.bytes_done = 0

    def publish(self, expected: ResultView) -> None:
        """Give the file its name.

        Raises: DownloadMismatch.
        """
        if self.bytes_done != expected.size_bytes:
            raise DownloadMismatch(f"{self.bytes_done} bytes arrived, {expected.size_bytes} were promised")
        if expected.sha256 is not None and self._sha256.hexdigest() != expected.sha256.lower():
            raise DownloadMismatch(f"the bytes have sha256 {self._sha256.hexdigest()}, not {expected.sha256}")
        os.fsync(self._file.fileno())
        self._part_path.replace(self._path)

    def close(self) -> None:
        """Remove what was not published."""
        self._file.close()
        self._part_path.unlink(missing_ok=True)


async def save(
    transport: Transport, link: Callable[[], Awaitable[str]], expected: ResultView, path: Path, on_bytes: OnBytes | None
) -> None:
    """Write the object to `path`; a broken connection goes on where it stopped, with a fresh link.

    Raises: DownloadMismatch, SinkFailed, ConnectionFailed, OSError.
    """
    part = await asyncio.to_thread(PartFile, path)
    failures = 0
    try:
        while True:
            bytes_before = part.bytes_done
            try:
                await _read_on(transport, await link(), expected, part, on_bytes)
                break
            except (aiohttp.ClientError, TimeoutError, SinkFailed) as err:
                if 0 < part.bytes_done == expected.size_bytes:
                    break
                failures = 1 if part.bytes_done > bytes_before else failures + 1
                if isinstance(err, SinkFailed) and err.code != "sink_busy":
                    raise
                if failures > transport.retries_max:
                    raise _gave_up(err) from err
                await asyncio.sleep(backoff_s(failures, random.random()))
        await asyncio.to_thread(part.publish, expected)
    finally:
        part.close()


def _gave_up(error: aiohttp.ClientError | TimeoutError | SinkFailed) -> SinkFailed | ConnectionFailed:
    if isinstance(error, SinkFailed):
        return error
    return ConnectionFailed(f"the bucket cannot be reached: {type(error).__name__}")


async def _read_on(
    transport: Transport, link: str, expected: ResultView, part: PartFile, on_bytes: OnBytes | None
) -> None:
    headers = {"Accept-Encoding": "identity"}
    if part.bytes_done:
        headers["Range"] = f"bytes={part.bytes_done}-"
    timeout = aiohttp.ClientTimeout(sock_connect=transport.timeout_s, sock_read=transport.timeout_s)
    async with transport.session(link).get(link, headers=headers, timeout=timeout, read_bufsize=READ_BYTES) as response:
        if response.status >= 400:
            is_busy = response.status in {429, 500, 502, 503, 504}
            code = "sink_busy" if is_busy else "sink_refused"
            raise SinkFailed(code, response.status, f"the bucket answered HTTP {response.status}")
        if part.bytes_done and response.headers.get("Content-Range") != _rest_of(expected, part):
            await asyncio.to_thread(part.restart)
            if response.status == 206:
                raise SinkFailed("sink_busy", 206, "the bucket sent another range than was asked for")
        async for received in response.content.iter_any():
            if part.bytes_done + len(received) > expected.size_bytes:
                raise DownloadMismatch(f"more than the promised {expected.size_bytes} bytes arrived")
            await asyncio.to_thread(part.append, received)
            if on_bytes is not None:
                on_bytes(part.bytes_done, expected.size_bytes)


def _rest_of(expected: ResultView, part: PartFile) -> str:
    """Return the Content-Range of the right answer (RFC 9110 14.4)."""
    return f"bytes {part.bytes_done}-{expected.size_bytes - 1}/{expected.size_bytes}"
