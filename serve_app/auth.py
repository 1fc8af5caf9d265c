"""Who asks: API keys from the ledger, remembered for a few seconds.

Laws of this file:
1. Every route names `Caller` or `Operator`, or is one of the few that are open (tests walk the routes).
2. What a key's scopes allow follows from the method alone, so that no route can forget it.
3. A key that is unknown and one whose secret is wrong get the same answer, after the same work.
4. An address whose keys were refused too often may not have us look up more of them; keys that are in use go on.
5. That a key was used is noted beside the request, seldom, and never in its way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request

from rayhaul import keys
from rayhaul.errors import Forbidden, RayhaulError, Unauthorized
from rayhaul.job import utc
from rayhaul.ledger.base import ApiKey, Ledger, Scope, Viewer
from serve_app import limits
from serve_app.limits import Limiter
from serve_app.visit import visit_of

#: Keys remembered at once; the longest known goes first.
_KEYS_MAX = 4096
#: Looks at once for keys that were never found: who makes keys up waits for others of the kind, nobody else does.
_STRANGERS_MAX = 4
#: A use is noted when the last one noted is older than this.
USE_NOTED_EVERY = timedelta(minutes=10)

_LOOKING = frozenset({"GET", "HEAD"})

#: The page's cookie holds an API key; the header says that the page asks.
COOKIE = "rayhaul"
PAGE_HEADER = "x-rayhaul-page"

NoteUse = Callable[[Mapping[str, datetime]], Awaitable[None]]


class Keyring:
    """Checks keys. A revoked key is refused everywhere after `keep_s`; an expired one at once."""

    def __init__(self, ledger: Ledger, note_use: NoteUse, *, keep_s: float, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._note_use = note_use
        self._keep_s = keep_s
        self._clock = clock
        #: By key id: the record (None: there is no such key) and until when it is believed, Unix seconds. What nobody
        #: has is remembered apart, so that it pushes out no key.
        self._known: dict[str, tuple[ApiKey | None, float]] = {}
        self._unknown: dict[str, tuple[ApiKey | None, float]] = {}
        self._strangers = asyncio.Semaphore(_STRANGERS_MAX)
        #: When the use of a key was last noted from here.
        self._noted: dict[str, datetime] = {}
        self._noting: set[asyncio.Task[None]] = set()

    async def key(self, authorization: str | None, admit: Callable[[], None] | None = None) -> ApiKey:
        """Return the key that the `Authorization` header holds (RFC 6750 2.1).

        `admit` is called before the ledger is asked for a key that was never found in it.

        Raises: Unauthorized; Unavailable; what `admit` raises.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized
        key_id, secret_sha256 = keys.parse(text.strip())
        record = await self._record(key_id, admit)
        if not keys.matches(record, secret_sha256) or record is None:
            raise Unauthorized
        now = utc(self._clock())
        keys.check(record, now)
        self._used(record, now)
        return record

    def forget(self, key_id: str) -> None:
        """Read the key anew next time: it was changed here."""
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)

    async def _record(self, key_id: str, admit: Callable[[], None] | None) -> ApiKey | None:
        known = self._known.get(key_id) or self._unknown.get(key_id)
        if known is not None and self._clock() < known[1]:
            return known[0]
        if key_id in self._known:
            record = await self._ledger.key(key_id)
        else:
            if admit is not None:
                admit()
            async with self._strangers:
                record = await self._ledger.key(key_id)
        self.forget(key_id)
        kept = self._known if record is not None else self._unknown
        kept[key_id] = (record, self._clock() + self._keep_s)
        if len(kept) > _KEYS_MAX:
            del kept[next(iter(kept))]
        return record

    def _used(self, record: ApiKey, now: datetime) -> None:
        last = max(filter(None, (record.last_used_at, self._noted.get(record.key_id))), default=None)
        if last is not None and now - last < USE_NOTED_EVERY:
            return
        self._noted.pop(record.key_id, None)
        self._noted[record.key_id] = now
        if len(self._noted) > _KEYS_MAX:
            del self._noted[next(iter(self._noted))]
        task = asyncio.create_task(self._note(record.key_id, now))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _note(self, key_id: str, now: datetime) -> None:
        # The next use after a while is noted again; until then nobody misses this one.
        with suppress(RayhaulError):
            await self._note_use({key_id: now})


def authorization_of(request: Request) -> str | None:
    """Return the `Authorization` header, or in its place what the page's cookie stands for.

    Raises: Forbidden where the cookie alone asks for a change and the page does not (serve_app/session.py, law 2).
    """
    said = request.headers.get("authorization")
    cookie = request.cookies.get(COOKIE)
    if said is not None or cookie is None:
        return said
    if request.method not in _LOOKING and not is_the_page(request):
        raise Forbidden("only the page itself may ask for this with its cookie")
    return f"Bearer {cookie}"


def is_the_page(request: Request) -> bool:
    """Whether the page asks, and not one of another site. Older browsers do not tell where a request comes from."""
    is_from_here = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
    return is_from_here and PAGE_HEADER in request.headers


async def key_of(request: Request) -> ApiKey:
    """Return the key of who asks. Raises: Unauthorized, RateLimited, Forbidden."""
    keyring: Keyring = request.app.state.keyring
    limiter: Limiter = request.app.state.limiter
    visit = visit_of(request.scope)
    key = await _good_key(request, keyring, limiter)
    visit.user_id = key.user_id
    visit.rate = limiter.take(key.key_id)
    limits.check(visit.rate)
    needed = Scope.READ if request.method in _LOOKING else Scope.WRITE
    if needed not in key.scopes:
        raise Forbidden(f"the API key has not the scope {needed}")
    return key


async def _good_key(request: Request, keyring: Keyring, limiter: Limiter) -> ApiKey:
    address = limits.address_of(request)
    if address is None:
        return await keyring.key(authorization_of(request))
    refused = f"refused {address}"
    try:
        return await keyring.key(authorization_of(request), lambda: limits.check(limiter.look(refused)))
    except Unauthorized:
        limiter.take(refused)
        raise


async def caller(request: Request) -> Viewer:
    """Return who asks, with a key that may. Raises: Unauthorized, RateLimited, Forbidden."""
    key = await key_of(request)
    return Viewer(key.user_id, key.role)


async def operator(request: Request) -> Viewer:
    """Return who asks, an operator. Raises: Unauthorized, RateLimited, Forbidden."""
    viewer = await caller(request)
    if not viewer.sees_all:
        raise Forbidden
    return viewer


KeyHeld = Annotated[ApiKey, Depends(key_of)]
Caller = Annotated[Viewer, Depends(caller)]
Operator = Annotated[Viewer, Depends(operator)]
