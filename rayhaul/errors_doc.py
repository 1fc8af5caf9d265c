"""Writes docs/reference/errors.md from the tree of errors: `python -m rayhaul.errors_doc`."""

import sys
from collections.abc import Iterator

from rayhaul.errors import Fault, RayhaulError, kinds

_HEAD = """# Error codes

Generated from `rayhaul/errors.py` by `make docs`. A code is the one stable word for what went wrong: in problem
documents of the API, in a job's `error`, in events, webhooks, log lines and metrics, and in what the Python client
raises. The status is that of an answer which tells of it; an error of a job stands in the job and has none.

| code | whose fault | status | tried again | meaning |
| --- | --- | --- | --- | --- |
"""
_WHOSE = {Fault.CALLER: "the caller's", Fault.SOURCE: "the source's", Fault.SINK: "the bucket's", Fault.US: "ours"}


def errors_doc() -> str:
    """Return the document: one row a code."""
    return _HEAD + "".join(_rows())


def _rows() -> Iterator[str]:
    told: set[str] = set()
    # The class that a code is named after comes first; others that carry it say the same in other words.
    for kind in sorted(kinds(), key=lambda kind: (list(Fault).index(kind.fault), kind.code, not _is_named(kind))):
        if "code" not in vars(kind) or kind.code in told or kind is RayhaulError:
            continue
        told.add(kind.code)
        status = kind.http_status if kind.fault is Fault.CALLER or kind.code == "internal" else ""
        again = "yes" if kind.retryable else "no"
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        yield f"| `{kind.code}` | {_WHOSE[kind.fault]} | {status} | {again} | {meaning} |\n"


def _is_named(kind: type[RayhaulError]) -> bool:
    return kind.__name__.lower() == kind.code.replace("_", "")


if __name__ == "__main__":
    sys.stdout.write(errors_doc())
