"""A ledger of 100,000 jobs: what is asked again and again goes by its index straight to its rows.

The plans are those of the statements that are really sent, asked of databases that know how long their tables are.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_samples import NOW, OPERATOR, a_message, a_part, a_record, a_session, an_event

from rayhaul.job import Job, JobEvent, JobResult, JobSpec, JobStatus, Metadata
from rayhaul.lease import SessionState
from rayhaul.ledger import connect, migrate, read, write
from rayhaul.ledger.base import Batch, JobFilter, Viewer
from rayhaul.ledger.deliveries import DisabledWebhook
from rayhaul.ledger.sealing import PLAIN
from rayhaul.settings import LedgerSettings

_JOBS = 100_000
_BATCH_JOBS = 5000
_USERS = 100
_MIDDLE = _JOBS // 2
_HISTORY_EVENTS = 500
#: Most rows a query may look at for one that it returns, and more if it returns few: those of a user's other statuses,
#: say, where there is no index for the two conditions together.
_LOOKED_AT_MAX = 10
_LOOKED_AT_ALWAYS = 500
#: Of each upload.
_PARTS = 10
USER = Viewer("user_7")
#: Of a third of all jobs, whoever owns them.
TAG = ("tier", "1")
_SPECS = [JobSpec(url="https://files.example/a.iso", tags={"tier": str(tier)}) for tier in range(3)]


def a_version(number: int) -> dict[str, Any]:
    """Return what a job found and brought; fifty jobs of a user have the same file."""
    found = Metadata(
        size_bytes=1000,
        content_type=None,
        etag=f'"v{number // _BATCH_JOBS}"',
        last_modified=None,
        rangeable=True,
        filename="a.iso",
        final_url="https://files.example/a.iso",
        fetch_ms=1,
    )
    sha256 = f"{number // _BATCH_JOBS:064x}"
    result = JobResult(bucket="bucket", key="a.iso", size_bytes=1000, etag="abc", sha256=sha256)
    return {"metadata": found, "result": result}


def a_numbered_job(number: int) -> Job:
    """Return one of a busy service's jobs: most are done, some wait or run, few failed."""
    by_rest = {0: JobStatus.FAILED, 1: JobStatus.QUEUED, 2: JobStatus.DOWNLOADING}
    status = by_rest.get(number % 101, JobStatus.COMPLETED)
    is_known = status is JobStatus.COMPLETED and number % 20 == 1
    return Job(
        id=f"job_{number:026}",
        user_id=f"user_{number % _USERS}",
        correlation_id="corr-1234",
        spec=_SPECS[number % 3],
        created_at=NOW,
        status=status,
        dead_lettered_at=NOW if status is JobStatus.FAILED and number % 2 else None,
        **(a_version(number) if is_known else {}),
    )


def a_disabled_webhook(number: int) -> DisabledWebhook:
    return DisabledWebhook(
        user_id=f"user_{number % _USERS}",
        url=f"https://hooks.example/{number}",
        receiver="hooks.example",
        disabled_at=NOW,
        last_at=NOW,
    )


