"""A reverse proxy in front of a real S3 server that fails on request, and can be as strict as Cloudflare R2.

async with StoreProxy(store.settings) as proxy:
    proxy.fail("upload_part", Fault(status=503, code="SlowDown"), times=2)
    sink = Sink(proxy.settings, ...)
"""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from random import Random
from types import TracebackType
from typing import Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

from rayhaul.settings import S3Settings

#: R2, "Error codes", 10058.
_TOO_OFTEN = "TooManyRequests"
#: No client of ours waits so long for an answer.
_HANGS_S_MAX = 60.0

Operation = Literal[
    "upload_part",
    "copy_part",
    "put_object",
    "create",
    "complete",
    "abort",
    "list_parts",
    "list_uploads",
    "head",
    "lifecycle",
    "other",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a request."""

    #: Answered in place of the store, after the request's body was read.
    status: int | None = None
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    #: The connection is closed after so many bytes of the request's body.
    cut_after: int | None = None
    #: The store does it, but the answer is lost.
    drop_answer: bool = False
    #: A bit of the body is flipped on the way.
    flip_bit: bool = False
    #: Nothing is read or answered until the client goes away, or for a minute.
    hang: bool = False
    #: Response headers that do not get through, in lower case.
    hide_headers: tuple[str, ...] = ()
    #: Response headers that say something else than the store did.
    replace_headers: Mapping[str, str] = field(default_factory=dict)
    #: ListParts does not show this part, and shows one that is not there.
    hide_part: int | None = None
    invent_part: int | None = None

    @property
    def name(self) -> str:
        """What it is, in the words of its fields; of an answer the status and the code. Empty: nothing."""
        said = [f"{self.status} {self.code}".rstrip()] if self.status is not None else []
        others = (field.name for field in fields(self) if field.name not in {"status", "code"})
        return ", ".join([*said, *(name for name in others if getattr(self, name) != getattr(NO_FAULT, name))])


NO_FAULT = Fault()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    operation: Operation
    key: str
    part: int | None
    size_bytes: int
    #: The connection that it came on.
    peer: object = None


@dataclass(slots=True)
class _Planned:
    fault: Fault
    times: int
    part: int | None


class StoreProxy:
    def __init__(self, settings: S3Settings, *, strict: bool = False) -> None:
        """`strict`: refuse what R2 refuses: parts of different sizes, checksum parameters it does not know, and a key
        that is written again within `write_every_s`.
        """
        self._upstream = settings
        self.strict = strict
        self._planned: dict[Operation, list[_Planned]] = defaultdict(list)
        self._sizes: dict[str, dict[int, int]] = defaultdict(dict)
        self._written_at_s: dict[str, float] = {}
        self._odds: dict[Operation, Sequence[tuple[float, Fault]]] = {}
        self._rng = Random(0)
        #: R2's second between two writes of one key; 0 where tests try again within milliseconds.
        self.write_every_s = 0.0
        #: Every connection is reset.
        self.is_down = False
        #: This happens to every request.
        self.to_all: Fault | None = None
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._port = 0
        #: Every request, in order of arrival.
        self.seen: list[Seen] = []
        #: Those whose client went away before it had sent all of the body.
        self.broken: list[Seen] = []
        #: How often each fault was made: `create: drop_answer`, say.
        self.happened: Counter[str] = Counter()

    @property
    def settings(self) -> S3Settings:
        return self._upstream.model_copy(update={"endpoint_url": f"http://127.0.0.1:{self._port}"})

    def fail(self, operation: Operation, fault: Fault, *, times: int = 1, part: int | None = None) -> None:
        """Do this to the next `times` requests of that operation (of that part)."""
        self._planned[operation].append(_Planned(fault, times, part))

    def weather(self, rng: Random, odds: Mapping[Operation, Sequence[tuple[float, Fault]]]) -> None:
        """Do these to requests from now on, each with its probability; what is planned comes first."""
        self._rng, self._odds = rng, dict(odds)

    def reset(self) -> None:
        """Forget requests and faults."""
        self.seen.clear()
        self.broken.clear()
        self._planned.clear()
        self._odds.clear()
        self._written_at_s.clear()
        self.write_every_s = 0.0
        self.is_down = False
        self.to_all = None

    def count(self, operation: Operation, part: int | None = None) -> int:
        """Return how many requests of an operation (of one part) were seen."""
        return sum(seen.operation == operation and part in {None, seen.part} for seen in self.seen)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = request.rel_url.query
        operation = _operation(request.method, query)
        if operation == "upload_part" and "x-amz-copy-source" in request.headers:
            operation = "copy_part"
        part = int(query["partNumber"]) if "partNumber" in query else None
        size_bytes = request.content_length or 0
        key = request.path.partition("/")[2].partition("/")[2]
        peer = request.get_extra_info("peername")
        seen = Seen(operation=operation, key=key, part=part, size_bytes=size_bytes, peer=peer)
        self.seen.append(seen)
        if self.is_down:
            self.happened["is_down"] += 1
            return _hang_up(request)
        fault = self._due(operation, part)
        if fault.hang or fault.cut_after is not None:
            self._tell(operation, fault)
            await (_until_left(request) if fault.hang else _read_up_to(request.content, fault.cut_after or 0))
            return _hang_up(request)
        refusal = self._refusal(operation, request, part, size_bytes)
        if fault.status is not None or refusal is not None:
            async for _ in request.content.iter_any():
                pass
            if fault.status is not None:
                self._tell(operation, fault)
                return _error(fault.status, fault.code, fault.headers)
            self.happened[f"{operation}: strict {refusal}"] += 1
            return _error(429 if refusal == _TOO_OFTEN else 400, refusal or "", {})
        try:
            answer = await self._forward(request, seen, fault)
        except aiohttp.ClientError:
            # The store itself is down, or the client has left in the middle of a body.
            return _hang_up(request)
        if operation in {"complete", "abort"} and answer.status < 300:
            self._sizes.pop(query["uploadId"], None)
        return answer

    def _tell(self, operation: Operation, fault: Fault) -> None:
        self.happened[f"{'all' if fault is self.to_all else operation}: {fault.name}"] += 1

    def _due(self, operation: Operation, part: int | None) -> Fault:
        if self.to_all is not None:
            return self.to_all
        for planned in self._planned[operation]:
            if planned.times > 0 and planned.part in {None, part}:
                planned.times -= 1
                return planned.fault
        dice = self._rng.random()
        for probability, fault in self._odds.get(operation, ()):
            if dice < probability:
                return fault
            dice -= probability
        return Fault()

    def _refusal(self, operation: Operation, request: web.Request, part: int | None, size_bytes: int) -> str | None:
        """Return the code with which R2 would refuse this; None where it would not."""
        if not self.strict:
            return None
        if operation in {"put_object", "complete"}:
            now_s = asyncio.get_running_loop().time()
            before_s = self._written_at_s.get(request.path)
            self._written_at_s[request.path] = now_s
            if before_s is not None and now_s - before_s < self.write_every_s:
                return _TOO_OFTEN
        upload_id = request.rel_url.query.get("uploadId", "")
        if operation == "upload_part" and part is not None:
            self._sizes[upload_id][part] = size_bytes
        if operation == "complete":
            sizes = [size for _, size in sorted(self._sizes[upload_id].items())]
            if len({*sizes[:-1]}) > 1 or (len(sizes) > 1 and sizes[-1] > sizes[0]):
                return "InvalidPart"
        checksums = {name.lower() for name in request.headers if name.lower().startswith("x-amz-checksum-")}
        if checksums - {"x-amz-checksum-mode"}:
            return "NotImplemented"
        return None

    async def _forward(self, request: web.Request, seen: Seen, fault: Fault) -> web.StreamResponse:
        assert self._session is not None
        url = URL(f"{self._upstream.endpoint_url}{request.raw_path}", encoded=True)
        # The Host header stays what the client signed.
        headers = request.headers.copy()
        headers.pop("Transfer-Encoding", None)
        body = self._received(request.content, seen)
        if fault.flip_bit:
            body = _flipped(body)
        async with self._session.request(
            request.method,
            url,
            headers=headers,
            data=body if request.can_read_body else None,
            allow_redirects=False,
        ) as answer:
            told = await answer.read()
            content = _listed(told, fault)
            is_other = content != told or any(name in answer.headers for name in fault.hide_headers)
            is_flipped = fault.flip_bit and bool(request.content_length)
            if is_other or is_flipped or fault.drop_answer or fault.replace_headers:
                self._tell(seen.operation, fault)
            if fault.drop_answer:
                return _hang_up(request)
            kept = answer.headers.copy()
            for name in ("Transfer-Encoding", "Date", "Server", *fault.hide_headers):
                kept.popall(name, None)
            kept.update(fault.replace_headers)
            if request.method != "HEAD":
                kept.popall("Content-Length", None)
            return web.Response(status=answer.status, headers=kept, body=content or None)

    async def _received(self, content: aiohttp.StreamReader, seen: Seen) -> AsyncIterator[bytes]:
        try:
            async for piece in content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError):
            self.broken.append(seen)
            raise


#: By method: the operation that a parameter of the query shows; None: any.
_KINDS: Mapping[str, Sequence[tuple[str | None, Operation]]] = {
    "PUT": (("partNumber", "upload_part"), (None, "put_object")),
    "POST": (("uploads", "create"), ("uploadId", "complete")),
    "DELETE": (("uploadId", "abort"),),
    "GET": (("uploadId", "list_parts"), ("uploads", "list_uploads")),
    "HEAD": ((None, "head"),),
}


def _operation(method: str, query: Mapping[str, str]) -> Operation:
    names = set(query)
    if "lifecycle" in names:
        return "lifecycle"
    kinds = _KINDS.get(method, ())
    return next((operation for name, operation in kinds if name is None or name in names), "other")


def _error(status: int, code: str, headers: dict[str, str]) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>asked for</Message></Error>'
    return web.Response(status=status, text=text if code else "", headers=headers, content_type="application/xml")


def _hang_up(request: web.Request) -> web.Response:
    # None: the client has left.
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _listed(content: bytes, fault: Fault) -> bytes:
    """Return a list of parts as the fault shows it; anything else as it is."""
    if fault.hide_part is not None:
        content = re.sub(
            rb"<Part>(?:(?!</Part>).)*<PartNumber>%d</PartNumber>.*?</Part>" % fault.hide_part,
            b"",
            content,
            flags=re.DOTALL,
        )
    if fault.invent_part is not None:
        told = b"<Part><PartNumber>%d</PartNumber><ETag>%b</ETag><Size>5242880</Size></Part>"
        content = content.replace(b"</ListPartsResult>", told % (fault.invent_part, b"0" * 32) + b"</ListPartsResult>")
    return content


async def _until_left(request: web.Request) -> None:
    # Who leaves in the middle of a body is not seen to: the end of it stands behind what nobody reads.
    with suppress(TimeoutError):
        async with asyncio.timeout(_HANGS_S_MAX):
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.05)


async def _read_up_to(content: aiohttp.StreamReader, bytes_count: int) -> None:
    while bytes_count > 0 and (piece := await content.read(bytes_count)):
        bytes_count -= len(piece)


async def _flipped(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    flipped = False
    async for piece in body:
        if not flipped and piece:
            flipped = True
            yield bytes([piece[0] ^ 1]) + piece[1:]
        else:
            yield piece
