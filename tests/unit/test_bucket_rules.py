"""Which objects of our own store users may read: nothing unless allowed, and nothing that another one downloaded."""

import pytest

from rayhaul.errors import InvalidRequest
from rayhaul.settings import S3Settings, SourcesSettings
from tasks.bucket_rules import BucketRules, StoredObject
from tasks.guard import Denied, Reason


def rules(*entries: str, prefix: str = "jobs/") -> BucketRules:
    return BucketRules(SourcesSettings(s3_buckets=entries), S3Settings(bucket="own", prefix=prefix))


@pytest.mark.parametrize(
    ("entry", "url", "found"),
    [
        ("media", "s3://media/a/b.bin", ("media", "a/b.bin")),
        ("media", "s3://media/a%20b%3Fc%23d.bin", ("media", "a b?c#d.bin")),
        ("media", "s3://media/%C3%A4.bin", ("media", "ä.bin")),
        ("media/public", "s3://media/public/a.bin", ("media", "public/a.bin")),
        ("media/public/", "s3://media/public/a.bin", ("media", "public/a.bin")),
        ("own/shared", "s3://own/shared/a.bin", ("own", "shared/a.bin")),
    ],
)
def test_what_is_allowed(entry: str, url: str, found: tuple[str, str]) -> None:
    """Objects of an allowed bucket, or below an allowed prefix, are read."""
    assert rules(entry).check(url) == StoredObject(*found)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("media", "s3://other/a.bin"),
        ("media", "s3://media2/a.bin"),
        ("media", "s3://Media/a.bin"),
        ("media/public", "s3://media/private/a.bin"),
        ("media/public", "s3://media/publications/a.bin"),
        ("media/public/", "s3://media/publications/a.bin"),
        # What users have downloaded is theirs, whatever is allowed.
        ("own", "s3://own/jobs/job_1/a.bin"),
        ("own/jobs", "s3://own/jobs/job_1/a.bin"),
        ("own", "s3://own/%6aobs/job_1/a.bin"),
        # Parts of open uploads, as SeaweedFS keeps them.
        ("own", "s3://own/.uploads/1/0001.part"),
    ],
)
def test_what_is_denied(entry: str, url: str) -> None:
    """Everything else is denied in the same words, whether it is there or not."""
    with pytest.raises(Denied) as caught:
        rules(entry).check(url)
    assert caught.value.reason is Reason.BUCKET


def test_without_a_prefix_the_whole_bucket_is_the_clusters() -> None:
    """Where jobs write anywhere in the bucket, nothing of it is a source."""
    with pytest.raises(Denied):
        rules("own", prefix="").check("s3://own/shared/a.bin")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://media",
        "s3://media/",
        "s3:///a.bin",
        "s3://media/a.bin?versionId=1",
        "s3://media/a.bin#x",
        "s3://me:secret@media/a.bin",
        "s3://media:80/a.bin",
        "s3://media/public/../private/a.bin",
        "s3://media/public/%2e%2e/private/a.bin",
        "s3://media/public/..%2Fprivate/a.bin",
        "s3://media/public//a.bin",
        "s3://media/./a.bin",
        "s3://media/a%00b",
        "s3://media/%ff",
        "s3://media/a\\b",
        "s3://media/a\nb",
    ],
)
def test_what_is_no_object(url: str) -> None:
    """What stores might read in more ways than one is not asked for."""
    with pytest.raises(InvalidRequest):
        rules("media").check(url)


def test_off_unless_allowed() -> None:
    """Without an entry there is no such source."""
    with pytest.raises(InvalidRequest, match=r"sources\.s3_buckets"):
        rules().check("s3://media/a.bin")


@pytest.mark.parametrize("entry", ["/media", "s3://media", "https://media.example/"])
def test_entries_that_are_none(entry: str) -> None:
    """An entry that would allow nothing, or something else than was meant, is told to the operator."""
    with pytest.raises(ValueError, match="bucket/prefix"):
        SourcesSettings(s3_buckets=(entry,))