@pytest.fixture(scope="module")
def batches() -> Sequence[Batch]:
    """Everything that is loaded, made once for both databases."""
    found = []
    for first in range(0, _JOBS, _BATCH_JOBS):
        jobs = [a_numbered_job(number) for number in range(first, first + _BATCH_JOBS)]
        later = NOW + timedelta(hours=1)
        sessions = [a_session(jobs[0]), *(a_session(job, state=SessionState.COMPLETED) for job in jobs[::20])]
        postponed = [a_message(job, attempts=1, next_attempt_at=later) for job in jobs[1::50]]
        found.append(
            Batch(
                jobs_new=jobs,
                events=[
                    *map(an_event, jobs),
                    *([an_event(jobs[0], JobEvent.METADATA)] * (_HISTORY_EVENTS if first == _MIDDLE else 0)),
                ],
                sessions=sessions,
                parts=[a_part(session, number) for session in sessions for number in range(1, _PARTS + 1)],
                idempotency=[a_record(USER, job.id, job, created_at=later) for job in jobs[::20]],
                outbox=[*map(a_message, jobs[::50]), *postponed],
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What the database says of one statement."""

    text: str
    #: Rows that were looked at and rows that came out; PostgreSQL counts them.
    looked_at: int = 0
    returned: int = 0


Query = Callable[[sa.Connection], Any]


def plans(engine: sa.Engine, query: Query) -> list[Plan]:
    """Return the plans of the statements that `query` sends."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "DELETE")) and "pg_advisory" not in statement:
            sent.append((statement, parameters))

    with engine.connect() as connection:
        sa.event.listen(engine, "before_cursor_execute", note)
        try:
            query(connection)
        finally:
            sa.event.remove(engine, "before_cursor_execute", note)
    explained = _of_sqlite if engine.dialect.name == "sqlite" else _of_postgresql
    with engine.connect() as connection:
        return [explained(connection, statement, parameters) for statement, parameters in sent]


def _of_sqlite(connection: sa.Connection, statement: str, parameters: Any) -> Plan:
    steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return Plan("\n".join(step.detail for step in steps))


def _of_postgresql(connection: sa.Connection, statement: str, parameters: Any) -> Plan:
    answer = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    top = answer[0]["Plan"]
    looked_at = 0
    pending = [top]
    while pending:
        node = pending.pop()
        pending.extend(node.get("Plans", ()))
        if "Relation Name" in node and node["Node Type"] != "ModifyTable":
            looked_at += (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return Plan(json.dumps(answer, indent=1), looked_at=looked_at, returned=top["Actual Rows"])


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, batches: Sequence[Batch]
) -> Iterator[sa.Engine]:
    """A ledger full of jobs."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('scale')}/ledger.db"
    else:
        url = request.getfixturevalue("databases").create()
    migrate.upgrade(url)
    engine = connect.writer(connect.parse_url(url), LedgerSettings())
    writes = write.Writes(engine.dialect, PLAIN)
    for batch in batches:
        with engine.begin() as connection:
            writes.write(connection, batch)
    with engine.begin() as connection:
        writes.note_disabled(connection, [a_disabled_webhook(number) for number in range(_USERS * 10)], [])
    if request.param == "postgresql":
        with engine.begin() as connection:
            # As autovacuum does by itself. SQLite plans well without.
            connection.exec_driver_sql("ANALYZE")
    yield engine
    engine.dispose()


def page(viewer: Viewer, **wanted: Any) -> Query:
    return lambda connection: read.jobs(connection, viewer, JobFilter(**wanted))


def events(viewer: Viewer, seq: int, job_id: str | None = None) -> Query:
    return lambda connection: read.events_after(connection, viewer, seq, job_id, 1000)


FAILED = JobStatus.FAILED
JOB = a_numbered_job(_MIDDLE)
TWIN = a_numbered_job(21)
NEXT = {"before_id": JOB.id}
BY_ID = "jobs_pkey|sqlite_autoindex_jobs_1"
#: One statement for all messages of a page.
DISABLED = "webhooks_disabled_pkey|sqlite_autoindex_webhooks_disabled_1"

#: For each statement of a query an index that it must use; of several with `|` between them, one.
QUERIES: dict[str, tuple[Query, Sequence[str]]] = {
    "a job": (lambda c: read.job(c, USER, a_numbered_job(7).id), [f"{BY_ID}|jobs_by_user"]),
    "page of all": (page(OPERATOR), [BY_ID]),
    "next page of all": (page(OPERATOR, **NEXT), [BY_ID]),
    "page of a user": (page(USER), ["jobs_by_user"]),
    "next page of a user": (page(USER, **NEXT), ["jobs_by_user"]),
    "page by status": (page(OPERATOR, status=FAILED), ["jobs_by_status"]),
    "next page by status": (page(OPERATOR, status=FAILED, **NEXT), ["jobs_by_status"]),
    "page of a user by status": (page(USER, status=FAILED), ["jobs_by_user_status"]),
    "next page of a user by status": (page(USER, status=FAILED, **NEXT), ["jobs_by_user_status"]),
    "page by tag": (page(OPERATOR, tag=TAG), ["job_tags_by_value"]),
    "next page by tag": (page(OPERATOR, tag=TAG, **NEXT), ["job_tags_by_value"]),
    "page of a user by tag": (page(USER, tag=TAG), ["job_tags_by_user"]),
    "next page of a user by tag": (page(USER, tag=TAG, **NEXT), ["job_tags_by_user"]),
    "page of the dead letters": (page(OPERATOR, dead_lettered=True), ["jobs_dead"]),
    "next page of the dead letters": (page(OPERATOR, dead_lettered=True, **NEXT), ["jobs_dead"]),
    "page of a user's dead letters": (page(USER, dead_lettered=True), ["jobs_dead_by_user"]),
    "history": (lambda c: read.history(c, OPERATOR, JOB.id), [BY_ID, "job_events_by_job"]),
    "events of all": (events(OPERATOR, _MIDDLE), ["job_events_pkey|INTEGER PRIMARY KEY"]),
    "events of a user": (events(USER, _MIDDLE), ["job_events_by_user"]),
    "newest events of a user": (events(USER, _JOBS), ["job_events_by_user|job_events_pkey"]),
    "events of a job": (events(OPERATOR, _MIDDLE + 100, JOB.id), ["job_events_by_job"]),
    "the last event": (read.last_seq, ["job_events_pkey|SEARCH job_events"]),
    "messages that are due": (lambda c: read.outbox(c, NOW, 100), ["outbox_by_due", "outbox_by_due", DISABLED]),
    "all messages": (
        lambda c: read.outbox(c, NOW + timedelta(hours=2), 100),
        ["outbox_by_due", "outbox_by_due", DISABLED],
    ),
    # Leases, paused priorities, usages, counters and leaderships are few, and taken all. The count looks at all jobs,
    # once.
    "the scheduler's start": (
        read.state,
        ["upload_sessions_live", "jobs_open", "", "upload_sessions_live", "jobs_dead", "", "", "", "", ""],
    ),
    "jobs with the same source": (lambda c: read.with_file_of(c, TWIN), ["jobs_by_source"]),
    "jobs with the same bytes": (
        lambda c: read.with_file_of(c, replace(TWIN, spec=replace(TWIN.spec, checksum=f"sha256:{0:064x}"))),
        ["jobs_by_sha256"],
    ),
    # Leases are few; the parts of one upload are grouped as they come.
    "the parts of a job": (
        lambda c: read.parts_of_job(c, OPERATOR, JOB.id),
        [f"{BY_ID}|jobs_by_user", "upload_sessions_by_job", "", ""],
    ),
    "disabled webhooks": (lambda c: read.disabled_webhooks(c, OPERATOR, 100), ["webhooks_disabled_by_age"]),
    "a user's disabled webhooks": (lambda c: read.disabled_webhooks(c, USER, 5), ["webhooks_disabled_by_user"]),
    "old idempotency keys": (lambda c: write.forget_spent(c, NOW), ["idempotency_keys_by_age"]),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_goes_straight_to_its_rows(loaded: sa.Engine, name: str) -> None:
    """Each statement uses its index, sorts nothing on SQLite, and looks at no more rows than its page needs."""
    query, indexes = QUERIES[name]
    found = plans(loaded, query)
    assert len(found) == len(indexes)
    for plan, index in zip(found, indexes, strict=True):
        if index == "":
            continue
        assert re.search(rf"\b({index})\b", plan.text), plan.text
        assert "Seq Scan" not in plan.text
        assert "TEMP B-TREE" not in plan.text
        assert plan.looked_at <= max(_LOOKED_AT_ALWAYS, _LOOKED_AT_MAX * plan.returned), plan.text


def test_all_of_it_is_there(loaded: sa.Engine) -> None:
    """What the plans are made for is what was loaded."""
    with loaded.connect() as connection:
        state = read.state(connection)
    assert sum(state.totals.values()) == _JOBS
    assert len(state.open_jobs) == sum(not a_numbered_job(number).is_final for number in range(_JOBS))
