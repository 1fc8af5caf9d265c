"""What a soak asks for, what is wrong with it, and what may become of it: drawn from a seed."""

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from origin import Origin, content_sha256, content_windows

MIB = 1024 * 1024
#: Added to a seed for the version that follows a change (origin_files.File).
LATER = 1_000_000
#: The date that the origin gives all its answers: of a file of that date another version may follow unseen.
NOW = "Wed, 08 Jan 2025 00:00:00 GMT"

Behaviour = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A job, and what may become of it."""

    kind: str
    url: str
    fields: Mapping[str, Any]
    #: (seed, size) of what may be published; none: publishing anything would be wrong.
    versions: Sequence[tuple[int, int]] = ()
    #: Codes of the errors that it may fail with; none: it must complete.
    fails: frozenset[str] = frozenset()


@dataclass(slots=True)
class Mix:
    """Numbers the files: each has content of its own."""

    seeds_count: int = field(default=0)

    def next_seed(self) -> int:
        self.seeds_count += 1
        return self.seeds_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file that a kind is made of."""

    rng: Random
    origin: Origin
    path: str
    seed: int
    size: int

    def add(self, below: str = "", **behaviour: Any) -> str:
        """Serve it under its path, or a path below that."""
        return self.origin.add(f"{self.path}{below}", **{"size": self.size, "seed": self.seed, **behaviour})

    @property
    def checksum(self) -> str:
        return f"sha256:{content_sha256(self.seed, self.size)}"


def _cut(rng: Random, size: int) -> Behaviour:
    return {
        "truncate_after": rng.randrange(max(1, size)),
        "truncate_by": rng.choice(["fin", "rst"]),
        "faults_max": rng.randint(1, 4),
    }


def _lie(*lies: str) -> Callable[[Random, int], Behaviour]:
    return lambda rng, _size: {"content_range": rng.choice(lies)}


def _stream(rng: Random, _size: int) -> Behaviour:
    return {"ranges": False, "framing": rng.choice(["length", "chunked", "close"])}


def _cut_unpinned(rng: Random, size: int) -> Behaviour:
    """What is cut has no validator: it is read again from its first byte."""
    return {**_cut(rng, size), "etag": rng.choice(["weak", "none"]), "last_modified": None, "faults_max": 2}


def _cut_stream(rng: Random, size: int) -> Behaviour:
    behaviour = {**_stream(rng, size), **_cut(rng, size), "faults_max": 1}
    if behaviour["framing"] == "close":
        # Where only the connection's end delimits a body, and a FIN ends it early, nobody can tell (RFC 9112 8).
        behaviour["truncate_by"] = "rst"
    return behaviour


