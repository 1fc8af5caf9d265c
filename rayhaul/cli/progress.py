"""Progress for people: bars on a terminal, now and then a line without one, nothing for machines."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from rayhaul.cli.following import FOLLOWED_MAX, Display
from rayhaul.cli.output import name_of, percent, plain, say
from rayhaul.job import JobEvent, JobStatus
from rayhaul.units import duration, size
from rayhaul.wire import EventView, JobView, ProgressView

#: Without a terminal a job's progress is told this often.
LINE_S = 5.0

#: `100% 1023.9 MiB of 1.4 GiB downloading 47:59:59` and the blanks between all columns.
_FIGURES_COLUMNS = 50
_NAME_COLUMNS_MIN, _NAME_COLUMNS_MAX = 12, 40
_BAR_COLUMNS_MIN, _BAR_COLUMNS_MAX = 4, 40

#: The beginning and the ends of a job, and progress.
_TOLD_ELSEWHERE = frozenset(
    {JobEvent.CREATED, JobEvent.PROGRESS, JobEvent.COMPLETED, JobEvent.FAILED, JobEvent.CANCELLED}
)


def progress_of(event: EventView) -> ProgressView | None:
    """Return the progress that an event tells of, if it does."""
    if event.event != JobEvent.PROGRESS:
        return None
    try:
        return ProgressView.model_validate(event.payload)
    except ValidationError:
        # Of a newer server. The end of the job is what counts.
        return None


def reason_of(event: EventView) -> str:
    """Return why a job was handed back or given up, as far as its event says."""
    code, message = event.payload.get("code"), event.payload.get("message")
    return plain(f"{code}: {message}" if message else code or "")


def _rate(progress: ProgressView) -> str:
    return f"{size(progress.bytes_per_second)}/s" if progress.bytes_per_second else ""


class Silence:
    """The display for machines."""

    def begin(self, job_id: str) -> None: ...

    def show(self, event: EventView) -> None: ...

    def end(self, job: JobView) -> None: ...


class Lines:
    """A line for each step of a job, and for its progress now and then."""

    def __init__(self, names: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = dict(names)
        self._clock = clock
        self._told_s: dict[str, float] = {}

    def begin(self, job_id: str) -> None:
        say(f"{job_id} {self._name(job_id)}")

    def show(self, event: EventView) -> None:
        progress = progress_of(event)
        if progress is not None:
            self._show_progress(event.job_id, progress)
            return
        if event.event == JobEvent.METADATA:
            self._names[event.job_id] = str(event.payload.get("filename") or self._name(event.job_id))
        if event.event not in _TOLD_ELSEWHERE:
            told = (event.event, reason_of(event))
            say(" ".join(word for word in (event.job_id, self._name(event.job_id), *told) if word))

    def end(self, job: JobView) -> None:
        told = size(job.result.size_bytes) if job.result else ""
        say(" ".join(word for word in (job.id, name_of(job), job.status, told) if word))

    def _show_progress(self, job_id: str, progress: ProgressView) -> None:
        now_s = self._clock()
        if now_s - self._told_s.get(job_id, now_s - LINE_S) < LINE_S:
            return
        self._told_s[job_id] = now_s
        left = duration(progress.eta_seconds)
        told = (
            f"{size(progress.bytes)} of {size(progress.bytes_total)}",
            percent(progress),
            _rate(progress),
            f"{left} left" if left else "",
        )
        say(f"{job_id} {self._name(job_id)} {', '.join(word for word in told if word)}")

    def _name(self, job_id: str) -> str:
        return plain(self._names.get(job_id, ""))


class Bars:
    """A bar a job; where there are more than fit the screen, those that have ended make room."""

    def __init__(self, bars: Progress, names: Mapping[str, str]) -> None:
        self._bars = bars
        self._names = names
        self._rows: dict[str, TaskID] = {}
        self._total: TaskID | None = None
        if len(names) > 1:
            self._total = bars.add_task("all", total=len(names), done=f"0 of {len(names)} jobs", rate="", left="")

    def begin(self, job_id: str) -> None:
        name = plain(self._names.get(job_id, job_id))
        self._rows[job_id] = self._bars.add_task(name, total=None, done="", rate="queued", left="")

    def show(self, event: EventView) -> None:
        row = self._rows[event.job_id]
        progress = progress_of(event)
        if progress is not None:
            self._bars.update(
                row,
                completed=progress.bytes,
                total=progress.bytes_total,
                done=f"{size(progress.bytes)} of {size(progress.bytes_total)}",
                rate=_rate(progress),
                left=duration(progress.eta_seconds),
            )
            return
        if event.event == JobEvent.METADATA:
            total = event.payload.get("sizeBytes")
            name = plain(event.payload.get("filename") or self._names.get(event.job_id, event.job_id))
            self._bars.update(row, description=name, total=total, done=f"0 B of {size(total)}")
            return
        word = "verifying" if event.status is JobStatus.UPLOADING else event.status.value
        self._bars.update(row, rate=" ".join(filter(None, (word, reason_of(event)))), left="")

    def end(self, job: JobView) -> None:
        row = self._rows[job.id]
        done = job.result.size_bytes if job.result else job.progress.bytes
        total = job.result.size_bytes if job.result else job.progress.bytes_total
        # An empty file is done as well: a bar of nothing would never be full.
        self._bars.update(
            row,
            description=name_of(job),
            completed=done if total else int(job.result is not None),
            total=total or 1,
            done=size(done),
            rate=job.error.code if job.error and job.status is JobStatus.FAILED else job.status.value,
            left="",
        )
        if self._total is not None:
            self._bars.advance(self._total)
            ended = round(next(task.completed for task in self._bars.tasks if task.id == self._total))
            self._bars.update(self._total, done=f"{ended} of {len(self._names)} jobs")
        if len(self._names) > FOLLOWED_MAX:
            self._bars.remove_task(row)


@contextmanager
def display(names: Mapping[str, str], *, quiet: bool) -> Iterator[Display]:
    """Yield the display that suits; `names` are the jobs' ids and what to call them until their files are known."""
    if quiet:
        yield Silence()
        return
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield Lines(names)
        return
    with bars_on(Console(stderr=True, highlight=False)) as bars:
        yield Bars(bars, names)


def bars_on(console: Console) -> Progress:
    """Return a `Progress` for `Bars`: names and bars give way where it is narrow, not figures."""
    spare_columns = console.width - _FIGURES_COLUMNS
    name_columns = min(max(spare_columns * 2 // 3, _NAME_COLUMNS_MIN), _NAME_COLUMNS_MAX)
    bar_columns = min(max(spare_columns - name_columns, _BAR_COLUMNS_MIN), _BAR_COLUMNS_MAX)
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(max_width=name_columns, no_wrap=True)),
        # What may be wrapped is what rich makes narrow first.
        BarColumn(bar_columns, table_column=Column(no_wrap=True)),
        TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[done]}", markup=False, table_column=Column(no_wrap=True, justify="right")),
        TextColumn("{task.fields[rate]}", markup=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
    )
