"""Which uploads a sweep tells of, and which of those the scheduler has aborted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from actors.book import Book
from actors.draft import Draft
from actors.sweeping import Sweeping, mark_strays
from rayhaul.ids import IdFactory
from rayhaul.job import Job, JobSpec, JobStatus
from rayhaul.lease import Lease, OpenUpload, SessionState, UploadSession
from rayhaul.policy.naming import job_of_key, object_key
from rayhaul.report import Swept
from rayhaul.settings import SweepSettings
from tasks.sweep import stray

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEW_ID = IdFactory()
JOB = Job(
    id=NEW_ID("job"),
    user_id="ann",
    correlation_id="corr-12345",
    spec=JobSpec(url="https://a.example/f"),
    created_at=NOW,
)
LEFT = UploadSession(
    session_id="ses_1",
    job_id=JOB.id,
    bucket="b",
    key=f"in/{JOB.id}/f",
    upload_id="upload_1",
    part_bytes=0,
    size_bytes=None,
    state=SessionState.ABORTING,
    created_at=NOW - timedelta(hours=2),
)


@pytest.mark.parametrize("prefix", ["", "in/", "in/deeper/", "in"])
def test_keys_of_jobs(prefix: str) -> None:
    """A key that is made from a job's id tells it; one that a caller named, or under another prefix, tells none."""
    assert job_of_key(prefix, object_key(prefix, JOB.id, None, "a/b c.iso")) == JOB.id
    for key in ("file.iso", "jobs/file.iso", f"{JOB.id}", "job_1/file.iso", f"x{JOB.id}/file.iso"):
        assert job_of_key(prefix, object_key(prefix, JOB.id, key, "")) is None
    assert job_of_key("other/", object_key(prefix, JOB.id, None, "f")) is None


def test_young_uploads_are_left_alone() -> None:
    """Only what is old enough is told of."""
    order = sweeping().order(at(600), NOW)
    assert order is not None
    uploads = [
        OpenUpload(key=f"in/{JOB.id}/f", upload_id=str(minutes), initiated_at=NOW - timedelta(minutes=minutes))
        for minutes in (0, 59, 60, 600)
    ]
    named = OpenUpload(key="in/named.iso", upload_id="named", initiated_at=NOW - timedelta(days=9))
    of_jobs, others = stray([*uploads, named], order, now=NOW)
    assert [upload.upload_id for _, upload in of_jobs] == ["60", "600"]
    assert others == [], "it may be anybody's"
    young = replace(named, upload_id="young", initiated_at=NOW - timedelta(minutes=59))
    ours = replace(order, owns_prefix=True)
    assert stray([*uploads, named, young], ours, now=NOW) == (of_jobs, [named])


def at(second: int) -> Draft:
    """Return the draft of a turn, so long after the first one."""
    return Draft(Book(), NOW + timedelta(seconds=second), NEW_ID)


def sweeping() -> Sweeping:
    made, draft = Sweeping(SweepSettings(), prefix="in/", new_id=NEW_ID), at(0)
    assert made.order(draft, None) is None, "not at once: agents have to report first"
    assert draft.swept_at == NOW
    return made


def test_a_look_every_ten_minutes() -> None:
    """One order an interval, whatever became of the last one; and one where the last one is still to come."""
    due, swept_at, seen = sweeping(), NOW, []
    for second in range(0, 1801, 10):
        if due.order(draft := at(second), swept_at) is not None:
            seen.append(second)
        swept_at = draft.swept_at or swept_at
    assert seen == [600, 1200, 1800]
    assert due.order(at(0), NOW + timedelta(hours=1)) is not None, "the clock was set back"


def aborted(
    uploads: list[UploadSession],
    *,
    book: Book | None = None,
    loaded: Job | None = JOB,
    over: UploadSession | None = None,
) -> list[str]:
    """Return the ids of the uploads that a draft has aborted."""
    draft = Draft(book or Book(), NOW, NEW_ID)
    if over is not None:
        draft.load_session(over)
    if loaded is not None:
        draft.load(loaded)
    assert mark_strays(draft, Swept(notice_id="n", order_id="o", uploads=tuple(uploads)))
    return [session.upload_id for session in draft.seal().sessions if session.state is SessionState.ABORTING]


def test_uploads_of_our_jobs_that_no_session_accounts_for() -> None:
    """One that nobody was told of goes, once; one of a job that our ledger does not know is another cluster's."""
    assert aborted([LEFT, replace(LEFT, session_id="ses_2")]) == ["upload_1"]
    assert aborted([LEFT], loaded=None) == []
    # The report came twice, and the upload was gone before the second time.
    assert aborted([LEFT], over=replace(LEFT, state=SessionState.ABORTED)) == []


