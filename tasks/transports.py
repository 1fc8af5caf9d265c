"""Which transport a link is read by: its scheme decides."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from rayhaul.errors import SourceRefused
from rayhaul.job import Metadata
from rayhaul.settings import Settings
from tasks.bucket_rules import BucketRules, StoredObject
from tasks.bucket_source import BucketTransport
from tasks.dialing import Dialer
from tasks.egress import GuardedClient
from tasks.extras import EXTRAS, TORRENTS_OFF, lacks
from tasks.http_transport import HttpTransport, describes, describes_torrent
from tasks.links import Link
from tasks.peeks import Peeks
from tasks.sink import Sink
from tasks.transport import Place, Transport

if TYPE_CHECKING:
    from tasks.metalink_source import MetalinkTransport
    from tasks.torrent_source import TorrentTransport

_NONE: Mapping[str, Transport] = MappingProxyType({})


class Transports:
    """All that an agent reads by. One per process."""

    def __init__(
        self,
        client: GuardedClient,
        others: Mapping[str, Transport] = _NONE,
        *,
        bucket: BucketTransport | None = None,
        torrents: "TorrentTransport | None" = None,
        lacks_torrents: bool = False,
        peeks: Peeks | None = None,
    ) -> None:
        """`client` reads HTTP, `others` what their schemes say. Whatever else is asked for, HTTP refuses.

        `peeks`: where small files wait that come along with looks; None: none come.
        `lacks_torrents`: they are switched on, but this machine has no library for them.
        """
        self._client = client
        self._plain = HttpTransport(client, peeks)
        self._metalink = _metalink(client, self._plain, self._by_plain)
        described = self._metalink or _Undescribed(self._plain, describes, "metalink")
        self._http = _describing(client, described, torrents, lacks_torrents=lacks_torrents)
        self._bucket = bucket
        self._others = dict(others)
        if bucket is not None:
            self._others["s3"] = bucket
        self._torrents = torrents
        if torrents is not None:
            self._others["magnet"] = torrents

    @classmethod
    def of(cls, settings: Settings, client: GuardedClient, sink: Sink) -> Self:
        """Return all that the settings allow, and the libraries at hand can do."""
        bucket = BucketTransport(sink, BucketRules(settings.sources, settings.s3), settings.source)
        dialer = Dialer(
            client.guard,
            settings.egress,
            settings.source,
            slots=client.slots,
            meter=sink.meter,
            resolver=client.names,
        )
        torrents = _torrents(dialer, settings)
        lacks_torrents = settings.sources.torrent_scratch is not None and torrents is None
        return cls(
            client,
            _optional(dialer, settings),
            bucket=bucket,
            torrents=torrents,
            lacks_torrents=lacks_torrents,
            peeks=Peeks(settings.source, sink.meter),
        )

    async def aclose(self) -> None:
        if self._bucket is not None:
            await self._bucket.aclose()
        if self._torrents is not None:
            await self._torrents.aclose()

    @property
    def are_full(self) -> bool:
        """Whether who opens a connection to a source has to wait until others have closed theirs."""
        return self._client.slots.locked()

    def by(self, url: str) -> Transport:
        """Raises: SourceRefused where this machine lacks a library for it."""
        scheme = url.partition(":")[0].lower()
        if scheme in EXTRAS and scheme not in self._others:
            raise SourceRefused(lacks(scheme) or TORRENTS_OFF)
        return self._others.get(scheme, self._http)

    def _by_plain(self, url: str) -> Transport:
        """The same, where everything that HTTP serves is a file."""
        found = self.by(url)
        return self._plain if found is self._http else found

    async def places(self, link: Link, pin: Metadata) -> Sequence[Place]:
        """Return where else the file is that a document at this link describes, the best first.

        Raises: SourceError; EgressDenied.
        """
        return [] if self._metalink is None else await self._metalink.places(link, pin)

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


class _Undescribed:
    """HTTP on a machine that cannot read one kind of descriptions of files."""

    def __init__(self, others: Transport, describes: Callable[[Metadata], bool], kind: str) -> None:
        self._others = others
        self._describes = describes
        self._kind = kind
        self.open_range = others.open_range
        self.open_whole = others.open_whole

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        found = await self._others.probe(link, filename)
        if found.described_by is None and self._describes(found):
            raise SourceRefused(lacks(self._kind) or "")
        return found


def _metalink(client: GuardedClient, http: HttpTransport, by: Callable[[str], Transport]) -> "MetalinkTransport | None":
    if lacks("metalink") is not None:
        return None
    from tasks.metalink_source import MetalinkTransport  # noqa: PLC0415

    return MetalinkTransport(client, http, by)


def _describing(
    client: GuardedClient, described: Transport, torrents: "TorrentTransport | None", *, lacks_torrents: bool
) -> Transport:
    if lacks_torrents:
        return _Undescribed(described, describes_torrent, "magnet")
    if torrents is None:
        return described
    from tasks.torrent_source import TorrentDocuments  # noqa: PLC0415

    return TorrentDocuments(client, described, torrents)


def _torrents(dialer: Dialer, settings: Settings) -> "TorrentTransport | None":
    """Return what reads torrents; None where nobody has switched it on, or the library is not here."""
    sources = settings.sources
    if sources.torrent_scratch is None or lacks("magnet") is not None:
        return None
    from tasks.torrent_source import TorrentTransport  # noqa: PLC0415

    return TorrentTransport.of(
        dialer, Path(sources.torrent_scratch), sources.torrent_scratch_bytes_max, settings.egress
    )
