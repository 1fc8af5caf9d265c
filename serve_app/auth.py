"""Who asks: API keys from the ledger, remembered for a few seconds.

Every route names `Caller` or `Operator`, or is one of the few that are open (tests walk the routes).
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from rayhaul import keys
from rayhaul.errors import Forbidden, Unauthorized
from rayhaul.job import utc
from rayhaul.ledger.base import ApiKey, Ledger, Viewer
from serve_app import limits
from serve_app.limits import Limiter
from serve_app.visit import visit_of

#: Keys remembered at once; the longest known goes first.
_KEYS_MAX = 4096


class Keyring:
    """Checks keys. A revoked key is refused everywhere after `keep_s`; an expired one at once."""

    def __init__(self, ledger: Ledger, *, keep_s: float, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._keep_s = keep_s
        self._clock = clock
        #: By key id: the record (None: there is no such key) and until when it is believed, Unix seconds.
        self._known: dict[str, tuple[ApiKey | None, float]] = {}

    async def key(self, authorization: str | None) -> ApiKey:
        """Return the key that the `Authorization` header holds (RFC 6750 2.1).

        Raises: Unauthorized; Unavailable.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized
        key_id, secret_sha256 = keys.parse(text.strip())
        record = await self._record(key_id)
        if record is None or not keys.matches(record, secret_sha256):
            raise Unauthorized
        keys.check(record, utc(self._clock()))
        return record

    def forget(self, key_id: str) -> None:
        """Read the key anew next time: it was changed here."""
        self._known.pop(key_id, None)

    async def _record(self, key_id: str) -> ApiKey | None:
        known = self._known.get(key_id)
        if known is not None and self._clock() < known[1]:
            return known[0]
        record = await self._ledger.key(key_id)
        self._known.pop(key_id, None)
        self._known[key_id] = (record, self._clock() + self._keep_s)
        if len(self._known) > _KEYS_MAX:
            del self._known[next(iter(self._known))]
        return record


async def caller(request: Request) -> Viewer:
    """Return who asks. Raises: Unauthorized, RateLimited."""
    keyring: Keyring = request.app.state.keyring
    limiter: Limiter = request.app.state.limiter
    key = await keyring.key(request.headers.get("authorization"))
    visit = visit_of(request.scope)
    visit.user_id = key.user_id
    visit.rate = limiter.take(key.key_id)
    limits.check(visit.rate)
    return Viewer(key.user_id, key.role)


async def operator(request: Request) -> Viewer:
    """Return who asks, an operator. Raises: Unauthorized, RateLimited, Forbidden."""
    viewer = await caller(request)
    if not viewer.sees_all:
        raise Forbidden
    return viewer


Caller = Annotated[Viewer, Depends(caller)]
Operator = Annotated[Viewer, Depends(operator)]
