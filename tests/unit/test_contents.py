"""When an earlier job's object is the file of another one: only where nothing is in doubt."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rayhaul.contents import has_file_of, source_text
from rayhaul.job import Job, JobResult, JobSpec, JobStatus, Metadata

SHA256, CRC = "ab" * 32, "AAAAAAAAAAA="
FOUND = Metadata(
    size_bytes=1000,
    content_type=None,
    etag='"v1"',
    last_modified="Mon, 06 Jan 2025 00:00:00 GMT",
    rangeable=True,
    filename="a.iso",
    final_url="https://cdn.example/a.iso?signature=1",
    fetch_ms=1,
)
RESULT = JobResult(bucket="bucket", key="a.iso", size_bytes=1000, etag="abc", sha256=SHA256, crc64nvme=CRC)
URL, MIRROR = "https://files.example/a.iso", "https://mirror.example/a.iso"


def a_job(*, user_id: str = "ann", metadata: Metadata | None = FOUND, url: str = URL, **spec: Any) -> Job:
    made_at = datetime(2026, 3, 1, tzinfo=UTC)
    return Job(
        id="job_2",
        user_id=user_id,
        correlation_id="corr-1234",
        spec=JobSpec(url=url, **spec),
        created_at=made_at,
        metadata=metadata,
    )


EARLIER = replace(a_job(), id="job_1", status=JobStatus.COMPLETED, result=RESULT)
OTHER_TAG, WEAK = replace(FOUND, etag='"v2"'), replace(FOUND, etag='W/"v1"')


@pytest.mark.parametrize(
    ("job", "is_same"),
    [
        (a_job(), True),
        (a_job(metadata=replace(FOUND, final_url="https://cdn.example/other")), True),
        (a_job(user_id="bob"), False),
        (a_job(url=f"{URL}?v=2"), False),
        (a_job(metadata=OTHER_TAG), False),
        (a_job(metadata=replace(FOUND, size_bytes=999)), False),
        (a_job(metadata=replace(FOUND, size_bytes=None)), False),
        (a_job(metadata=None), False),
        # A source that tells a digest now, and told none then, may be another one.
        (a_job(metadata=replace(FOUND, digest=f"sha256:{SHA256}")), False),
        # The same bytes that were asked for, from wherever.
        (a_job(url="https://else.example/x", metadata=OTHER_TAG, checksum=f"sha256:{SHA256}"), True),
        (a_job(checksum=f"sha256:{'cd' * 32}"), False),
        (a_job(metadata=replace(FOUND, size_bytes=999), checksum=f"sha256:{SHA256}"), False),
        (a_job(checksum=f"crc64nvme:{CRC}"), True),
        (a_job(checksum="crc64nvme:AAAAAAAAAAE="), False),
        (a_job(checksum=f"md5:{'ab' * 16}"), False),
        (a_job(compute_sha256=True), True),
        # The pinned source counts, not the URL that did not have the file.
        (a_job(url="https://gone.example/a", mirrors=(URL,), metadata=replace(FOUND, source=1)), True),
        (a_job(mirrors=(MIRROR,), metadata=replace(FOUND, source=1)), False),
    ],
)
def test_the_same_file(job: Job, is_same: bool) -> None:  # noqa: FBT001 - what is expected
    assert has_file_of(EARLIER, job) is is_same


def test_a_receipt_without_sha256_is_not_handed_on() -> None:
    """An object whose SHA-256 nobody computed is no copy for who asks for it."""
    assert EARLIER.result is not None
    unhashed = replace(EARLIER, result=replace(EARLIER.result, sha256=None))
    assert has_file_of(unhashed, a_job())
    assert not has_file_of(unhashed, a_job(compute_sha256=True))


@pytest.mark.parametrize("found", [WEAK, replace(FOUND, etag=None)])
def test_without_a_strong_validator_nothing_is_the_same(found: Metadata) -> None:
    """A date is not enough, though it is for the ranges of one download."""
    assert source_text(a_job(metadata=found)) is None
    assert not has_file_of(replace(EARLIER, metadata=found), a_job(metadata=found))


@pytest.mark.parametrize("change", [{"status": JobStatus.FAILED}, {"result": None}])
def test_only_what_is_completed_counts(change: dict[str, Any]) -> None:
    assert not has_file_of(replace(EARLIER, **change), a_job())
