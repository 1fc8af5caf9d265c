"""The ledger and the bucket of a running cluster, read beside it: what stands there, and whether it is right."""

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import sqlalchemy as sa
from botocore.config import Config
from botocore.exceptions import ClientError
from drill_table import Audit
from origin import content_sha256
from pydantic import SecretStr

from rayhaul.errors import Unavailable
from rayhaul.job import FINAL, EventRecord, Job, JobStatus
from rayhaul.ledger import tables
from rayhaul.ledger.base import JobFilter, Role, Viewer
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings, S3Settings

_EVERYTHING = Viewer("drills", Role.OPERATOR)
_ALL = 10_000_000
_READERS = 8
_POLL_S = 0.1

_expected_sha256 = lru_cache(maxsize=1024)(content_sha256)


@dataclass(frozen=True, slots=True)
class Content:
    """What a job's object must be: the origin's content of this seed and size."""

    seed: int
    size_bytes: int

    @property
    def sha256(self) -> str:
        return _expected_sha256(self.seed, self.size_bytes)


def _settings_for(url: str) -> LedgerSettings:
    """Return settings with the key that a cluster on one machine made beside its ledger."""
    path = Path(url.removeprefix("sqlite:///")).with_name("ledger-key")
    return LedgerSettings(secret_key=SecretStr(path.read_text().strip()) if path.exists() else None)


