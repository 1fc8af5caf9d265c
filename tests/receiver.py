"""A real HTTP server on loopback that takes webhooks, answers as it is told to, and records what it got."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aiohttp import web

#: Answers: a status, a status with headers, bytes with 200, or one of these words.
HANG = "hang"
ENDLESS = "endless"
Answer = int | str | bytes | tuple[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Delivery:
    path: str
    method: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """`answers[path]` is used up from the left, its last entry for ever; without one it is 204."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.answers: dict[str, deque[Answer]] = defaultdict(deque)
        self.under_way = 0
        self.under_way_max = 0
        self.port = 0
        self._released = asyncio.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def answer(self, path: str, *answers: Answer) -> str:
        """Have a path answer so, in turn; return its URL."""
        self.answers[path] = deque(answers)
        return self.url(path)

    def got(self, path: str) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if delivery.path == path]

    def release(self) -> None:
        """Let what hangs be answered, and nothing hang from now on."""
        self._released.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.release()
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            return await self._respond(request)
        finally:
            self.under_way -= 1

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.deliveries.append(Delivery(path, request.method, headers, await request.read(), time.time()))
        script = self.answers[path]
        answer: Answer = 204 if not script else script.popleft() if len(script) > 1 else script[0]
        if answer == HANG:
            await self._released.wait()
            answer = 204
        if answer == ENDLESS:
            return await _endless(request)
        if isinstance(answer, tuple):
            return web.Response(status=answer[0], headers=answer[1])
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        assert isinstance(answer, int)
        return web.Response(status=answer)


async def _endless(request: web.Request) -> web.StreamResponse:
    """Answer 200 with a body that goes on until the client hangs up."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)
