"""HTTP exchanges with the API: headers, bounded retries, and the one place that reads aiohttp's errors.

Laws of this file:
1. A request is sent again only when that is safe: its method is idempotent, or it carries an Idempotency-Key, or the
   first never left, or was answered by a refusal to take it.
2. The key goes to the API and nowhere else: redirects are not followed.
3. One call has one correlation id, whatever number of requests it takes.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp

from rayhaul import ids
from rayhaul.client.endpoint import Endpoint
from rayhaul.client.errors import ApiError, ConnectionFailed, api_error
from rayhaul.client.retries import BACKOFF_S, RETRY_AFTER_S_MAX, backoff_s, retry_after_s

IDEMPOTENCY_KEY = "Idempotency-Key"
CORRELATION_ID = "X-Correlation-ID"

#: The largest answers are pages of a thousand jobs with 8 KB URLs and batches of ten thousand ids; thrice that.
ANSWER_BYTES_MAX = 32 * 1024 * 1024

#: Three of the stream's comments (one each 15 s) did not come: the connection is dead.
STREAM_SILENCE_S = 45.0

#: Sockets of one client. Each job that is waited for holds one, so aiohttp's own 100 would be felt.
CONNECTIONS_MAX = 1000

#: RFC 9110 9.2.2, those that the API uses.
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})

_BUSY = frozenset({502, 503, 504})

#: The request never left.
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

#: What aiohttp raises where there is no answer (ClientError), where it takes too long, and where a socket breaks.
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    correlation_id: str

    @property
    def error(self) -> ApiError:
        return api_error(self.status, self.body, self.headers.get(CORRELATION_ID, self.correlation_id))


def connection_failed(error: Exception, url: str) -> ConnectionFailed:
    """Return our word for an exchange without an answer: aiohttp's errors are read here only."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            reason = "its name does not resolve"
        case aiohttp.ClientConnectorCertificateError():
            reason = "its certificate is not accepted"
        case aiohttp.ClientConnectorError():
            # asyncio puts the address into `strerror`, which is said already.
            reason = os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
        case TimeoutError():
            reason = "no answer in time"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | ConnectionError():
            reason = "the connection was cut"
        case _:
            reason = str(error) or type(error).__name__
    return ConnectionFailed(f"cannot reach {url}: {reason}")


def pause_before_retry_s(answer: Answer, failures: int, *, is_repeatable: bool) -> float | None:
    """Return how long to wait before the same request is sent again; None where it must not be."""
    asked_s = retry_after_s(answer.headers.get("Retry-After"), time.time())
    if asked_s is not None and asked_s > RETRY_AFTER_S_MAX:
        return None
    if answer.status == 429:
        # A quota is not used up less in a minute.
        return (
            None if asked_s is None or answer.error.code == "quota_exceeded" else asked_s + random.random() * BACKOFF_S
        )
    if answer.status in _BUSY and is_repeatable:
        return max(asked_s or 0.0, backoff_s(failures, random.random()))
    return None


class Transport:
    def __init__(self, endpoint: Endpoint, *, timeout_s: float, retries_max: int) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self.retries_max = retries_max
        #: By whether the environment's proxy is asked: never for this machine, whatever HTTP_PROXY says.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def session(self, url: str) -> aiohttp.ClientSession:
        """Return the session for `url`, which knows no key."""
        is_remote = not _is_loopback(urlsplit(url).hostname or "")
        if is_remote not in self._sessions:
            self._sessions[is_remote] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX), trust_env=is_remote
            )
        return self._sessions[is_remote]

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer below 300, after as many retries as are safe and allowed.

        Raises: ApiError, ConnectionFailed.
        """
        sent = self._headers(headers)
        is_repeatable = method in _IDEMPOTENT or IDEMPOTENCY_KEY in sent
        failures = 0
        while True:
            failures += 1
            try:
                answer = await self._exchange(method, path, params, body, sent)
            except _NO_ANSWER as err:
                is_safe = is_repeatable or isinstance(err, _NOT_SENT)
                if failures > self.retries_max or not is_safe:
                    raise connection_failed(err, self.endpoint.url) from err
                pause_s: float | None = backoff_s(failures, random.random())
            else:
                if answer.status < 300:
                    return answer
                pause_s = pause_before_retry_s(answer, failures, is_repeatable=is_repeatable)
                if failures > self.retries_max or pause_s is None:
                    raise self._refusal(answer)
            await asyncio.sleep(pause_s or 0.0)

    async def probe(self, path: str) -> Answer:
        """Return the answer to one GET of an open route, whatever its status; it needs no key and gets none.

        Raises: ConnectionFailed.
        """
        try:
            return await self._exchange("GET", path, None, None, {CORRELATION_ID: ids.correlation_id(None)})
        except _NO_ANSWER as err:
            raise connection_failed(err, self.endpoint.url) from err

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an event stream; no retries here, for who reads it knows where to go on.

        Raises: ApiError, ConnectionFailed; the latter also where the stream breaks while it is read.
        """
        url = self.endpoint.url + path
        sent = self._headers(headers)
        timeout = aiohttp.ClientTimeout(sock_connect=self.timeout_s, sock_read=STREAM_SILENCE_S)
        try:
            async with self.session(url).get(url, headers=sent, timeout=timeout, allow_redirects=False) as response:
                if response.status not in {200, 204}:
                    raise self._refusal(await _answer(response, sent))
                yield response
        except _NO_ANSWER as err:
            raise connection_failed(err, self.endpoint.url) from err

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        headers = {"Accept": "application/json", **(more or {})}
        headers[CORRELATION_ID] = ids.correlation_id(headers.get(CORRELATION_ID))
        if self.endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {self.endpoint.api_key}"
        return headers

    async def _exchange(
        self, method: str, path: str, params: Mapping[str, str] | None, body: str | None, headers: dict[str, str]
    ) -> Answer:
        url = self.endpoint.url + path
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        async with self.session(url).request(
            method,
            url,
            params=params,
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            allow_redirects=False,
        ) as response:
            return await _answer(response, headers)

    def _refusal(self, answer: Answer) -> ApiError | ConnectionFailed:
        if answer.status >= 400:
            return answer.error
        target = answer.headers.get("Location", "elsewhere")
        return ConnectionFailed(f"{self.endpoint.url} sends us on to {target}: set RAYHAUL_URL to where the API is")


async def _answer(response: aiohttp.ClientResponse, sent: Mapping[str, str]) -> Answer:
    body = bytearray()
    async for received in response.content.iter_any():
        body += received
        if len(body) > ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return Answer(
        status=response.status, headers=response.headers, body=bytes(body), correlation_id=sent[CORRELATION_ID]
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
