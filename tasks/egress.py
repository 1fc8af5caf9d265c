"""The one client through which anything on behalf of a user leaves the cluster: sources, redirects, mirrors, webhooks.

Laws of this file:
1. Every URL passes `AddressGuard.check_url`, every name is refused when any of its addresses is bad, every socket is
   checked on the address it is about to connect to, and every connection on the address it has, before a request is
   written to it. A name that changes its answer between two of these gains nothing.
2. Redirects are followed here, one checked hop at a time. What the caller said is for the origin it was said to.
3. What aiohttp, TLS and the system raise is turned into our errors in `answer.classify`, and nowhere else.
"""

import asyncio
import base64
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Self

import aiohttp
import psutil
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from rayhaul.errors import (
    SourceBusy,
    SourceRefused,
)
from rayhaul.metrics import EGRESS_DENIED, Meter
from rayhaul.origins import host_of
from rayhaul.policy.retry import RetryBudget
from rayhaul.redaction import redacted
from rayhaul.settings import EgressSettings, SourceSettings, TransferSettings
from tasks.answer import Answer, Phase, RefusedByGuard, classify
from tasks.guard import AddressGuard, Denied, check_headers
from tasks.names import Names

_log = logging.getLogger(__name__)

_NOTHING: Mapping[str, str] = MappingProxyType({})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Origins whose second tries are counted, the first known being forgotten first.
_BUDGETS_MAX = 1000
#: Short, so that an answer that was good once does not stay good for long.
_DNS_CACHE_S = 10
#: Kept connections to an origin that turn out to be of no use, before it is given up.
_CONNECTIONS_TRIED_MAX = 8
#: The host of the request that is being connected; socket factories are told addresses only.
_connecting_host: ContextVar[str] = ContextVar("rayhaul_egress_host", default="")
#: Where the connector puts the TLS session of the request under way: aiohttp may have let go of it by the headers.
_tls_sessions: ContextVar[list[ssl.SSLObject]] = ContextVar("rayhaul_egress_tls")


class GuardedResolver(AbstractResolver):
    """Refuses a name when any of its addresses may not be fetched: the next try might take that one."""

    def __init__(self, guard: AddressGuard, inner: AbstractResolver, *, timeout_s: float) -> None:
        self._guard = guard
        self._inner = inner
        self._timeout_s = timeout_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(self._timeout_s):
            records = await self._inner.resolve(host, port, family)
        if not records:
            raise OSError(None, "the name has no address")
        try:
            for record in records:
                self._guard.check_address(record["host"], port, host)
        except Denied as denied:
            raise RefusedByGuard(denied) from None
        return records

    async def close(self) -> None:
        await self._inner.close()


class GuardedConnector(aiohttp.TCPConnector):
    """Checks the address of each socket before it connects, and of each connection before it is used."""

    def __init__(
        self, guard: AddressGuard, resolver: AbstractResolver, *, tls: ssl.SSLContext | None = None, limit: int = 0
    ) -> None:
        self._guard = guard
        super().__init__(
            resolver=resolver,
            ttl_dns_cache=_DNS_CACHE_S,
            limit=limit,
            socket_factory=self._checked_socket,
            ssl=tls or True,
        )

    def _checked_socket(self, info: AddrInfoType) -> socket.socket:
        family, kind, proto, _, address = info
        try:
            self._guard.check_address(str(address[0]), int(address[1]), _connecting_host.get())
        except Denied as denied:
            raise RefusedByGuard(denied) from None
        return socket.socket(family, kind, proto)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's name
    ) -> Connection:
        token = _connecting_host.set(req.host)
        try:
            connection = await super().connect(req, traces, timeout)
            for _ in range(_CONNECTIONS_TRIED_MAX):
                if connection.protocol is None or not connection.protocol.should_close:
                    break
                # While nobody asked, it brought something: that would be taken for the answer.
                connection.close()
                connection = await super().connect(req, traces, timeout)
            else:
                connection.close()
                raise aiohttp.ClientConnectionError("each connection brings what nobody asked for")
        finally:
            _connecting_host.reset(token)
        try:
            peer = connection.transport.get_extra_info("peername") if connection.transport else None
            if peer is None:
                raise aiohttp.ServerDisconnectedError
            self._guard.check_address(peer[0], peer[1], req.host)
            tls = connection.transport.get_extra_info("ssl_object") if connection.transport else None
            if tls is not None:
                _tls_sessions.get([]).append(tls)
        except BaseException:
            connection.close()
            raise
        return connection