class Books:
    """The ledger, read by its own code with a connection that cannot write."""

    def __init__(self, url: str, secret_key: str | None = None) -> None:
        settings = LedgerSettings(secret_key=SecretStr(secret_key)) if secret_key else _settings_for(url)
        self._runner = asyncio.Runner()
        self._ledger = open_ledger(settings, url, read_only=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._ledger.close())
        self._runner.close()

    def jobs(self) -> dict[str, Job]:
        return {job.id: job for job in self._runner.run(self._ledger.jobs(_EVERYTHING, JobFilter(limit=_ALL)))}

    def job(self, job_id: str) -> Job:
        return self._runner.run(self._ledger.job(_EVERYTHING, job_id))

    def last_seq(self) -> int:
        return self._runner.run(self._ledger.last_seq())

    def events(self, after: int = 0) -> Sequence[EventRecord]:
        return self._runner.run(self._ledger.events_after(_EVERYTHING, after, limit=_ALL))

    def open_ids(self) -> set[str]:
        """Return the jobs that are not final: asked for ten times a second, so by id alone."""
        query = sa.select(tables.jobs.c.id).where(sa.text(tables.OPEN_JOBS))
        return set(self._runner.run(self._ledger._readers.call(lambda connection: connection.scalars(query).all())))

    def await_event(self, name: str, *, after: int, within_s: float, of: Iterable[str] | None = None) -> EventRecord:
        """Return the first event of that name after `after`, of one of these jobs; look until it is there."""
        wanted = None if of is None else set(of)
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            with suppress(Unavailable):
                for event in self.events(after):
                    if event.event == name and (wanted is None or event.job_id in wanted):
                        return event
            time.sleep(_POLL_S)
        raise AssertionError(f"no event {name!r} within {within_s} s")

    def await_handed_back(self, agent: str, *, within_s: float) -> None:
        """Return when an agent holds no lease any more; where others have parts of its jobs, no event tells of it."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            with suppress(Unavailable):
                if all(lease.agent != agent for lease in self._runner.run(self._ledger.state()).leases):
                    return
            time.sleep(_POLL_S)
        raise AssertionError(f"{agent} has leases still after {within_s} s")

    def await_final(self, job_ids: Iterable[str], *, within_s: float, each: Callable[[], None] | None = None) -> None:
        """Return when all these jobs are final; call `each` at every look."""
        wanted = set(job_ids)
        deadline_s = time.monotonic() + within_s
        left = wanted
        while time.monotonic() < deadline_s:
            with suppress(Unavailable):
                left = wanted & self.open_ids()
                if not left:
                    return
            if each is not None:
                each()
            time.sleep(_POLL_S)
        some = [(job_id, str(self.job(job_id).status), self.job(job_id).error) for job_id in sorted(left)[:5]]
        raise AssertionError(f"{len(left)} of {len(wanted)} jobs are not final within {within_s} s: {some}")


class Bucket:
    """The bucket, read with S3's own words."""

    def __init__(self, settings: S3Settings) -> None:
        assert settings.bucket is not None
        assert settings.secret_access_key is not None
        self._bucket = settings.bucket
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key.get_secret_value(),
            region_name=settings.region,
            config=Config(max_pool_connections=_READERS, s3={"addressing_style": "path"}, proxies={}),
        )

    @classmethod
    def embedded(cls, data_dir: Path) -> Self:
        """Return the bucket of the embedded cluster in that directory."""
        identity = json.loads((data_dir / "bucket" / "identity.json").read_text())["identities"][0]
        keys = identity["credentials"][0]
        port = (data_dir / "bucket-ports").read_text().split()[0]
        return cls(
            S3Settings(
                endpoint_url=f"http://127.0.0.1:{port}",
                bucket="rayhaul",
                access_key_id=keys["accessKey"],
                secret_access_key=keys["secretKey"],
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def read(self, key: str) -> tuple[int, str] | None:
        """Return (size, SHA-256) of an object as it is read back, None where there is none."""
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise
        digest, size_bytes = hashlib.sha256(), 0
        with body:
            for piece in body.iter_chunks(1024 * 1024):
                digest.update(piece)
                size_bytes += len(piece)
        return size_bytes, digest.hexdigest()

    def read_all(self, keys: Iterable[str]) -> dict[str, tuple[int, str] | None]:
        wanted = list(keys)
        with ThreadPoolExecutor(_READERS) as threads:
            return dict(zip(wanted, threads.map(self.read, wanted), strict=True))

    def uploads(self) -> list[str]:
        """Return the keys of multipart uploads that are open."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
        return [upload["Key"] for page in pages for upload in page.get("Uploads", [])]


def audit(books: Books, bucket: Bucket, wanted: Mapping[str, Content]) -> Audit:
    """Hold what was answered 201 (job id -> what it must become) against the ledger and the bucket."""
    jobs = books.jobs()
    histories: defaultdict[str, list[EventRecord]] = defaultdict(list)
    for event in books.events():
        if event.job_id in wanted:
            histories[event.job_id].append(event)
    completed = [job_id for job_id in wanted if job_id in jobs and jobs[job_id].status is JobStatus.COMPLETED]
    objects = bucket.read_all(filter(None, (jobs[job_id].key for job_id in completed)))
    return Audit(
        jobs=len(wanted),
        lost=[why for job_id, content in wanted.items() if (why := _lost(jobs.get(job_id), job_id, content, objects))],
        double=[job_id for job_id in wanted if _completions(histories[job_id]) > 1],
        broken=[f"{job_id}: {why}" for job_id in wanted if (why := _broken(histories[job_id])) is not None],
        statuses=Counter(str(jobs[job_id].status) for job_id in wanted if job_id in jobs),
    )


def _lost(job: Job | None, job_id: str, content: Content, objects: Mapping[str, tuple[int, str] | None]) -> str | None:
    if job is None:
        return f"{job_id} is not in the ledger"
    if job.status not in FINAL:
        return f"{job_id} is still {job.status}"
    if job.status is not JobStatus.COMPLETED:
        return None
    found = objects.get(job.key or "")
    if found != (content.size_bytes, content.sha256):
        return f"{job_id} is completed, and its object is {found}, not {(content.size_bytes, content.sha256)}"
    return None


def _completions(history: Sequence[EventRecord]) -> int:
    return sum(event.event == "completed" for event in history)


def _broken(history: Sequence[EventRecord]) -> str | None:
    """Return what is wrong with a history of one life: one beginning, one end, epochs that grow."""
    names = [str(event.event) for event in history]
    if names.count("created") != 1 or names[0] != "created":
        return f"does not begin with one 'created': {names}"
    ends = [name for name in names if name in ("completed", "failed", "cancelled")]
    if len(ends) != 1:
        return f"has {len(ends)} ends: {names}"
    epochs = [event.payload["epoch"] for event in history if event.event == "started"]
    if epochs != sorted(set(epochs)):
        return f"epochs do not grow: {epochs}"
    last = history[-1]
    if last.event == "completed" and last.payload.get("epoch") != epochs[-1]:
        return f"completed under epoch {last.payload.get('epoch')}, the newest is {epochs[-1]}"
    return None
