"""A client's end of an event stream, read one message at a time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE_S = 20.0


@dataclass(slots=True)
class Told:
    """What a stream said, parsed."""

    event: str
    id: str | None
    data: dict[str, Any]


@dataclass(slots=True)
class Stream:
    """A client's end of a stream: reads one message at a time."""

    response: httpx.Response
    comments: int = 0
    retry: str | None = None
    last_id: str | None = None
    _lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.response.aiter_lines()

    async def next(self) -> Told | None:
        """Return the next event; None where the stream has ended."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._next()

    async def _next(self) -> Told | None:
        fields: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif name == "retry":
                self.retry = value
            elif line:
                fields[name] = value
            elif "data" in fields:
                self.last_id = fields.get("id", self.last_id)
                return Told(fields["event"], fields.get("id"), json.loads(fields["data"]))
        return None

    async def rest(self) -> list[Told]:
        """Return all events until the stream ends."""
        told = []
        while (event := await self.next()) is not None:
            told.append(event)
        return told

    async def until(self, event: str) -> list[Told]:
        """Return the events up to the first of that name."""
        told: list[Told] = []
        while not told or told[-1].event != event:
            found = await self.next()
            assert found is not None, [each.event for each in told]
            told.append(found)
        return told


@asynccontextmanager
async def stream(http: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[Stream]:
    async with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)
