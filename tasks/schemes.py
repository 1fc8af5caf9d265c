"""What may be asked for as a source at all, by the URL's scheme: checked by the API, and by each transport again."""

from rayhaul.errors import InvalidRequest
from rayhaul.settings import Settings
from tasks.bucket_rules import BucketRules
from tasks.extras import EXTRAS, TORRENTS_OFF, lacks
from tasks.guard import AddressGuard
from tasks.magnet import Magnet
from tasks.places import Place

_HTTP = frozenset({"http", "https"})
_OPAQUE = frozenset({"magnet"})
_KNOWN = ", ".join(f"{scheme}:" if scheme in _OPAQUE else f"{scheme}://" for scheme in ["http", "https", "s3", *EXTRAS])


class SourceRules:
    def __init__(self, settings: Settings, guard: AddressGuard) -> None:
        self._guard = guard
        self._buckets = BucketRules(settings.sources, settings.s3)
        self._reads_torrents = settings.sources.torrent_scratch is not None
        self._tracker_ports = settings.egress.ports
        self._knows_hosts = settings.sources.sftp_known_hosts is not None

    def check(self, url: str) -> None:
        """Check the URL of a source or a mirror. Asks no resolver and opens nothing.

        Raises: InvalidRequest where it is none that is read here; EgressDenied where it leads where nobody may fetch.
        """
        scheme = url.partition(":")[0].lower()
        if scheme == "s3":
            self._buckets.check(url)
        elif scheme in EXTRAS:
            if (lack := lacks(scheme)) is not None:
                raise InvalidRequest(lack)
            if scheme == "magnet":
                self._check_magnet(url)
                return
            place = Place.of(self._guard, url)
            if scheme == "sftp":
                self._check_sftp(place)
        elif scheme in _HTTP:
            self._guard.check_url(url)
        else:
            raise InvalidRequest(f"The URL must begin with one of {_KNOWN}.")

    def _check_magnet(self, url: str) -> None:
        if not self._reads_torrents:
            raise InvalidRequest(TORRENTS_OFF)
        Magnet.parse(self._guard, url, tracker_ports=self._tracker_ports)

    def _check_sftp(self, place: Place) -> None:
        if not self._knows_hosts:
            raise InvalidRequest(
                "Sources of the kind sftp:// are off; an operator names the host keys that are trusted "
                "(sources.sftp_known_hosts)."
            )
        if place.user is None:
            raise InvalidRequest("sftp:// needs a user: sftp://user:password@host/path.")
