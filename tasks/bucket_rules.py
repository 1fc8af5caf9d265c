"""Which objects of our own store users may read as sources: `s3://bucket/key`, only where an operator allowed it.

Laws of this file:
1. What lies where the cluster publishes is never a source: a user would read what another one has downloaded.
2. A key that a store which maps keys to paths would read as another one is refused, and so is one with a dot in front:
   stores keep their own files there (SeaweedFS: the parts of open uploads).
3. What is not allowed and what is not there look the same from outside, until the allowed part begins.
"""

from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from rayhaul.errors import InvalidRequest
from rayhaul.policy.naming import check_key
from rayhaul.settings import S3Settings, SourcesSettings
from tasks.guard import Denied, Reason, check_text


@dataclass(frozen=True, slots=True)
class StoredObject:
    bucket: str
    key: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `s3://bucket/key`, the key percent-encoded where it has to be. Raises: InvalidRequest."""
        check_text(url)
        try:
            parts = urlsplit(url)
            bucket, rest = parts.netloc, parts.query or parts.fragment
            key = unquote(parts.path.removeprefix("/"), errors="strict")
        except ValueError:
            raise InvalidRequest("The URL cannot be read.") from None
        if not bucket or not key or rest or "@" in bucket or ":" in bucket:
            raise InvalidRequest("An object is written s3://bucket/key; ? and # in a key are percent-encoded.")
        check_key(key)
        return cls(bucket, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRange:
    """The bytes `first_byte <= offset < end_byte` of one version of an object."""

    source: StoredObject
    #: Quoted.
    etag: str
    first_byte: int
    end_byte: int

    @property
    def size_bytes(self) -> int:
        return self.end_byte - self.first_byte


class BucketRules:
    """What an operator has allowed."""

    def __init__(self, sources: SourcesSettings, s3: S3Settings) -> None:
        self._allowed = tuple(entry.partition("/")[::2] for entry in sources.s3_buckets)
        self._own_bucket, self._own_prefix = s3.bucket, s3.prefix

    def check(self, url: str) -> StoredObject:
        """Return the object that may be read. Raises: InvalidRequest; EgressDenied."""
        if not self._allowed:
            raise InvalidRequest("Sources of the kind s3:// are off; an operator allows buckets (sources.s3_buckets).")
        found = StoredObject.parse(url)
        is_own = found.bucket == self._own_bucket and found.key.startswith(self._own_prefix)
        if is_own or found.key.startswith(".") or not any(self._lies_in(found, *entry) for entry in self._allowed):
            raise Denied(Reason.BUCKET)
        return found

    @staticmethod
    def _lies_in(found: StoredObject, bucket: str, prefix: str) -> bool:
        # `media/a` allows a/…, but not ab/…
        return found.bucket == bucket and (not prefix or f"{found.key}/".startswith(f"{prefix.rstrip('/')}/"))
