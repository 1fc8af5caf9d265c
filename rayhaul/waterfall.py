"""Where a job's time went, by its events: stages with a beginning and an end, for people without a trace store.

Laws of this file:
1. Pure: the same events and the same moment give the same stages.
2. From creation to the end, or to now, each moment is in a stage; in several only where several agents work.
3. What a newer server tells is passed over where it is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from rayhaul.errors import ChecksumMismatch, SourceChanged, UploadLost
from rayhaul.job import FINAL, JobEvent, JobStatus

#: Requeued for one of these, a job's file is looked at anew.
_LOOKED_AT_ANEW = frozenset({SourceChanged.code, UploadLost.code, ChecksumMismatch.code})


class StageName(StrEnum):
    #: Until it is known what the file is.
    METADATA = "metadata"
    #: Ready, without an agent.
    QUEUED = "queued"
    #: Until the time of its next attempt.
    WAITING = "waiting"
    #: In one agent's hands.
    DOWNLOADING = "downloading"
    #: The object is completed and verified.
    UPLOADING = "uploading"
    PAUSED = "paused"
    #: Failed or cancelled, until somebody began it again.
    OVER = "over"


class Happened(Protocol):
    """An event, from the ledger or off the wire."""

    @property
    def ts(self) -> datetime: ...
    @property
    def event(self) -> str: ...
    @property
    def status(self) -> JobStatus: ...
    @property
    def payload(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    name: StageName
    began_at: datetime
    #: None while it goes on.
    ended_at: datetime | None = None
    attempt: int | None = None
    agent: str | None = None
    #: The event that cut it short, and the code it told; None where the next stage followed as it should.
    cut_by: JobEvent | None = None
    code: str | None = None

    def seconds(self, now: datetime) -> float:
        return max(0.0, ((self.ended_at or now) - self.began_at).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    status: JobStatus
    began_at: datetime
    #: None while the job is not final.
    ended_at: datetime | None
    stages: Sequence[Stage]

    def seconds(self, now: datetime) -> float:
        return max(0.0, ((self.ended_at or now) - self.began_at).total_seconds())


def waterfall(events: Sequence[Happened], now: datetime) -> Waterfall | None:
    """Return the stages of a job's history, by their beginning; None where there is no history."""
    if not events:
        return None
    told = _Telling(events[0].ts)
    for event in events:
        told.hear(event)
    last = events[-1]
    is_final = last.status in FINAL
    return Waterfall(
        status=last.status,
        began_at=events[0].ts,
        ended_at=told.moved_at if is_final else None,
        stages=tuple(told.stages(now)),
    )


class _Telling:
    """The events so far, as stages that have ended and those that go on."""

    def __init__(self, began_at: datetime) -> None:
        self._ended: list[Stage] = []
        self._open: list[Stage] = []
        self._has_metadata = False
        #: Of a job that waits for its next attempt.
        self._due: datetime | None = None
        #: When its state changed last.
        self.moved_at = began_at

    def hear(self, event: Happened) -> None:
        match event.event:
            case JobEvent.CREATED | JobEvent.RESUMED:
                self._end(event)
                self._wait(event)
            case JobEvent.METADATA:
                # What was taken for a wait for an agent was one for this.
                self._has_metadata = False
                waits = {StageName.QUEUED: StageName.METADATA}
                self._open = [replace(stage, name=waits.get(stage.name, stage.name)) for stage in self._open]
                self._end(event)
                self._has_metadata = True
                self._wait(event)
            case JobEvent.STARTED:
                if not self._is_downloading:
                    self._end(event)
                self._begin(event, StageName.DOWNLOADING)
            case JobEvent.UPLOADING:
                self._end(event)
                self._begin(event, StageName.UPLOADING)
            case JobEvent.COMPLETED:
                self._end(event)
            case JobEvent.REQUEUED:
                self._requeue(event)
            case JobEvent.PAUSED:
                self._end(event, cut_by=JobEvent.PAUSED)
                self._begin(event, StageName.PAUSED)
            case JobEvent.FAILED | JobEvent.CANCELLED:
                self._end(event, cut_by=JobEvent(event.event))
                self._begin(event, StageName.OVER)

    def stages(self, now: datetime) -> Sequence[Stage]:
        """Return all of them; that a job is over and stays so is none."""
        going_on = [
            part for stage in self._open if stage.name is not StageName.OVER for part in self._parted(stage, now)
        ]
        return sorted([*self._ended, *going_on], key=lambda stage: stage.began_at)

    @property
    def _is_downloading(self) -> bool:
        return any(stage.name is StageName.DOWNLOADING for stage in self._open)

    def _requeue(self, event: Happened) -> None:
        was_over = any(stage.name is StageName.OVER for stage in self._open)
        if was_over or event.payload.get("code") in _LOOKED_AT_ANEW:
            self._has_metadata = False
        self._end(event, cut_by=None if was_over else JobEvent.REQUEUED)
        self._due = _moment(event.payload.get("nextAttemptAt"))
        if self._due is not None and self._due > event.ts:
            self._begin(event, StageName.WAITING)
        else:
            self._wait(event)

    def _wait(self, event: Happened) -> None:
        self._begin(event, self._ready)

    def _begin(self, event: Happened, name: StageName) -> None:
        works = name in (StageName.DOWNLOADING, StageName.UPLOADING)
        attempt, agent = event.payload.get("attempt"), event.payload.get("agent")
        self._open.append(
            Stage(
                name=name,
                began_at=event.ts,
                attempt=attempt if works and isinstance(attempt, int) else None,
                agent=agent if works and isinstance(agent, str) else None,
            )
        )

    def _end(self, event: Happened, *, cut_by: JobEvent | None = None) -> None:
        """End what goes on."""
        code = event.payload.get("code") if cut_by is not None else None
        for stage in self._open:
            *before, last = self._parted(stage, event.ts)
            self._ended += [*before, replace(last, ended_at=event.ts, cut_by=cut_by, code=code)]
        self._open, self._due = [], None
        self.moved_at = event.ts

    def _parted(self, stage: Stage, now: datetime) -> Sequence[Stage]:
        """Return a stage; a wait whose time is over in two, the second of which is the wait for somebody to act."""
        due = self._due
        if stage.name is not StageName.WAITING or due is None or not stage.began_at < due < now:
            return (stage,)
        return replace(stage, ended_at=due), replace(stage, name=self._ready, began_at=due)

    @property
    def _ready(self) -> StageName:
        return StageName.QUEUED if self._has_metadata else StageName.METADATA


def _moment(text: object) -> datetime | None:
    """Return the time that an event's payload tells; None where it tells none."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
