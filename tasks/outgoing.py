"""The bytes of one PUT on their way: counted, hashed, and watched for standing still.

Laws of this file:
1. Silence of the source is the source's to time; only the time a piece waits to be sent counts against the store.
2. What goes wrong with the bytes themselves is kept in `trouble`: the HTTP library would wrap it up as its own error.
3. The store's answer must show that it received what was sent: by the CRC-64/NVME it computed, else by its ETag.
"""

import asyncio
import hashlib
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from typing import Self

from awscrt.checksums import crc32c, crc64nvme

from rayhaul.errors import Internal, InvalidRequest, SinkBusy
from tasks.checksum import crc_value

Buffer = bytes | bytearray | memoryview
Body = AsyncIterable[bytes] | Buffer

#: Pieces in which a buffer is sent.
_PIECE_BYTES = 1024 * 1024
#: Below this a thread costs more than the hash.
HASH_INLINE_BYTES_MAX = 64 * 1024


class Overheard(AsyncIterator[bytes]):
    """A body that wants to know what of it was taken."""

    @abstractmethod
    def goes_into(self, crc64nvme: Callable[[], int]) -> None:
        """Take note of who tells the CRC-64/NVME of all that the body has given so far."""


class Outgoing:
    """An async iterator over a body that must have `size_bytes`. Iterated once, by the HTTP library's own task."""

    def __init__(
        self,
        body: Body,
        size_bytes: int,
        *,
        watch: asyncio.Timeout,
        stall_timeout_s: float,
        md5_threads: Executor | None,
        md5_hex: str | None = None,
        wants_crc32c: bool = False,
    ) -> None:
        """`watch` is set while a piece waits to be sent; `md5_threads` None: no MD5 is needed, or `md5_hex` is it."""
        self._pieces: AsyncIterator[bytes] = _Slices(body) if isinstance(body, Buffer) else aiter(body)
        self._size_bytes = size_bytes
        self._watch = watch
        self._stall_timeout_s = stall_timeout_s
        self._md5_threads = md5_threads
        self._md5_hex = md5_hex
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashing: asyncio.Future[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self.bytes_sent = 0
        self.crc64nvme = 0
        #: None where it is not wanted.
        self.crc32c = 0 if wants_crc32c else None
        self.trouble: Exception | None = None
        if isinstance(body, Overheard):
            body.goes_into(lambda: self.crc64nvme)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._task = asyncio.current_task()
        self._watch.reschedule(None)
        try:
            await self._hashed()
            piece = await anext(self._pieces)
            self.bytes_sent += len(piece)
            if self.bytes_sent > self._size_bytes:
                raise Internal(f"a body of {self._size_bytes} bytes has more")
        except StopAsyncIteration:
            if self.bytes_sent < self._size_bytes:
                self.trouble = Internal(f"a body of {self._size_bytes} bytes ended after {self.bytes_sent}")
                raise self.trouble from None
            self._await_store()
            raise
        except Exception as err:
            self.trouble = err
            raise
        self.crc64nvme = crc64nvme(piece, self.crc64nvme)
        if self.crc32c is not None:
            self.crc32c = crc32c(piece, self.crc32c)
        self._hash(piece)
        self._await_store()
        return piece

    async def settle(self) -> None:
        """Return when nobody iterates any more. The library may end a PUT while its task still waits for the source."""
        task = self._task
        if task is not None and task is not asyncio.current_task() and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def check_received(self, headers: Mapping[str, str]) -> str:
        """Return the ETag, unquoted, of a store that received these bytes.

        Raises: SinkBusy; sending them again may help.
        """
        # A quick store answers while the last piece is still in its thread.
        await self._hashed()
        etag = headers.get("ETag", "").strip('"')
        if self.bytes_sent != self._size_bytes or not etag:
            raise SinkBusy("the store answered before it had everything")
        told = told_crc(headers)
        if told is not None:
            is_same = told == self.crc64nvme
        elif self._md5_hex is not None or self._md5_threads is not None:
            is_same = not has_md5_etag(headers) or etag == (self._md5_hex or self._md5.hexdigest())
        else:
            raise SinkBusy("the store does not tell its checksum any more")
        if not is_same:
            raise SinkBusy("the store received other bytes than were sent")
        return etag

    def _await_store(self) -> None:
        self._watch.reschedule(asyncio.get_running_loop().time() + self._stall_timeout_s)

    def _hash(self, piece: bytes) -> None:
        if self._md5_threads is None:
            return
        if len(piece) <= HASH_INLINE_BYTES_MAX:
            self._md5.update(piece)
            return
        # The next piece waits for it, so that they are hashed in order, while this one is being sent.
        self._hashing = asyncio.get_running_loop().run_in_executor(self._md5_threads, self._md5.update, piece)

    async def _hashed(self) -> None:
        if self._hashing is not None:
            # Whoever iterates is stopped by the answer; the hash goes on.
            await asyncio.shield(self._hashing)
            self._hashing = None


def told_crc(headers: Mapping[str, str]) -> int | None:
    """Return the CRC-64/NVME of the whole object or part that a store tells; None where it tells none."""
    try:
        return crc_value(headers.get("x-amz-checksum-crc64nvme", ""))
    except InvalidRequest:
        return None


def has_md5_etag(headers: Mapping[str, str]) -> bool:
    """Whether the ETag is the MD5 of the bytes. Source: S3, "Object": not with SSE-KMS, DSSE-KMS or SSE-C."""
    return (
        not headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
        and "x-amz-server-side-encryption-customer-algorithm" not in headers
    )


class _Slices:
    """The pieces of a buffer. No generator: one that is left half-way would have to be closed."""

    def __init__(self, buffer: Buffer) -> None:
        self._rest = memoryview(buffer)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
        # The HTTP library and the hashes take a view as they take bytes.
        return piece  # type: ignore[return-value]
