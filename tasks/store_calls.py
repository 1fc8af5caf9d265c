"""The store's control calls: boto3 in a few threads, tried again with backoff, its errors turned into ours.

Laws of this file:
1. What boto3 and the store say is turned into our errors in `classify`, and nowhere else; the sink's PUTs use it too.
2. boto3 itself never tries again; `StoreCalls.call` does, and counts every try.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
from multidict import CIMultiDict

from rayhaul.errors import SinkBusy, SinkError, SinkRefused, UploadLost
from rayhaul.metrics import SINK_REQUESTS, SINK_RETRIES_EXHAUSTED, Meter
from rayhaul.policy.retry import HELD_WAIT_S_MAX, RetryBudget, wait_s
from rayhaul.settings import S3Settings, TransferSettings
from tasks.signing import Credentials, presigned_put
from tasks.source import retry_after_s

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
#: Long enough to wait for a free connection; each try signs anew.
_PRESIGNED_EXPIRES_S = 3600

#: 4xx codes that another try can cure, on AWS, R2 or SeaweedFS.
_BUSY = frozenset(
    {
        "BadDigest",
        "ClientDisconnect",
        "ConditionalRequestConflict",
        "ExpiredRequest",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "TooManyRequests",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
#: Another try of the same control call cannot cure these, another run of the lease can: it looks at the parts again.
_BY_NEXT_LEASE = frozenset({"BadDigest", "InvalidPart", "InvalidPartOrder"})
_OUR_FAULTS = (
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)


_PRECONDITION_FAILED = 412


class Refusal(Exception):
    """A store's error answer, or none at all (`code` empty), before it is raised as one of our errors."""

    def __init__(self, code: str, error: SinkError) -> None:
        self.code = code
        self.error = error
        super().__init__(code)

    @property
    def is_absence(self) -> bool:
        """Whether there is just no such object or bucket ("404": a HEAD's answer has no body)."""
        return self.code in {"404", "NoSuchKey", "NoSuchBucket"}


class Overtaken(SinkBusy):
    """Another object stands under the key than the one that was to be replaced."""


def classify(code: str, status: int, *, text: str = "", retry_after_s: float | None = None) -> SinkError:
    """Return what a store's error means. `status` 0: it never answered; `code` empty: it did not say.

    Sources: S3, "Error responses"; R2, "Error codes". The status alone is not enough: R2 answers 400 when a body was
    cut on its way, which is worth another try.
    """
    told = f"{code or 'no error code'} (HTTP {status}) {text}".strip()
    if code == "NoSuchUpload":
        return UploadLost(f"The upload is gone: {told}")
    if status == _PRECONDITION_FAILED or code == "NoSuchKey":
        return Overtaken(f"Somebody else published: {told}")
    if status in {301, 307, 308}:
        return SinkRefused(f"The bucket is elsewhere; check endpoint and region: {told}")
    if status == 0 or code in _BUSY or code in _BY_NEXT_LEASE or status in {408, 429}:
        return SinkBusy(f"The bucket is busy: {told}", retry_after_s=retry_after_s)
    if (status >= 500 and status != 501) or (status == 400 and not code):
        return SinkBusy(f"The bucket failed: {told}", retry_after_s=retry_after_s)
    return SinkRefused(f"The bucket refuses: {told}", status=status)