#: Faults that must be overcome.
BENIGN: Mapping[str, Callable[[Random, int], Behaviour]] = {
    "good": lambda _rng, _size: {},
    "cut": _cut,
    "cut stream": _cut_stream,
    "stall": lambda rng, size: {"stall_after": rng.randrange(max(1, size)), "faults_max": 1},
    "silent": lambda _rng, _size: {"silent": True, "faults_max": 1},
    "slow": lambda _rng, size: {"rate_bytes_per_s": max(200_000, size // 8)},
    "busy": lambda rng, _size: {
        "statuses": tuple(rng.choices([429, 500, 502, 503], k=rng.randint(1, 4))),
        "retry_after": rng.choice([None, "0", "1", "Wed, 08 Jan 2025 00:00:01 GMT"]),
    },
    "no ranges": _stream,
    "lying ranges": _lie("shifted", "short", "unknown_total"),
    "ranges of nothing": _lie("missing", "wrong_unit", "multipart"),
    "weak": lambda rng, _size: {"etag": rng.choice(["weak", "none"])},
    "no validator": lambda rng, _size: {"etag": "none", "last_modified": rng.choice([None, NOW])},
    "cut without a validator": _cut_unpinned,
    "refused ranges": lambda rng, _size: {"ranged_status": rng.choice([400, 405, 416, 501])},
    "416 half-way": lambda rng, _size: {"ranged_status": 416, "ranged_status_after": rng.randint(1, 2)},
    "drip": lambda rng, size: {
        "drips_at": (rng.randrange(max(1, size)),),
        "drip_bytes_per_s": rng.choice([200, 20 * 1024]),
        "faults_max": 1,
    },
    "false promises": lambda rng, _size: rng.choice(
        [{"accept_ranges": "bytes", "ranges": False}, {"accept_ranges": rng.choice([None, "none"])}]
    ),
    "identity": lambda _rng, _size: {"coding": "identity"},
    "odd name": lambda rng, _size: {
        "content_disposition": rng.choice(
            [
                'attachment; filename="../../etc/passwd"',
                "attachment; filename*=UTF-8''%2e%2e%2f%00x",
                "inline; filename=",
            ]
        )
    },
    "edges": lambda rng, _size: {"edges_count": rng.randint(2, 4)},
    "If-Range misread": lambda _rng, _size: {"if_range_quirk": True},
    "flipped bit": lambda rng, size: {
        **_stream(rng, size),
        "digests": (rng.choice(["Repr-Digest", "Content-MD5", "x-goog-hash", "Digest"]),),
        "flip_at": rng.randrange(max(1, size)),
        "faults_max": 1,
    },
    "flipped bit of a range": lambda rng, size: {
        "digests": ("Content-Digest",),
        "flip_at": rng.randrange(max(1, size)),
        "faults_max": 2,
    },
}


def _redirected(of: Wanted) -> tuple[str, Behaviour]:
    """The file is elsewhere, in one or two steps."""
    of.add("/there")
    if of.rng.random() < 0.5:
        return of.add(redirect_to=f"/{of.path}/there"), {}
    of.add("/half-way", redirect_to=f"/{of.path}/there", redirect_status=307)
    return of.add(redirect_to=f"/{of.path}/half-way"), {}


def _signed(of: Wanted) -> tuple[str, Behaviour]:
    """Behind the URL are links that are good once; one or two of those that follow the first look have expired."""
    of.add("/signed", uses_max=1, statuses=(0, 403, of.rng.choice([0, 403])))
    return of.add(redirect_to=f"/{of.path}/signed?n={{count}}"), {}


def _mirrored(of: Wanted) -> tuple[str, Behaviour]:
    """The source is slow, is cut, or goes away half-way; one mirror has the same file, another may have other bytes."""
    ill: Behaviour = of.rng.choice(
        [
            {"rate_bytes_per_s": 200_000},
            _cut(of.rng, of.size),
            {"status_after": of.rng.randint(1, 2), "status": 404},
        ]
    )
    mirrors = [of.add("/mirror")]
    if of.rng.random() < 0.5:
        mirrors.insert(0, of.add("/false", seed=of.seed + LATER))
    return of.add(**ill), {"mirrors": mirrors}


def _secret(of: Wanted) -> tuple[str, Behaviour]:
    return of.add(needs={"authorization": "Bearer soak"}), {"headers": {"Authorization": "Bearer soak"}}


#: Of more than a file, to be overcome as well: what else is asked of the job.
SEVERAL: Mapping[str, Callable[[Wanted], tuple[str, Behaviour]]] = {
    "redirect": _redirected,
    "links that expire": _signed,
    "mirror": _mirrored,
    "secret": _secret,
}


def _changing(of: Wanted) -> Asked:
    """A change shows: what is published is one version as a whole."""
    size = of.rng.choice([of.size, of.size + of.rng.randrange(MIB), of.rng.randrange(of.size + 1)])
    behaviour: Behaviour = {"changes_after": of.rng.randint(1, 4), "size_changed": None if size == of.size else size}
    if size < of.size and of.rng.random() < 0.5:
        # Without an ETag nothing is asked for on condition: ranges that are no more are answered 416.
        behaviour["etag"] = "none"
    versions = [(of.seed, of.size), (of.seed + LATER, size)]
    return Asked(kind="change", url=of.add(**behaviour), fields={}, versions=versions)


#: Sent in place of an answer, and what it must be taken for.
NONSENSE: Sequence[tuple[bytes, str]] = (
    (b"", "source_unreachable"),
    (b"SSH-2.0-OpenSSH_9\r\n", "source_failed"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "source_failed"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "source_failed"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "source_refused"),
)


def _nonsense(of: Wanted) -> tuple[str, Behaviour, str]:
    raw, code = of.rng.choice(NONSENSE)
    return of.add(raw=raw), {}, code


def _always(of: Wanted, *answers: tuple[int, str]) -> tuple[str, Behaviour, str]:
    status, code = of.rng.choice(answers)
    return of.add(status=status), {}, code


def _hidden_change(of: Wanted) -> tuple[str, Behaviour, str]:
    return of.add(changes_after=0, validators_change=False), {"checksum": of.checksum}, "checksum_mismatch"


def _circle(of: Wanted) -> tuple[str, Behaviour, str]:
    return of.add(redirect_to=f"/{of.path}{of.rng.choice(['', '?n={count}'])}"), {}, "source_refused"


def _forbidden(of: Wanted) -> tuple[str, Behaviour, str]:
    target = of.rng.choice(["http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "file:///etc/passwd"])
    return of.add(redirect_to=target), {}, "egress_denied"


def _nobody(_of: Wanted) -> tuple[str, Behaviour, str]:
    """Nobody listens at that port: it was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}/nobody.bin", {}, "source_unreachable"


def _endless(of: Wanted) -> tuple[str, Behaviour, str]:
    limit = of.rng.randint(1, 12) * MIB
    url = of.add(size=1024 * 1024 * MIB, ranges=False, framing="chunked")
    return url, {"size_bytes_max": limit}, "source_too_large"


#: What can not be had: nothing may be published, and the error must say what it is.
FATAL: Mapping[str, Callable[[Wanted], tuple[str, Behaviour, str]]] = {
    "refused": lambda of: _always(of, (403, "source_refused"), (404, "source_not_found"), (410, "source_not_found")),
    "failing": lambda of: _always(of, (408, "source_timeout"), (500, "source_failed"), (503, "source_busy")),
    "secret not told": lambda of: (of.add(needs={"authorization": "Bearer soak"}), {}, "source_refused"),
    "wrong checksum": lambda of: (of.add(), {"checksum": f"sha256:{'0' * 64}"}, "checksum_mismatch"),
    "hidden change": _hidden_change,
    "coded": lambda of: (of.add(coding=of.rng.choice(["gzip", "br"])), {}, "source_refused"),
    "never ended": lambda of: (of.add(ranges=False, framing="chunked_unended"), {}, "source_truncated"),
    "nonsense": _nonsense,
    "circle": _circle,
    "forbidden": _forbidden,
    "nobody listens": _nobody,
    "no such name": lambda _of: ("http://no-such-host.invalid/x.bin", {}, "source_unreachable"),
    "endless": _endless,
}

#: Lies after which either exactly the file is published or nothing: how it is served.
DOUBTFUL: Mapping[str, Callable[[Random], Behaviour]] = {
    "lying length": lambda rng: {"content_length_lie": rng.choice([-1, 1]), "ranges": rng.random() < 0.5},
    "surplus": lambda rng: {"surplus_bytes": rng.randint(1, 9), "framing": "chunked"},
    "wrong total": lambda _rng: {"content_range": "wrong_total"},
}
DOUBTS = frozenset({"source_changed", "source_truncated", "source_failed", "checksum_mismatch"})
#: What ends a job at once. One that is tried again may also meet what strikes all jobs in the last of its tries.
AT_ONCE = frozenset({"source_refused", "source_not_found", "source_too_large", "egress_denied"})
PASSING = frozenset({"source_busy", "sink_busy", "upload_lost"})


def draw(rng: Random, mix: Mix, origin: Origin, path: str) -> Asked:
    """Make up a job, and have its origin serve it."""
    sizes = [0, 1, *[rng.randrange(MIB) for _ in range(4)], *[rng.randrange(most * MIB) for most in (6, 6, 16, 16, 60)]]
    wanted = Wanted(rng=rng, origin=origin, path=path, seed=mix.next_seed(), size=rng.choice(sizes))
    groups: list[Mapping[str, Any]] = [BENIGN, SEVERAL, {"change": None}, FATAL, DOUBTFUL]
    (group,) = rng.choices(groups, weights=[56, 12, 8, 19, 5])
    return make(rng.choice(list(group)), wanted)


def make(kind: str, of: Wanted) -> Asked:
    """Have a file of that kind served, and say what may become of it."""
    if kind not in BENIGN and kind not in SEVERAL:
        # The first byte is the same in all files, and an empty one has no faults.
        of = replace(of, size=max(of.size, 4096))
    version = [(of.seed, of.size)]
    if kind in BENIGN:
        url = of.add(**BENIGN[kind](of.rng, of.size))
        return Asked(kind=kind, url=url, fields=_fields(of), versions=version)
    if kind in SEVERAL:
        url, more = SEVERAL[kind](of)
        return Asked(kind=kind, url=url, fields=_fields(of) | more, versions=version)
    if kind in DOUBTFUL:
        url = of.add(**DOUBTFUL[kind](of.rng))
        return Asked(kind=kind, url=url, fields={"checksum": of.checksum}, versions=version, fails=DOUBTS | PASSING)
    if kind in FATAL:
        url, fields, code = FATAL[kind](of)
        codes = frozenset({code}) if code in AT_ONCE else PASSING | {code}
        return Asked(kind=kind, url=url, fields=fields, fails=codes)
    return _changing(of)


def _fields(of: Wanted) -> dict[str, Any]:
    """Return what else is asked of the job."""
    rng = of.rng
    fields: dict[str, Any] = {"connections": rng.randint(1, 6), "priority": rng.choice(["low", "normal", "high"])}
    algorithm = rng.choice([None, None, "sha256", "md5"])
    if algorithm is not None:
        digest = hashlib.new(algorithm)
        for window in content_windows(of.seed, of.size):
            digest.update(window)
        fields["checksum"] = f"{algorithm}:{digest.hexdigest()}"
    if rng.random() < 0.2:
        fields["key"] = f"named/{of.path}"
    return fields
