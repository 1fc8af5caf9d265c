"""Which transport a link is read by: its scheme decides."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Self

from rayhaul.errors import SourceRefused
from rayhaul.job import Metadata
from rayhaul.settings import Settings
from tasks.bucket_rules import BucketRules, StoredObject
from tasks.bucket_source import BucketTransport
from tasks.dialing import Dialer
from tasks.egress import GuardedClient
from tasks.extras import EXTRAS, lacks
from tasks.http_transport import HttpTransport, describes
from tasks.links import Link
from tasks.sink import Sink
from tasks.transport import Transport

_NONE: Mapping[str, Transport] = MappingProxyType({})


class Transports:
    """All that an agent reads by. One per process."""

    def __init__(
        self, client: GuardedClient, others: Mapping[str, Transport] = _NONE, *, bucket: BucketTransport | None = None
    ) -> None:
        """`client` reads HTTP, `others` what their schemes say. Whatever else is asked for, HTTP refuses."""
        self._plain = HttpTransport(client)
        self._http = _describing(client, self._by_plain)
        self._bucket = bucket
        self._others = dict(others)
        if bucket is not None:
            self._others["s3"] = bucket

    @classmethod
    def of(cls, settings: Settings, client: GuardedClient, sink: Sink) -> Self:
        """Return all that the settings allow, and the libraries at hand can do."""
        bucket = BucketTransport(sink, BucketRules(settings.sources, settings.s3), settings.source)
        dialer = Dialer(client.guard, settings.egress, settings.source, slots=client.slots, meter=sink.meter)
        return cls(client, _optional(dialer, settings), bucket=bucket)

    async def aclose(self) -> None:
        if self._bucket is not None:
            await self._bucket.aclose()

    def by(self, url: str) -> Transport:
        """Raises: SourceRefused where this machine lacks a library for it."""
        scheme = url.partition(":")[0].lower()
        if scheme in EXTRAS and scheme not in self._others:
            raise SourceRefused(lacks(scheme) or "")
        return self._others.get(scheme, self._http)

    def _by_plain(self, url: str) -> Transport:
        """The same, where everything that HTTP serves is a file."""
        found = self.by(url)
        return self._plain if found is self._http else found

    def stored(self, url: str) -> StoredObject | None:
        """Return the object that a link names in the sink's own store, which may copy it; None of any other link.

        Raises: EgressDenied; InvalidRequest.
        """
        return None if self._bucket is None else self._bucket.stored(url)


def _optional(dialer: Dialer, settings: Settings) -> Mapping[str, Transport]:
    """Return the transports whose libraries are here, by scheme. Those are not imported where they are not wanted."""
    found: dict[str, Transport] = {}
    if lacks("ftp") is None:
        from tasks.ftp_source import FtpTransport  # noqa: PLC0415

        found |= dict.fromkeys(("ftp", "ftps", "ftpes"), FtpTransport(dialer))
    if lacks("sftp") is None:
        from tasks.sftp_source import SftpTransport  # noqa: PLC0415

        found["sftp"] = SftpTransport(dialer, settings.sources.sftp_known_hosts)
    return found


class _Undescribed(HttpTransport):
    """HTTP on a machine that cannot read descriptions of files."""

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        found = await super().probe(link, filename)
        if describes(found):
            raise SourceRefused(lacks("metalink") or "")
        return found


def _describing(client: GuardedClient, by: Callable[[str], Transport]) -> Transport:
    if lacks("metalink") is not None:
        return _Undescribed(client)
    from tasks.metalink_source import MetalinkTransport  # noqa: PLC0415

    return MetalinkTransport(client, by)