class GuardedClient:
    """One per process, shared by all jobs. The session is made at the first use, on the loop that uses it."""

    def __init__(
        self,
        egress: EgressSettings,
        source: SourceSettings,
        *,
        connections_max: int,
        meter: Meter,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`resolver` asks for names (default: the system's); `tls` trusts what the system does not.

        Raises: ValueError where `egress.allow` cannot be read.
        """
        #: Read by the probe, which has a limit of its own.
        self.source = source
        self.guard = AddressGuard(egress, own_addresses=_own_addresses())
        self._egress = egress
        self._meter = meter
        #: Asked by all that connects to sources in this process.
        self.names = resolver or Names()
        self._tls = tls
        #: For all connections to sources. Waiting for one is no fault of the source's: it is done outside the timeouts.
        self.slots = asyncio.Semaphore(connections_max)
        self._session: aiohttp.ClientSession | None = None
        self._budgets: dict[str, RetryBudget] = {}

    def budget_of(self, url: str, retries: TransferSettings) -> RetryBudget:
        """Return what the origin of a URL is asked to bear of second tries, by all in this process."""
        origin = host_of(url)
        while len(self._budgets) >= _BUDGETS_MAX and origin not in self._budgets:
            del self._budgets[next(iter(self._budgets))]
        return self._budgets.setdefault(
            origin, RetryBudget(tokens_max=retries.retries_at_once_max, refill_per_s=retries.retries_per_s)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.names.close()

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str] = _NOTHING, extra: Mapping[str, str] = _NOTHING
    ) -> AsyncIterator[Answer]:
        """GET a URL, redirects followed, once one of `connections_max` slots is free.

        `headers` are the caller's and stay with the first origin; `extra` are ours and go along.
        Raises: InvalidRequest, EgressDenied, SourceUnreachable, SourceTimeout, SourceFailed, SourceRefused.
        """
        async with self.slots, self.open_now(url, headers=headers, extra=extra) as answer:
            yield answer

    @asynccontextmanager
    async def open_now(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = _NOTHING,
        extra: Mapping[str, str] = _NOTHING,
        post: bytes | None = None,
    ) -> AsyncIterator[Answer]:
        """The same without waiting for a slot: for short exchanges whose callers bound them (probes, webhooks).

        With `post` it is a POST of these bytes, and redirects are answers, not followed.
        """
        check_headers(headers)
        try:
            answer = await (
                self._follow(url, headers, extra)
                if post is None
                else self._send("POST", self.guard.check_url(url), headers, extra, post)
            )
        except Denied as denied:
            self._meter.inc(EGRESS_DENIED, denied.reason)
            _log.warning("egress denied (%s): %s", denied.reason, redacted(url), extra={"code": denied.code})
            raise
        try:
            yield answer
        except SourceBusy as busy:
            busy.host = busy.host or host_of(answer.final_url)
            raise
        finally:
            answer.close()

    async def _follow(self, url: str, headers: Mapping[str, str], extra: Mapping[str, str]) -> Answer:
        target = self.guard.check_url(url)
        visited: set[URL] = set()
        for count in range(self._egress.redirects_max + 1):
            answer = await self._send("GET", target, headers, extra)
            answer.redirects_count = count
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            answer.close()
            visited.add(target)
            following = self.guard.check_redirect(target, location)
            if following in visited:
                raise SourceRefused("The source redirects in a circle.")
            if _origin(following) != _origin(target):
                headers = _NOTHING
            target = following
        raise SourceRefused("The source redirects too often.")

    async def _send(
        self, method: str, target: URL, headers: Mapping[str, str], extra: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        limit_s = self._egress.dns_timeout_s + self.source.connect_timeout_s + self.source.first_byte_timeout_s
        sessions: list[ssl.SSLObject] = []
        token = _tls_sessions.set(sessions)
        try:
            async with asyncio.timeout(limit_s):
                response = await self._started().request(
                    method,
                    target.with_user(None),
                    headers=self._headers(target, headers, extra),
                    data=body,
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, OSError) as err:
            raise classify(err, Phase.HEADERS, target.raw_host or "") from err
        finally:
            _tls_sessions.reset(token)
        tls = sessions[-1] if sessions else None
        return Answer(response, self._meter, stall_timeout_s=self.source.stall_timeout_s, tls=tls)

    def _headers(self, target: URL, headers: Mapping[str, str], extra: Mapping[str, str]) -> CIMultiDict[str]:
        merged = CIMultiDict({"User-Agent": self.source.user_agent, "Accept": "*/*"})
        if target.user is not None or target.password is not None:
            pair = f"{target.user or ''}:{target.password or ''}".encode()
            merged["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        merged.update(headers)
        merged.update(extra)
        # Ranges count coded bytes, and a digest is of what the file is, so nothing may be coded on the way.
        merged["Accept-Encoding"] = "identity"
        return merged

    def _started(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = GuardedResolver(self.guard, self.names, timeout_s=self._egress.dns_timeout_s)
            self._session = aiohttp.ClientSession(
                connector=GuardedConnector(self.guard, resolver, tls=self._tls),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self.source.connect_timeout_s,
                    sock_read=self.source.first_byte_timeout_s,
                ),
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=self.source.read_buffer_bytes,
            )
        return self._session


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    """Return what RFC 6454 4 calls the origin."""
    return (url.scheme, url.raw_host, url.port)


def _own_addresses() -> frozenset[str]:
    """Return the IP addresses of this machine's interfaces, without zone ids."""
    found = (address for addresses in psutil.net_if_addrs().values() for address in addresses)
    return frozenset(
        address.address.partition("%")[0] for address in found if address.family in {socket.AF_INET, socket.AF_INET6}
    )
