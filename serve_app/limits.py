"""How often each key may ask this replica, or each address where there is no good key, and the headers that tell.

Source of the headers: draft-ietf-httpapi-ratelimit-headers-10.

Each replica counts for itself and grants an equal share of the rate: requests are spread evenly over replicas, and no
request waits for a count that is kept elsewhere.
"""

import math
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import Request

from rayhaul.errors import RateLimited
from rayhaul.metrics import RATE_LIMIT_HITS, Meter
from rayhaul.policy.rate_limit import Rate, Verdict, take
from rayhaul.settings import ApiSettings

POLICY = "requests"
_WINDOW_S = 60
#: Keys counted before those that have their whole burst again are forgotten.
_KEYS_MAX = 4096


class AskedTooOften(RateLimited):
    """Asked too often; wait and try again."""


class Limiter:
    def __init__(self, settings: ApiSettings, *, meter: Meter, clock: Callable[[], float]) -> None:
        share = max(1, settings.rate_per_minute // settings.replicas)
        self._rate = Rate(requests=share, window_s=_WINDOW_S)
        self._meter = meter
        self._clock = clock
        #: By key id, or address.
        self._full_at_s: dict[str, float] = {}

    def take(self, who: str) -> Verdict:
        """Count a request of a key or an address; the verdict may be that it is one too many."""
        now_s = self._clock()
        verdict = take(self._rate, self._full_at_s.get(who), now_s)
        self._full_at_s[who] = verdict.full_at_s
        if len(self._full_at_s) > _KEYS_MAX:
            self._full_at_s = {known: full_at_s for known, full_at_s in self._full_at_s.items() if full_at_s > now_s}
        if not verdict.allowed:
            self._meter.inc(RATE_LIMIT_HITS)
        return verdict

    def look(self, who: str) -> Verdict:
        """Return what `take` would, and count nothing."""
        return take(self._rate, self._full_at_s.get(who), self._clock())

    def headers(self, verdict: Verdict) -> tuple[tuple[bytes, bytes], ...]:
        """Return the header fields: the policy, what is left of it, and in how many seconds it is whole again."""
        policy = f'"{POLICY}";q={self._rate.requests};w={_WINDOW_S}'
        left = f'"{POLICY}";r={verdict.remaining};t={math.ceil(verdict.reset_s)}'
        return (b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())


def check(verdict: Verdict) -> None:
    """Raises: AskedTooOften, with the time to wait."""
    if not verdict.allowed:
        raise AskedTooOften(retry_after_s=verdict.retry_after_s)


def address_of(request: Request) -> str | None:
    """Return who asks by what the last proxy says of its peer; None where none says it: then all come from the ingress.

    Whoever reaches the API with no such proxy between can make one up, and is as little held back as before. Of IPv6 it
    is the network, for whoever has one address there has all of them (RFC 6177).
    """
    named = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        address = ip_address(named)
    except ValueError:
        return None
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)