class StoreCalls:
    """boto3's client for one bucket's store, and the threads its calls run in."""

    def __init__(
        self, s3: S3Settings, *, meter: Meter, retries: TransferSettings, answer_timeout_s: float, rng: Random
    ) -> None:
        self._s3 = s3
        self._meter = meter
        self._retries = retries
        self._answer_timeout_s = answer_timeout_s
        self._rng = rng
        #: One for all that this process asks of the store, PUTs included.
        self.budget = RetryBudget(tokens_max=retries.retries_at_once_max, refill_per_s=retries.retries_per_s)
        self._threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        self._threads = ThreadPoolExecutor(self._s3.threads_max, thread_name_prefix="sink")
        # Making a client reads megabytes of JSON.
        await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self.client)

    async def close(self) -> None:
        """Wait for calls under way, within their timeouts, and close their connections."""
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        if "client" in self.__dict__:
            self.client.close()

    async def presign_put(self, key: str, *, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        """Return a URL for one PUT with these headers, among the next hour's. Raises: SinkError."""
        presign = partial(self._presigned, key, query, headers)
        if self._s3.access_key_id is not None:
            return presign()
        # boto3's own credential chain may have to ask for fresh credentials.
        return await self.told("presign", presign)

    async def presign_get(self, bucket: str, key: str) -> str:
        """Return a URL for one GET of an object in any bucket, among the next hour's. Raises: Refusal."""
        presign = partial(
            self.client.generate_presigned_url,
            "get_object",
            Params={"Bucket": bucket, "Key": key},
            ExpiresIn=_PRESIGNED_EXPIRES_S,
        )
        return await self.call("presign", presign)

    def _presigned(self, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
        return presigned_put(
            self._base_url,
            key,
            query=query,
            headers=headers,
            credentials=Credentials(
                access_key_id=frozen.access_key or "",
                secret_access_key=frozen.secret_key or "",
                session_token=frozen.token,
            ),
            region=self._region,
            now=datetime.now(UTC),
            expires_s=_PRESIGNED_EXPIRES_S,
        )

    @cached_property
    def _region(self) -> str:
        return self.client.meta.region_name

    @cached_property
    def _base_url(self) -> str:
        """What stands before the key in an object's URL."""
        sample = self.client.generate_presigned_url("get_object", Params={"Bucket": str(self._s3.bucket), "Key": "k"})
        return sample.partition("?")[0].removesuffix("k")

    @cached_property
    def _session(self) -> boto3.session.Session:
        secret = self._s3.secret_access_key
        return boto3.session.Session(
            region_name=self._s3.region,
            aws_access_key_id=self._s3.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret is not None else None,
        )

    @cached_property
    def client(self) -> "S3Client":
        # Without an endpoint it is AWS, where the bucket's own host name leads to its region at once; a name with
        # dots has no certificate there.
        is_path = self._s3.endpoint_url is not None or "." in str(self._s3.bucket)
        return self._session.client(
            "s3",
            endpoint_url=self._s3.endpoint_url,
            config=Config(
                signature_version="s3v4",
                # The default adds checksums in ways that R2 refuses.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path" if is_path else "virtual"},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=self._answer_timeout_s,
                max_pool_connections=self._s3.threads_max,
                proxies={},
            ),
        )

    async def told(self, operation: str, call: Callable[[], T]) -> T:
        """Make a control call. Raises: SinkError."""
        try:
            return await self.call(operation, call)
        except Refusal as refusal:
            raise refusal.error from refusal

    async def call(self, operation: str, call: Callable[[], T]) -> T:
        """Make a control call, again and again where that may help, soon. Raises: Refusal."""
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
            except (ClientError, BotoCoreError) as err:
                refusal = _refusal(operation, err)
                self._meter.inc(SINK_REQUESTS, operation, "absent" if refusal.is_absence else refusal.error.code)
                if not isinstance(refusal.error, SinkBusy) or refusal.code in _BY_NEXT_LEASE:
                    raise refusal from err
                if attempt >= self._retries.part_attempts_max:
                    self._meter.inc(SINK_RETRIES_EXHAUSTED)
                    raise refusal from err
                backoff_s = wait_s(refusal.error.failure(), attempt=attempt, settings=self._retries, rng=self._rng)
                delay_s = max(backoff_s, self.budget.take(asyncio.get_running_loop().time()))
                if delay_s > HELD_WAIT_S_MAX:
                    raise refusal from err
            else:
                self._meter.inc(SINK_REQUESTS, operation, "ok")
                self.budget.succeeded()
                return answer
            await asyncio.sleep(delay_s)


def _refusal(operation: str, err: ClientError | BotoCoreError) -> Refusal:
    if isinstance(err, ClientError):
        told = err.response.get("Error", {})
        about = err.response.get("ResponseMetadata", {})
        code = told.get("Code", "")
        error = classify(
            # Of an answer without a body, botocore gives the status for a code.
            "" if code.isdigit() else code,
            about.get("HTTPStatusCode", 0),
            text=f"{operation}: {told.get('Message', '')}",
            retry_after_s=retry_after_s(CIMultiDict(about.get("HTTPHeaders", {}))),
        )
        return Refusal(code, error)
    if isinstance(err, _OUR_FAULTS):
        return Refusal("", SinkRefused(f"{operation}: {err}"))
    return Refusal("", classify("", 0, text=f"{operation}: {type(err).__name__}"))
