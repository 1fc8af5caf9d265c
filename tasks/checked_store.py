"""A bucket as the storage check sees it: calls that are made once, PUTs and GETs by presigned links, cleaning up.

Laws of this file:
1. Everything is written under one prefix, and `clean` takes away all of it, whatever became of the checks.
2. Nothing is kept from the checks: a store's refusal reaches them as it was said.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from random import Random
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from rayhaul.errors import SinkError
from rayhaul.metrics import Meter
from rayhaul.settings import S3Settings, TransferSettings
from tasks.sink import Sink
from tasks.store_calls import Refusal, StoreCalls, classify
from tasks.store_puts import error_text

#: Nobody waits for a check as long as a job would.
_ANSWER_TIMEOUT_S = 15.0
#: A store that hiccups once is not broken.
_TRIES = TransferSettings(part_attempts_max=2, retry_base_s=0.5)
_CONNECTIONS_MAX = 4
_LINK_EXPIRES_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A store's answer to a presigned request."""

    status: int
    #: The error's code, empty where there is none.
    code: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers.get("ETag", "").strip('"')

    def expect(self, *statuses: int) -> Self:
        """Return itself where the status is one of these. Raises: Refusal."""
        if self.status in statuses:
            return self
        text = error_text(self.body.decode(errors="replace"), "Message")
        raise Refusal(self.code, classify(self.code, self.status, text=text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A multipart upload of the check's own."""

    key: str
    upload_id: str


class CheckedStore:
    def __init__(self, s3: S3Settings, *, prefix: str) -> None:
        assert s3.bucket is not None, "no bucket is set"
        self.s3 = s3
        self.prefix = prefix
        meter, rng = Meter(), Random()
        self.sink = Sink(
            s3,
            meter=meter,
            connections_max=_CONNECTIONS_MAX,
            retries=_TRIES,
            stall_timeout_s=_ANSWER_TIMEOUT_S,
            rng=rng,
        )
        self._calls = StoreCalls(s3, meter=meter, retries=_TRIES, answer_timeout_s=_ANSWER_TIMEOUT_S, rng=rng)
        self._http: aiohttp.ClientSession | None = None
        self._keys: set[str] = set()
        self._uploads: set[Opened] = set()

    async def __aenter__(self) -> Self:
        await self._calls.start()
        await self.sink.__aenter__()
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        await self._http.close()
        await self.sink.__aexit__(kind, error, trace)
        await self._calls.close()

    def key(self, name: str) -> str:
        """Return a key below the prefix, to be cleaned up."""
        key = f"{self.prefix}{name}"
        self._keys.add(key)
        return key

    async def call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """Make a call by boto3's name of it, for the bucket. Raises: Refusal."""
        method: Callable[..., Mapping[str, Any]] = getattr(self._calls.client, operation)
        return await self._calls.call(operation, partial(method, Bucket=self.sink.bucket, **arguments))

    # --- by links ---

    async def put(self, key: str, data: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """PUT an object by a link, as agents do it. Raises: SinkError."""
        url = await self._calls.presign_put(key, query={}, headers=headers or {})
        return await self._send("PUT", url, headers or {}, data)

    async def put_part(self, upload: Opened, number: int, data: bytes) -> Answer:
        """Raises: SinkError."""
        query = {"uploadId": upload.upload_id, "partNumber": str(number)}
        return await self._send("PUT", await self._calls.presign_put(upload.key, query=query, headers={}), {}, data)

    async def get(self, key: str, *, filename: str = "a.bin", headers: Mapping[str, str] | None = None) -> Answer:
        """GET an object by the link that a user would get. Raises: SinkError."""
        url = self.sink.presign_get(key, filename=filename, expires_s=_LINK_EXPIRES_S)
        return await self._send("GET", url, headers or {}, None)

    async def _send(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> Answer:
        assert self._http is not None, "not entered"
        signed, body = URL(url, encoded=True), None if data is None else BytesIO(data)
        try:
            async with self._http.request(method, signed, headers=headers, data=body, allow_redirects=False) as told:
                read = await told.read()
        except (aiohttp.ClientError, TimeoutError) as err:
            raise classify("", 0, text=f"{method}: {type(err).__name__}") from err
        is_error = told.status >= 300
        code = error_text(read.decode(errors="replace"), "Code") if is_error else ""
        return Answer(status=told.status, code=code, headers=told.headers, body=read)

    # --- uploads ---

    async def open(self, name: str, **options: Any) -> Opened:
        """Open a multipart upload. Raises: Refusal."""
        key = self.key(name)
        answer = await self.call("create_multipart_upload", Key=key, **options)
        return self.opened(key, answer["UploadId"])

    def opened(self, key: str, upload_id: str) -> Opened:
        """Return an upload, to be cleaned up."""
        upload = Opened(key=key, upload_id=upload_id)
        self._uploads.add(upload)
        return upload

    async def complete(self, upload: Opened, etags: Sequence[str], **options: Any) -> Mapping[str, Any]:
        """Complete an upload of the parts with these ETags, from number 1 on. Raises: Refusal."""
        parts = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(etags, start=1)]
        return await self.call(
            "complete_multipart_upload",
            Key=upload.key,
            UploadId=upload.upload_id,
            MultipartUpload={"Parts": parts},
            **options,
        )

    # --- afterwards ---

    async def clean(self) -> Sequence[str]:
        """Take away all that the checks have written; return the keys that are left, of objects and of uploads."""
        left = set()
        with suppress(SinkError):
            for found in await self.sink.list_uploads(self.prefix):
                self.opened(found.key, found.upload_id)
        for upload in self._uploads:
            try:
                await self.sink.abort(upload.key, upload.upload_id)
            except SinkError:
                left.add(upload.key)
        for key in self._keys:
            try:
                await self.sink.delete(key)
            except SinkError:
                left.add(key)
        return sorted(left)
