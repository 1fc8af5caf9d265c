"""Libraries of the optional extras: whether they are here, and what to say where they are not."""

from importlib.util import find_spec

#: By the scheme they serve: the extra's name, and a module that comes with it.
EXTRAS = {
    "ftp": ("ftp", "aioftp"),
    "ftps": ("ftp", "aioftp"),
    "ftpes": ("ftp", "aioftp"),
    "sftp": ("sftp", "asyncssh"),
    "magnet": ("torrent", "libtorrent"),
}


TORRENTS_OFF = (
    "BitTorrent is off; an operator names a directory for its scratch on every machine (sources.torrent_scratch)."
)

_LIBRARIES = {**EXTRAS, "metalink": ("metalink", "defusedxml")}


def lacks(kind: str) -> str | None:
    """Return what has to be done before a kind of source can be served here; None where nothing has."""
    extra, module = _LIBRARIES[kind]
    if find_spec(module) is not None:
        return None
    return f"Sources of the kind {kind} need an extra on every machine: pip install 'rayhaul[{extra}]'."
