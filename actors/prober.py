"""Tries as a user what users are promised: links that deliver, and events that arrive in time.

It lives in the courier's process, beside the courier, and not in an agent: an agent is near the bucket and holds its
keys, a user comes through the ingress. What is measured is what somebody outside would see.

Laws of this file:
1. A link is followed as it would be handed out, without keys of its own: signature, bucket and bytes are tried at once.
2. Events are read through the ingress, with the client's own reader; what is late after a reconnect counts as late.
3. Where there is nothing to try, nothing is counted: no completed job is no failure.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from random import Random
from secrets import token_bytes
from typing import Protocol

import aiohttp
from yarl import URL

from rayhaul.client.endpoint import Endpoint
from rayhaul.client.errors import ClientError
from rayhaul.client.feed import EventFeed
from rayhaul.client.transport import Transport
from rayhaul.errors import RayhaulError
from rayhaul.job import Job, JobStatus, utc
from rayhaul.keys import KEY_ID_BYTES, new_key
from rayhaul.ledger.base import ApiKey, JobFilter, Ledger, Role, Scope, Viewer
from rayhaul.metrics import DELIVERY_PROBES, SSE_DELIVERY_LAG, Meter

log = logging.getLogger(__name__)

#: Time between two links that are followed: 120 an hour, so that a burn rate of an hour says something.
PROBE_S = 30.0
#: The newest completed jobs, one of which is picked.
_JOBS_MAX = 50
#: Longest wait for the first bytes of a link.
_TIMEOUT_S = 10.0
#: Life of a link that is followed at once.
_EXPIRES_S = 60
#: Pause before the events are asked for again.
_RECONNECT_S = 1.0

_EVERYTHING = Viewer("prober", Role.OPERATOR)


class Links(Protocol):
    """The bucket, as far as links go."""

    def presign_get(self, key: str, *, filename: str, expires_s: int) -> str: ...


class Keys(Protocol):
    """The scheduler, as far as keys go."""

    async def create_key(self, key: ApiKey) -> None: ...


class Prober:
    def __init__(self, *, ledger: Ledger, links: Links, meter: Meter, rng: Random, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._links = links
        self._meter = meter
        self._rng = rng
        self._clock = clock

    async def follow_links(self) -> None:
        """Follow one link after the other, for ever."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
            while True:
                await asyncio.sleep(PROBE_S * self._rng.uniform(0.8, 1.2))
                try:
                    await self.follow_one(session)
                except RayhaulError as error:
                    log.warning("no link could be probed: %s", error.message, extra={"code": error.code})

    async def follow_one(self, session: aiohttp.ClientSession) -> str | None:
        """Follow the link of a completed job and count what came of it; None where there is no such job."""
        jobs = await self._ledger.jobs(_EVERYTHING, JobFilter(status=JobStatus.COMPLETED, limit=_JOBS_MAX))
        if not jobs:
            return None
        job = self._rng.choice(jobs)
        result = await self._follow(session, job)
        self._meter.inc(DELIVERY_PROBES, result)
        if result != "ok":
            log.warning("the link of a completed job does not deliver: %s", result, extra={"jobId": job.id})
        return result

    async def _follow(self, session: aiohttp.ClientSession, job: Job) -> str:
        """Return `ok`, or in a word why the link does not deliver the job's bytes."""
        assert job.result is not None
        url = URL(self._links.presign_get(job.result.key, filename="probe", expires_s=_EXPIRES_S), encoded=True)
        # An empty object has no first byte to ask for.
        headers = {"Range": "bytes=0-0"} if job.result.size_bytes else {}
        try:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                return await _judge(response, job.result.size_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return "unreachable"

    async def read_events(self, api_url: str, keys: Keys) -> None:
        """Read the events of everything, for ever, and note how long each took from its commit to here."""
        last_seq, is_told = await self._ledger.last_seq(), False
        while True:
            transport = self._transport(api_url, await self._key(keys))
            feed = EventFeed(transport, "/events", str(last_seq))
            try:
                while True:
                    async with aclosing(feed.listen()) as heard:
                        async for event in heard:
                            is_told = False
                            if event.seq is not None:
                                last_seq = event.seq
                                self._meter.observe(SSE_DELIVERY_LAG, max(0.0, self._clock() - event.ts.timestamp()))
                    await asyncio.sleep(_RECONNECT_S)
            except ClientError as error:
                if not is_told:
                    log.warning("events can not be read, and are asked for again: %s", error)
                is_told = True
            finally:
                await transport.aclose()
            await asyncio.sleep(_RECONNECT_S)

    @staticmethod
    def _transport(api_url: str, key: str) -> Transport:
        return Transport(Endpoint(url=api_url, api_key=key), timeout_s=_TIMEOUT_S, retries_max=0)

    async def _key(self, keys: Keys) -> str:
        """Return a new key that sees everything and changes nothing. It takes the place of the last one."""
        text, key = new_key(
            _EVERYTHING.user_id,
            _EVERYTHING.role,
            "measures how long events take",
            utc(self._clock()),
            # Always the same id: of those that came before none stays.
            lambda count: bytes(count) if count == KEY_ID_BYTES else token_bytes(count),
            scopes=frozenset({Scope.READ}),
        )
        while True:
            try:
                await keys.create_key(key)
            except RayhaulError:
                await asyncio.sleep(_RECONNECT_S)
            else:
                return text


async def _judge(response: aiohttp.ClientResponse, size_bytes: int) -> str:
    if response.status == 404:
        return "absent"
    if response.status not in {200, 206}:
        return "refused"
    if response.status == 200:
        # The store knows no ranges, or the object is empty: the length says the same.
        return "ok" if response.content_length == size_bytes else "wrong_size"
    is_whole = response.headers.get("Content-Range") == f"bytes 0-0/{size_bytes}"
    return "ok" if is_whole and len(await response.content.read(2)) == 1 else "wrong_size"
