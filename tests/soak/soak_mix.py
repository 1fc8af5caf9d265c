"""What a soak asks for, and what goes wrong with it: drawn from a seed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from origin import Origin, content_sha256, content_windows
from store_proxy import Fault, Operation

MIB = 1024 * 1024
#: Added to a seed for the version that follows a change (origin_files.File).
LATER = 1_000_000

Behaviour = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A job, and what may become of it."""

    kind: str
    url: str
    fields: Mapping[str, Any]
    #: (seed, size) of all versions that the origin shows.
    versions: Sequence[tuple[int, int]]
    must_complete: bool = True
    #: Publishing anything would be wrong.
    must_fail: bool = False


@dataclass(slots=True)
class Mix:
    """Numbers the files: each has content of its own."""

    seeds_count: int = field(default=0)

    def next_seed(self) -> int:
        self.seeds_count += 1
        return self.seeds_count


def _cut(rng: Random, size: int) -> Behaviour:
    return {
        "truncate_after": rng.randrange(max(1, size)),
        "truncate_by": rng.choice(["fin", "rst"]),
        "faults_max": rng.randint(1, 4),
    }


def _lie(rng: Random, _size: int) -> Behaviour:
    return {"content_range": rng.choice(["shifted", "short", "missing", "wrong_unit", "multipart", "unknown_total"])}


def _stream(rng: Random, _size: int) -> Behaviour:
    return {"ranges": False, "framing": rng.choice(["length", "chunked", "close"])}


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
    "lying ranges": _lie,
    "weak": lambda rng, _size: {"etag": rng.choice(["weak", "none"])},
    "no validator": lambda _rng, _size: {"etag": "none", "last_modified": None},
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


def _redirected(rng: Random, origin: Origin, path: str, size: int, seed: int) -> tuple[str, Behaviour]:
    """The file is elsewhere, in one or two steps."""
    origin.add(f"{path}/there", size=size, seed=seed)
    if rng.random() < 0.5:
        return origin.add(path, redirect_to=f"/{path}/there"), {}
    origin.add(f"{path}/half-way", redirect_to=f"/{path}/there", redirect_status=307)
    return origin.add(path, redirect_to=f"/{path}/half-way"), {}


def _signed(rng: Random, origin: Origin, path: str, size: int, seed: int) -> tuple[str, Behaviour]:
    """Behind the URL are links that are good a few times; then they have expired."""
    origin.add(f"{path}/signed", size=size, seed=seed, uses_max=rng.randint(1, 3))
    return origin.add(path, redirect_to=f"/{path}/signed?n={{count}}"), {}


def _mirrored(rng: Random, origin: Origin, path: str, size: int, seed: int) -> tuple[str, Behaviour]:
    """The source is slow, is cut, or goes away half-way; a mirror has the same file."""
    ill: Behaviour = rng.choice(
        [{"rate_bytes_per_s": 200_000}, _cut(rng, size), {"status_after": rng.randint(1, 4), "status": 404}]
    )
    mirror = origin.add(f"{path}/mirror", size=size, seed=seed)
    return origin.add(path, size=size, seed=seed, **ill), {"mirrors": [mirror]}


#: Of more than one URL, to be overcome as well: what else is asked of the job.
SEVERAL: Mapping[str, Callable[[Random, Origin, str, int, int], tuple[str, Behaviour]]] = {
    "redirect": _redirected,
    "links that expire": _signed,
    "mirror": _mirrored,
}


def draw(rng: Random, mix: Mix, origin: Origin, path: str) -> Asked:
    """Make up a job, and have its origin serve it."""
    seed = mix.next_seed()
    sizes = [0, 1, *[rng.randrange(MIB) for _ in range(4)], *[rng.randrange(most * MIB) for most in (6, 6, 16, 16, 60)]]
    size = rng.choice(sizes)
    dice = rng.random()
    if dice < 0.12:
        kind = rng.choice(list(SEVERAL))
        url, more = SEVERAL[kind](rng, origin, path, size, seed)
        fields = {**_fields(rng, seed, size, path), **more}
        return Asked(kind=kind, url=url, fields=fields, versions=[(seed, size)])
    if dice < 0.82 or size == 0:
        kind = rng.choice(list(BENIGN))
        url = origin.add(path, size=size, seed=seed, **BENIGN[kind](rng, size))
        return Asked(kind=kind, url=url, fields=_fields(rng, seed, size, path), versions=[(seed, size)])
    if dice < 0.92:
        # A change shows: what is published is one version as a whole.
        grown = rng.choice([None, size + rng.randrange(MIB)])
        url = origin.add(path, size=size, seed=seed, changes_after=rng.randint(1, 4), size_changed=grown)
        versions = [(seed, size), (seed + LATER, size if grown is None else grown)]
        return Asked(kind="change", url=url, fields={}, versions=versions)
    kind = rng.choice(["wrong checksum", "hidden change", "coded", "gone"])
    behaviour: Behaviour = {}
    checksum = f"sha256:{content_sha256(seed, size)}"
    match kind:
        case "wrong checksum":
            checksum = f"sha256:{'0' * 64}"
        case "hidden change":
            # The first byte is the same in all versions.
            size = max(size, 4096)
            checksum = f"sha256:{content_sha256(seed, size)}"
            behaviour = {"changes_after": 0, "validators_change": False}
        case "coded":
            behaviour = {"coding": rng.choice(["gzip", "br"])}
        case _:
            behaviour = {"status": rng.choice([404, 410, 403])}
    url = origin.add(path, size=size, seed=seed, **behaviour)
    fields = {"checksum": checksum}
    return Asked(kind=kind, url=url, fields=fields, versions=[], must_complete=False, must_fail=True)


def _fields(rng: Random, seed: int, size: int, path: str) -> Mapping[str, Any]:
    """Return what else is asked of the job."""
    fields: dict[str, Any] = {"connections": rng.randint(1, 6), "priority": rng.choice(["low", "normal", "high"])}
    algorithm = rng.choice([None, None, "sha256", "md5"])
    if algorithm is not None:
        digest = hashlib.new(algorithm)
        for window in content_windows(seed, size):
            digest.update(window)
        fields["checksum"] = f"{algorithm}:{digest.hexdigest()}"
    if rng.random() < 0.2:
        fields["key"] = f"named/{path}"
    return fields


def store_weather() -> Mapping[Operation, Sequence[tuple[float, Fault]]]:
    """Return what the store does to requests, with its probability."""
    busy = [(0.02, Fault(status=503, code="SlowDown")), (0.01, Fault(status=500, code="InternalError"))]
    body = [
        (0.01, Fault(status=400, code="IncompleteBody")),
        (0.01, Fault(status=400, code="ClientDisconnect")),
        (0.01, Fault(cut_after=100_000)),
        (0.01, Fault(drop_answer=True)),
        (0.02, Fault(flip_bit=True)),
    ]
    return {
        "upload_part": [*busy, *body, (0.003, Fault(status=404, code="NoSuchUpload"))],
        "put_object": [*busy, *body, (0.02, Fault(status=429, code="TooManyRequests"))],
        "create": [*busy, (0.02, Fault(drop_answer=True))],
        "complete": [*busy, (0.05, Fault(drop_answer=True)), (0.03, Fault(status=200, code="InternalError"))],
        "abort": [*busy, (0.05, Fault(drop_answer=True))],
        "list_parts": [*busy, (0.02, Fault(hide_part=1)), (0.02, Fault(invent_part=3))],
        "list_uploads": busy,
        "head": busy,
    }
