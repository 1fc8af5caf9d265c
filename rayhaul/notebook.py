"""What a notebook shows of a job and of a page of jobs: small tables, with everything from strangers escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from rayhaul.units import duration, percent, size

if TYPE_CHECKING:
    # The models show themselves by what is here.
    from rayhaul.wire import JobView

_COLUMNS = ("job", "status", "done", "size", "speed", "left", "name")


def job_html(job: "JobView") -> str:
    """Return one job, a fact a row; what is not known is left out."""
    facts = [
        ("job", job.id),
        ("status", job.status),
        ("source", job.url),
        ("object", f"{job.destination.bucket}/{job.destination.key}" if job.destination.key else ""),
        ("size", size(job.progress.bytes_total) if job.progress.bytes_total is not None else ""),
        ("done", percent(job.progress.bytes, job.progress.bytes_total)),
        ("speed", _speed(job)),
        ("left", duration(job.progress.eta_seconds)),
        ("agents", ", ".join(job.agents)),
        ("error", f"{job.error.code}: {job.error.message}" if job.error else ""),
    ]
    return _table("".join(f"<tr><th>{name}</th>{_cells([text])}</tr>" for name, text in facts if text))


def jobs_html(jobs: Sequence["JobView"], *, is_last: bool) -> str:
    """Return a page of jobs, one a row."""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = [f"<tr>{_cells(_row(job))}</tr>" for job in jobs]
    more = "" if is_last else "<p>and more: there is a next page</p>"
    return _table(f"<tr>{head}</tr>{''.join(rows)}") + more


def _row(job: "JobView") -> Iterable[str]:
    progress = job.progress
    name = job.filename or job.url.rstrip("/").rpartition("/")[2] or job.url
    done, total = percent(progress.bytes, progress.bytes_total), size(progress.bytes_total)
    return job.id, job.status, done, total, _speed(job), duration(progress.eta_seconds), name


def _speed(job: "JobView") -> str:
    return f"{size(job.progress.bytes_per_second)}/s" if job.progress.bytes_per_second else ""


def _table(rows: str) -> str:
    return f"<table>{rows}</table>"


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)