def test_uploads_in_use_stay() -> None:
    """Those of an open session, or being aborted already, or opened under a lease that still stands."""
    book = Book()
    book.merge(
        jobs=(),
        granted=(),
        ended=(),
        trimmed=(),
        parts=(),
        sessions=[
            replace(LEFT, session_id="ses_open", state=SessionState.OPEN, upload_id="open"),
            replace(LEFT, session_id="ses_gone", upload_id="aborting"),
        ],
        now_s=NOW.timestamp(),
    )
    told = [replace(LEFT, session_id=f"ses_{name}2", upload_id=name) for name in ("open", "aborting", "stray")]
    assert aborted(told, book=book) == ["stray"]
    lease = Lease(
        lease_id="lease_1",
        job_id=JOB.id,
        epoch=1,
        agent="agent-1",
        incarnation="inc_1",
        first_part=1,
        end_part=2,
        granted_at=LEFT.created_at - timedelta(seconds=5),
    )
    book.merge(jobs=(), granted=[lease], ended=(), trimmed=(), parts=(), sessions=(), now_s=NOW.timestamp())
    assert aborted(told, book=book) == []
    before = [replace(told[2], created_at=lease.granted_at - timedelta(minutes=5))]
    assert aborted(before, book=book) == ["stray"]


def test_uploads_under_keys_that_callers_named() -> None:
    """Those go that no session is, and that no lease of any job with that key may have opened."""
    named = replace(JOB, spec=replace(JOB.spec, key="f.iso"), key="in/f.iso", status=JobStatus.DOWNLOADING)
    lease = Lease(
        lease_id="lease_1",
        job_id=named.id,
        epoch=1,
        agent="agent-1",
        incarnation="inc_1",
        first_part=1,
        end_part=2,
        granted_at=NOW - timedelta(hours=2),
    )
    book = Book()
    known = replace(LEFT, session_id="ses_open", key="in/f.iso", state=SessionState.OPEN, upload_id="open")
    book.merge(jobs=[named], granted=[lease], ended=(), trimmed=(), sessions=[known], parts=(), now_s=NOW.timestamp())

    def found(key: str, upload_id: str, *, hours: float) -> OpenUpload:
        return OpenUpload(key=key, upload_id=upload_id, initiated_at=NOW - timedelta(hours=hours))

    told = Swept(
        notice_id="n",
        order_id="o",
        uploads=(),
        named=(
            found("in/f.iso", "open", hours=3),
            found("in/f.iso", "under way", hours=1.9),
            # Our clock may be a little ahead of the store's.
            found("in/f.iso", "skewed", hours=2 + 30 / 3600),
            found("in/f.iso", "before", hours=3),
            found("in/g.iso", "other", hours=1.9),
        ),
    )
    draft = Draft(book, NOW, NEW_ID)
    assert mark_strays(draft, told)
    assert [upload.upload_id for upload in draft.nobodys] == ["before", "other"]
    assert not draft.seal().sessions
    order = sweeping().order(draft, NOW)
    assert order is not None
    assert list(order.nobodys) == draft.nobodys


def test_the_upload_of_stripes_stays() -> None:
    """However many leases have come and gone, and whichever agents hold the rest, their one upload is not a stray."""
    book = Book()
    stripes = [
        Lease(
            lease_id=f"lease_{epoch}",
            job_id=JOB.id,
            epoch=epoch,
            agent=f"agent-{epoch}",
            incarnation="inc_1",
            first_part=10 * epoch,
            end_part=10 * epoch + 10,
            # Long after the upload was opened: it is the session alone that accounts for it.
            granted_at=NOW - timedelta(minutes=epoch),
        )
        for epoch in (2, 3, 4)
    ]
    book.merge(
        jobs=(),
        granted=stripes,
        ended=(),
        trimmed=(replace(stripes[0], end_part=25),),
        sessions=[replace(LEFT, session_id="ses_open", state=SessionState.OPEN, upload_id="open")],
        parts=(),
        now_s=NOW.timestamp(),
    )
    told = [replace(LEFT, session_id="ses_2", upload_id=name) for name in ("open", "stray")]
    assert aborted(told, book=book) == ["stray"]
    for lease in stripes:
        book.merge(jobs=(), granted=(), ended=[lease.lease_id], trimmed=(), sessions=(), parts=(), now_s=0.0)
        assert aborted(told, book=book) == ["stray"]
