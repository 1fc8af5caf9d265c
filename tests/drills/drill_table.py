"""What the drills found: a row for each fault, printed at the end of the run and kept in two files.

Laws of this file:
1. A drill that fails leaves a row that says so, in the place of an older one that was good.
2. A run of some drills leaves the rows of the others as they were; each row says when it was measured.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).absolute().parents[2]
JSON_PATH = _ROOT / "bench" / "results" / "drills.json"
MARKDOWN_PATH = _ROOT / "docs" / "drills.md"
_COLUMNS = (
    *("", "fault", "detected after", "by", "recovered after", "jobs", "lost", "double", "verdict"),
    *("measured", "remarks"),
)
_PREFACE = """\
# Drills

Faults on a running Rayhaul, made with real processes by `make drill` (tests/drills); this table is written by it.

**detected after**: from the fault to its first sign (named beside it). **recovered after**: from the fault until every
job was final and the service took jobs again. **lost**: jobs answered 201 that are missing, not final, or completed
without the right bytes (size and SHA-256 of the object in the bucket against the origin's). **double**: jobs with more
than one completion. A row marked *null test* has a safety switched off: it must be red, or the drill proves nothing.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the ledger and the bucket say of the jobs that were answered 201."""

    jobs: int
    #: One sentence for each job that is lost.
    lost: Sequence[str]
    #: Ids of jobs with more than one completion.
    double: Sequence[str]
    #: One sentence for each history that makes no sense.
    broken: Sequence[str]
    statuses: Mapping[str, int]


@dataclass(slots=True, kw_only=True)
class Drill:
    """One row while it is being measured. A fault may strike several times: the median and the longest are shown."""

    drill: str
    fault: str
    #: Whether a safety is off, so that the drill must find something.
    null: bool = False
    clock: Callable[[], float] = time.monotonic
    remarks: list[str] = field(default_factory=list)
    #: What was seen first, once for each kind of it.
    signs: list[str] = field(default_factory=list)
    audit: Audit | None = None
    _struck_at_s: float | None = None
    _is_seen: bool = False
    _detected_s: list[float] = field(default_factory=list)
    _recovered_s: list[float] = field(default_factory=list)

    def strike(self) -> None:
        """Begin to measure: the fault is here, or there again."""
        self._struck_at_s = self.clock()
        self._is_seen = False

    def see(self, sign: str) -> None:
        """Note the sign that has just been seen; the first one after the fault counts."""
        if not self._is_seen:
            self._is_seen = True
            self._detected_s.append(self.elapsed_s())
            if sign not in self.signs:
                self.signs.append(sign)

    def recover(self) -> None:
        """Note that all is well again."""
        self._recovered_s.append(self.elapsed_s())

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def elapsed_s(self) -> float:
        """Return the seconds since the fault."""
        assert self._struck_at_s is not None, "nothing has struck yet"
        return self.clock() - self._struck_at_s

    def row(self, *, passed: bool) -> dict[str, Any]:
        return {
            "drill": self.drill,
            "fault": self.fault,
            "null": self.null,
            "verdict": _verdict(null=self.null, passed=passed),
            "detected_s": _rounded(self._detected_s),
            "sign": " / ".join(self.signs),
            "recovered_s": _rounded(self._recovered_s),
            "jobs": self.audit.jobs if self.audit else None,
            "lost": len(self.audit.lost) if self.audit else None,
            "double": len(self.audit.double) if self.audit else None,
            "statuses": dict(self.audit.statuses) if self.audit else {},
            "remarks": "; ".join(self.remarks),
            "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        }


#: `begin("F30", "what happens")` gives a Drill whose row goes to the table when the test is over.
Begin = Callable[..., Drill]


def _verdict(*, null: bool, passed: bool) -> str:
    if null:
        return "red, as it must be" if passed else "NOT RED"
    return "held" if passed else "FAILED"


def _rounded(values_s: Iterable[float]) -> list[float]:
    return [round(value_s, 2) for value_s in values_s]


class Table:
    """All rows, those of earlier runs included."""

    def __init__(self, path: Path = JSON_PATH) -> None:
        self._path = path
        self._fresh: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        self._fresh[row["drill"], row["fault"]] = row

    @property
    def verdicts(self) -> Counter[str]:
        """How this run's drills went."""
        return Counter(row["verdict"] for row in self._fresh.values())

    @property
    def rows(self) -> list[dict[str, Any]]:
        earlier = json.loads(self._path.read_text()) if self._path.exists() else []
        rows = {(row["drill"], row["fault"]): row for row in earlier} | self._fresh
        return [rows[key] for key in sorted(rows)]

    def write(self, markdown: Path = MARKDOWN_PATH) -> None:
        rows = self.rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        lines = [f"| {' | '.join(line)} |" for line in [_COLUMNS, ["---"] * len(_COLUMNS), *map(_cells, rows)]]
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(_PREFACE + "\n".join(lines) + "\n")

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [_COLUMNS[:-1], *(_cells(row)[:-1] for row in self.rows)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["drill"],
        f"null test: {row['fault']}" if row["null"] else row["fault"],
        _times(row["detected_s"]),
        row["sign"] or "–",
        _times(row["recovered_s"]),
        *("–" if row[name] is None else str(row[name]) for name in ("jobs", "lost", "double")),
        row["verdict"],
        row["at"].split()[0],
        row["remarks"],
    ]


def _times(values_s: Sequence[float]) -> str:
    if not values_s:
        return "–"
    if len(values_s) == 1:
        return f"{values_s[0]:.1f} s"
    ordered = sorted(values_s)
    return f"{ordered[len(ordered) // 2]:.1f} s (longest of {len(ordered)}: {ordered[-1]:.1f} s)"
