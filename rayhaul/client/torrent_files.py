"""Which files of a torrent a URL selects: `so=0,2-4` becomes one URL a file, as a job is one file.

Source: BEP 53 (`so` in magnet links); of the URL of a .torrent it is the fragment that says it.
"""

import re
from itertools import chain
from urllib.parse import unquote

from rayhaul.client.errors import BadRequest

#: Files that one URL may select.
FILES_MAX = 10_000

_IN_MAGNET = re.compile(r"(?:(?<=&)|(?<=\A(?i:magnet):\?))so=([^&#]*)")
_IN_FRAGMENT = re.compile(r"(?<=[#&])so=([^&]*)")
_LIST = re.compile(r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*")


def each_file(url: str) -> list[str]:
    """Return one URL for each file of a torrent that a URL selects; a URL that selects no several is all there is.

    >>> each_file("magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a&so=0,2-3&tr=udp://t.example:1337")[2]
    'magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a&so=3&tr=udp://t.example:1337'
    >>> each_file("https://files.example/all.torrent#so=1,1")
    ['https://files.example/all.torrent#so=1']

    Raises: BadRequest.
    """
    place = _place(url)
    if place is None:
        return [url]
    listed = unquote(place[1])
    if not ("," in listed or "-" in listed):
        # What it is instead, the API says.
        return [url]
    return [f"{url[: place.start()]}so={number}{url[place.end() :]}" for number in _numbers(listed)]


def _place(url: str) -> re.Match[str] | None:
    """Return where a URL says which file is meant."""
    if url[:7].lower() == "magnet:":
        return _IN_MAGNET.search(url)
    return _IN_FRAGMENT.search(url, url.find("#")) if "#" in url else None


def _numbers(listed: str) -> list[int]:
    """Return the numbers of a list, each once, as it has them. Raises: BadRequest."""
    if not _LIST.fullmatch(listed):
        raise _wrong("so= lists the numbers of files of a torrent, from 0: so=0,2-4.")
    ranges = []
    for item in listed.split(","):
        first, _, last = item.partition("-")
        ranges.append(range(int(first), int(last or first) + 1))
    if not all(ranges):
        raise _wrong("so= has a range of files that ends before it begins.")
    if sum(map(len, ranges)) > FILES_MAX:
        raise _wrong(f"so= selects more than {FILES_MAX} files.")
    return list(dict.fromkeys(chain.from_iterable(ranges)))


def _wrong(text: str) -> BadRequest:
    return BadRequest("invalid_request", 422, text)
