"""Where a file lies on a server of files: host, path and who asks, out of a URL that was checked."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

from yarl import URL

from rayhaul.errors import InvalidRequest
from tasks.guard import AddressGuard

#: Each protocol's own port; any other one needs an entry in the allow list. ftps: TLS from the first byte; ftpes: TLS
#: after AUTH (RFC 4217).
PORTS = {"ftp": 21, "ftpes": 21, "ftps": 990, "sftp": 22}
_TYPE = ";type="


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    scheme: str
    host: str
    port: int
    #: As it is asked for: relative to where a login leads, or absolute with a slash in front. Source: RFC 1738 3.2.2.
    path: str
    user: str | None
    password: str | None

    @classmethod
    def of(cls, guard: AddressGuard, text: str) -> Self:
        """Read a URL of one of these protocols. Raises: InvalidRequest; EgressDenied."""
        url = guard.check_other(text, PORTS[text.partition(":")[0].lower()])
        assert url.raw_host is not None and url.port is not None  # noqa: PT018 - one fact: it was checked
        path, _, kind = url.raw_path.removeprefix("/").partition(_TYPE)
        if kind not in {"", "i", "I"} or url.raw_query_string:
            raise InvalidRequest("The URL must name a file, without a query, to be read byte by byte (;type=i).")
        place = cls(
            scheme=url.scheme,
            host=url.raw_host,
            port=url.port,
            path=_decoded(path),
            user=_decoded(url.raw_user) if url.raw_user else None,
            password=_decoded(url.raw_password) if url.raw_password else None,
        )
        if not place.path.strip("/") or place.path.endswith("/"):
            raise InvalidRequest("The URL must name a file.")
        return place

    @property
    def shown_url(self) -> str:
        """The URL without who asks."""
        return str(URL.build(scheme=self.scheme, host=self.host, port=self.port, path=f"/{self.path}"))


def _decoded(text: str) -> str:
    """Raises: InvalidRequest for what would end a command, and begin another one."""
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("The URL cannot be read.") from None
    if any(ord(letter) < 0x20 or letter == "\x7f" for letter in decoded):
        raise InvalidRequest("The URL has a control character.")
    return decoded
