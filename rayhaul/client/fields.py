"""What is asked for: Python's names and values become the requests of rayhaul.wire."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from rayhaul.client.errors import BadRequest
from rayhaul.job import Priority
from rayhaul.wire import JobRequest

Model = TypeVar("Model", bound=BaseModel)

#: Jobs of one request: large enough to be quick, small enough that a retry costs little.
BATCH_JOBS = 1000

PAGE_JOBS = 100
#: Where only a few of those on a page are wanted.
LONG_PAGE_JOBS = 1000

#: A job of a batch: its URL, or its fields (`url` among them) in snake or camel case.
JobSource = str | Mapping[str, Any]


class JobFields(TypedDict, total=False):
    """What may be said of a job besides its URL. None is the same as not said."""

    mirrors: Sequence[str] | None
    #: Object key wanted in the bucket.
    key: str | None
    filename: str | None
    #: Sent to the source; never shown again.
    headers: Mapping[str, str] | None
    #: `sha256:hex`, `sha512:hex`, `md5:hex`, `crc64nvme:base64` or `crc32c:base64`.
    checksum: str | None
    #: Have the SHA-256 in the receipt, also where there is none to compare with.
    compute_sha256: bool | None
    priority: Priority | Literal["low", "normal", "high"] | None
    tags: Mapping[str, str] | None
    webhook: str | None
    connections: int | None
    bandwidth_bytes_per_second: int | None
    #: Without a zone it is this machine's local time, as everywhere in Python.
    not_before: datetime | None
    size_bytes_max: int | None
    dedupe: bool | None
    refresh_webhook: str | None


def request(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Return the request with these fields, named in snake or camel case; None is the same as not said.

    Raises: BadRequest where a name or a value is wrong; the values themselves, which may be secret, are not repeated.
    """
    said = {to_camel(name): value for name, value in fields.items() if value is not None}
    for name, value in said.items():
        if isinstance(value, datetime):
            said[name] = value.astimezone()
    try:
        return model.model_validate(said)
    except ValidationError as err:
        wrong = tuple(
            {"field": ".".join(map(str, error["loc"])), "message": error["msg"]}
            for error in err.errors(include_url=False, include_context=False, include_input=False)
        )
        raise BadRequest("invalid_request", 422, "The request cannot be understood.", None, wrong) from None


def job_requests(jobs: Sequence[JobSource]) -> list[JobRequest]:
    """Raises: BadRequest."""
    return [request(JobRequest, {"url": job} if isinstance(job, str) else job) for job in jobs]


def new_idempotency_key() -> str:
    return str(uuid.uuid4())


def batch_idempotency_key(idempotency_key: str, batch_index: int) -> str:
    """Return the key of one batch of many: the same list, sent again in the same batches, is submitted once."""
    return f"{idempotency_key}-{batch_index}"


async def batches(
    jobs: Iterable[JobSource] | AsyncIterable[JobSource], size: int
) -> AsyncGenerator[list[JobSource], None]:
    """Yield lists of `size`, the last one shorter, reading no further ahead than that."""
    if isinstance(jobs, str | Mapping):
        raise TypeError("this takes many jobs; for one there is `submit`")
    if isinstance(jobs, Iterable):
        iterator = iter(jobs)
        while batch := list(islice(iterator, size)):
            yield batch
        return
    batch = []
    async for job in jobs:
        batch.append(job)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
