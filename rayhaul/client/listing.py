"""Lists of jobs in files: one URL a line, CSV with a header, or JSON lines; read as they are needed, never whole.

    https://files.example/a.tar                       lines: `#` and what follows a space and `#` is a remark
    url,key,tags.set                                  CSV: a column is a field of a job, `tags.NAME` one entry of it
    {"url": "https://…", "checksum": "sha256:…"}      JSON lines: any field of a job

Field names are the API's (`sizeBytesMax`) or Python's (`size_bytes_max`). An empty CSV cell is the same as not said.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from rayhaul.client.errors import BadRequest
from rayhaul.client.fields import request
from rayhaul.wire import JobRequest

#: Fields with several entries: written `mirrors` or `tags.NAME` in CSV.
_LISTS = frozenset({"mirrors"})
_MAPPINGS = frozenset({"tags", "headers"})
_BLOCK_BYTES = 1024 * 1024


class ListFormat(StrEnum):
    LINES = "lines"
    CSV = "csv"
    JSONL = "jsonl"


_BY_ENDING: Mapping[str, ListFormat] = {
    ".csv": ListFormat.CSV,
    ".jsonl": ListFormat.JSONL,
    ".ndjson": ListFormat.JSONL,
}


@dataclass(frozen=True, slots=True)
class Entry:
    #: From 1.
    line: int
    #: Of a job, as `submit_many` takes them.
    fields: Mapping[str, Any]


class ListError(ValueError):
    """A line of a list that is no job. Its text names the line and what is wrong, and repeats no value."""


def format_of(path: Path) -> ListFormat:
    """Return the format that a file's name says.

    >>> format_of(Path("a/list.csv")).value, format_of(Path("urls")).value
    ('csv', 'lines')
    """
    return _BY_ENDING.get(path.suffix.lower(), ListFormat.LINES)


def read(lines: Iterable[str], written_as: ListFormat) -> Iterator[Entry]:
    """Yield the jobs of a list. Raises: ListError."""
    match written_as:
        case ListFormat.LINES:
            return _read_lines(lines)
        case ListFormat.CSV:
            return _read_csv(lines)
        case ListFormat.JSONL:
            return _read_jsonl(lines)


def check(entries: Iterable[Entry]) -> int:
    """Read a list to its end and return how many jobs it has. Raises: ListError at the first that is none."""
    count = 0
    for entry in entries:
        try:
            request(JobRequest, entry.fields)
        except BadRequest as error:
            wrong = "; ".join(f"{found['field']}: {found['message']}" for found in error.fields)
            raise ListError(f"line {entry.line}: {wrong or error.detail}") from None
        count += 1
    return count


def fingerprint(file: BinaryIO, *options: object) -> str:
    """Return what tells this list, asked for with these options, from any other: it makes its Idempotency-Keys."""
    digest = hashlib.sha256(repr(options).encode())
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _read_lines(lines: Iterable[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        url = line.strip()
        if url and not url.startswith("#"):
            # A URL has no spaces, and its own `#` follows none.
            yield Entry(number, {"url": url.split(" #", 1)[0].rstrip()})


def _read_jsonl(lines: Iterable[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ListError(f"line {number}: this is no JSON") from error
        if not isinstance(fields, dict):
            raise ListError(f"line {number}: a job is written as a JSON object")
        yield Entry(number, fields)


def _read_csv(lines: Iterable[str]) -> Iterator[Entry]:
    # Strict: a quote that never closes must not swallow the rest of the file.
    rows = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if "url" not in header:
            raise ListError("line 1: the header of the CSV names no column `url`")
        for row in rows:
            if any(row):
                yield Entry(rows.line_num, _csv_fields(header, row, rows.line_num))
    except csv.Error as error:
        raise ListError(f"line {rows.line_num}: {error}") from error


def _csv_fields(header: list[str], row: list[str], line: int) -> Mapping[str, Any]:
    if len(row) != len(header):
        raise ListError(f"line {line}: it has {len(row)} columns, the header has {len(header)}")
    fields: dict[str, Any] = {}
    for name, cell in zip(header, row, strict=True):
        group, dot, entry = name.partition(".")
        if not cell:
            continue
        if dot and group in _MAPPINGS:
            fields.setdefault(group, {})[entry] = cell
        elif name in _LISTS:
            fields[name] = cell.split()
        else:
            fields[name] = cell
    return fields
