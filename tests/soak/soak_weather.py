"""What the store of a soak does to requests; which faults must have happened at its end, which never do, and why."""

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from origin_faults import faults
from store_proxy import Fault, Operation

_UNTOLD_CRC = Fault(hide_headers=("x-amz-checksum-crc64nvme",))


def _busy(odds: float) -> list[tuple[float, Fault]]:
    return [(odds, Fault(status=503, code="SlowDown")), (odds, Fault(status=500, code="InternalError"))]


def _body(odds: float) -> list[tuple[float, Fault]]:
    return [
        (odds, Fault(status=400, code="IncompleteBody")),
        (odds, Fault(status=400, code="ClientDisconnect")),
        (odds, Fault(cut_after=100_000)),
        (odds, Fault(drop_answer=True)),
        (odds, Fault(flip_bit=True)),
    ]


#: By operation: faults with their probability, so that each is seen often in half an hour.
WEATHER: Mapping[Operation, Sequence[tuple[float, Fault]]] = {
    "upload_part": [
        *_busy(0.02),
        *_body(0.01),
        (0.01, _UNTOLD_CRC),
        (0.006, Fault(hang=True)),
        (0.006, Fault(status=404, code="NoSuchUpload")),
    ],
    "put_object": [
        *_busy(0.03),
        *_body(0.02),
        (0.015, Fault(hang=True)),
        (0.03, Fault(status=429, code="TooManyRequests", headers={"Retry-After": "1"})),
    ],
    "create": [*_busy(0.05), (0.05, Fault(drop_answer=True))],
    "complete": [
        *_busy(0.04),
        (0.05, Fault(drop_answer=True)),
        (0.05, Fault(status=200, code="InternalError")),
        (0.04, Fault(status=429, code="TooManyRequests")),
        (0.02, Fault(hang=True)),
    ],
    "abort": [*_busy(0.08), (0.08, Fault(drop_answer=True))],
    "list_parts": [*_busy(0.08), (0.15, Fault(hide_part=1)), (0.15, Fault(invent_part=3))],
    "list_uploads": _busy(0.08),
    "head": [*_busy(0.05), (0.05, _UNTOLD_CRC)],
}

#: For a while the bucket refuses everything.
REFUSALS = (Fault(status=403, code="AccessDenied"), Fault(status=403, code="RequestTimeTooSkewed"))

#: What a store as strict as R2 refuses though all that we do is right. Parts of different sizes are never sent to it.
STRICT = (
    "put_object: strict TooManyRequests",
    "complete: strict TooManyRequests",
    "create: strict NotImplemented",
)

#: Statuses of the origin, each for itself.
STATUSES = (400, 401, 403, 404, 405, 408, 410, 416, 429, 500, 501, 502, 503)

#: Of the origin, what a soak never makes happen, or what never happens by itself.
NOT_OF_THE_ORIGIN: Mapping[str, str] = {
    "content_type": "a label, nothing depends on it",
    "headers": "what they say is of other faults",
    "head": "nobody asks with HEAD",
    "truncate_by=ragged": "is of TLS, and the soak's origin speaks plain HTTP",
    "faults_max": "says how often others strike",
    "drip_bytes_per_s": "says how slow a drip is",
    "uses_max": "every request begins at the original URL: no link behind a redirect is used twice",
}

#: Of the proxy: fields of its faults and operations that have none.
NOT_OF_THE_STORE: Mapping[str, str] = {
    "replace_headers": "a HEAD that shows other bytes than are there fails the job, as it must: nobody can tell",
    "copy_part": "no source is in the bucket",
    "lifecycle": "asked for once",
    "other": "what the soak itself looks at",
}

#: What is done to the whole, each every so often.
UPHEAVALS = (
    "agent killed",
    "scheduler killed",
    "store killed",
    "store cut off",
    "bucket refuses",
    "strict as R2",
    "origin crowded",
)


def of_the_store() -> Iterator[str]:
    """Yield all that the store must have done, as the proxy counts it."""
    for operation, odds in WEATHER.items():
        yield from (f"{operation}: {fault.name}" for _, fault in odds)
    yield from (f"all: {fault.name}" for fault in REFUSALS)
    yield from (*STRICT, "is_down")


def of_the_origin() -> Iterator[str]:
    """Yield all that the origin must have done, as it counts it."""
    yield from sorted(faults() - set(NOT_OF_THE_ORIGIN))
    yield from (f"status={status}" for status in STATUSES)
    yield "requests_max"


def operations() -> frozenset[str]:
    return frozenset(get_args(Operation))


def least(planned_s: float) -> int:
    """Return how often each fault must have happened at least: once in each half hour; a short run proves nothing."""
    return int(planned_s / 1800)


def never(happened: Mapping[str, Mapping[str, int]], planned_s: float) -> list[str]:
    """Return what happened more seldom than it must have, of `origin`, `store` and `cluster`."""
    wanted = {"origin": [*of_the_origin()], "store": [*of_the_store()], "cluster": [*UPHEAVALS]}
    return [
        f"{where}, {name}"
        for where, names in wanted.items()
        for name in names
        if happened[where].get(name, 0) < least(planned_s)
    ]
