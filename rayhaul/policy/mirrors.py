"""Which of a job's sources is asked for the next part, and whether two of them have the same file.

Laws of this file:
1. Two sources are mixed only where their lengths are equal and a digest or a strong ETag says that they have the same
   bytes, or where the whole, or each piece, will be compared with a checksum before it is published. On doubt they are
   not.
2. What counts is what a source delivers: bytes per second and connection, and failures in a row. One that has not been
   tried is tried with one connection, and one that crawls beside the others is left at once.
3. A source that is slow or failed is not forgotten: it is asked where no other is left.
4. Pure: the same standings give the same choice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from rayhaul.job import Metadata
from rayhaul.policy.planning import tells_versions

#: Weight of the newest part in a source's bytes/s.
_RATE_WEIGHT = 0.5
#: So long is waited for bytes before their rate says anything.
_CRAWL_AFTER_S = 3.0
#: A part that comes this many times slower than another source's is asked for elsewhere.
_CRAWL_FACTOR = 4.0
#: Shorter waits than this are those of our own buffers.
_WAIT_S_MIN = 0.01


class Match(Enum):
    """What another source's answer says of its file, against the pinned one."""

    #: The same bytes: they may be mixed.
    SAME = auto()
    #: The same length, and a checksum will tell before anything is published.
    CHECKED_LATER = auto()
    #: Nothing says that it is the same.
    DOUBTFUL = auto()
    #: Another file.
    OTHER = auto()


def match(pin: Metadata, seen: Metadata, checksum: str | None, *, in_pieces: bool = False) -> Match:
    """Compare what two sources tell. `checksum`: what the object must have, `algorithm:value`, or None.

    `in_pieces`: each part from there is compared with the hashes of its pieces, so that no other bytes get in.
    Source: RFC 9110 8.8.1 (a strong validator stands for the same bytes), RFC 9530 (digests of the whole file).
    """
    if pin.size_bytes is None or seen.size_bytes is None:
        return Match.DOUBTFUL
    if pin.size_bytes != seen.size_bytes:
        return Match.OTHER
    told = _digest_of(seen.digest)
    if told is not None:
        for known in (_digest_of(checksum), _digest_of(pin.digest)):
            if known is not None and known[0] == told[0]:
                return Match.SAME if known == told else Match.OTHER
    if in_pieces:
        return Match.SAME
    if pin.etag is not None and pin.etag == seen.etag and not pin.etag.startswith(("W/", "w/")):
        return Match.SAME
    return Match.CHECKED_LATER if tells_versions(checksum) else Match.DOUBTFUL


def _digest_of(text: str | None) -> tuple[str, str] | None:
    algorithm, _, value = (text or "").partition(":")
    return (algorithm, value) if value else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one lease knows of a source."""

    #: Of one connection; None before the first part.
    bytes_per_s: float | None = None
    #: Delivered in parts that are in the bucket.
    bytes_count: int = 0
    #: In a row.
    failures: int = 0
    #: Parts that are being read from it.
    in_use: int = 0
    #: Whether its host has a connection for us.
    is_free: bool = True

    def at_gate(self, *, is_free: bool) -> "Standing":
        return replace(self, is_free=is_free)

    def taken(self) -> "Standing":
        return replace(self, in_use=self.in_use + 1)

    def left(self) -> "Standing":
        return replace(self, in_use=self.in_use - 1)

    def delivered(self, bytes_count: int, waited_s: float) -> "Standing":
        """A part came whole, after so long a time of waiting for its bytes."""
        newest = bytes_count / max(waited_s, _WAIT_S_MIN)
        known = newest if self.bytes_per_s is None else self.bytes_per_s
        return replace(
            self,
            bytes_per_s=known + _RATE_WEIGHT * (newest - known),
            bytes_count=self.bytes_count + bytes_count,
            failures=0,
        )

    def failed(self, bytes_count: int, waited_s: float) -> "Standing":
        """A part did not come; where it was for its pace, that is what is known of the source from now on."""
        known = self.bytes_per_s
        if waited_s >= _CRAWL_AFTER_S:
            known = bytes_count / waited_s
        return replace(self, bytes_per_s=known, failures=self.failures + 1)


def choose(standings: Mapping[int, Standing], but: Collection[int] = ()) -> int | None:
    """Return the source to ask next, of those that are not in `but`; None where there is none.

    >>> choose({0: Standing(bytes_per_s=100.0), 1: Standing(bytes_per_s=900.0), 2: Standing()})
    2
    >>> choose({0: Standing(bytes_per_s=100.0), 1: Standing(bytes_per_s=900.0)})
    1
    >>> choose({0: Standing(bytes_per_s=100.0), 1: Standing(bytes_per_s=900.0, failures=4)})
    0
    """
    open_to_us = [index for index in standings if index not in but]
    return min(open_to_us, key=lambda index: (_rank(standings[index]), index), default=None)


def _rank(standing: Standing) -> tuple[bool, bool, float]:
    """Return what sorts a source: the lowest is asked first."""
    is_new = standing.bytes_per_s is None and standing.failures == 0
    tries_it_out = is_new and standing.in_use == 0
    pace = (standing.bytes_per_s or 0.0) / 2**standing.failures
    return (not standing.is_free, not tries_it_out, -pace)


def crawls(bytes_count: int, waited_s: float, source: int, standings: Mapping[int, Standing]) -> bool:
    """Whether a part that has come so far should be asked for elsewhere."""
    if waited_s < _CRAWL_AFTER_S:
        return False
    others = [
        standing.bytes_per_s or 0.0
        for index, standing in standings.items()
        if index != source and standing.failures == 0 and standing.is_free
    ]
    return bytes_count / waited_s * _CRAWL_FACTOR < max(others, default=0.0)
