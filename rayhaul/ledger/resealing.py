"""Which keys a ledger is sealed with, and sealing it anew under the newest.

Laws of this file:
1. A ledger is opened only with all keys that something in it may be sealed with: a wrong key is found at the start, and
   not by the job that can not be read.
2. Resealing goes in pages, each a transaction, and can be broken off at any point; old keys are forgotten at its end.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from rayhaul.errors import ServiceError
from rayhaul.ledger import connect, rows, tables
from rayhaul.ledger.failures import DATABASE_ERRORS, classified
from rayhaul.ledger.sealing import UNSEALED, Sealer
from rayhaul.settings import LedgerSettings

_PAGE_ROWS = 500
_WAIT_MAX_S = 60

_seals = tables.seals.c


class KeyMissing(ServiceError):
    """A key that the ledger is sealed with is not configured."""


def check(url: str, sealer: Sealer, *, writes: bool) -> None:
    """Make sure that all of the ledger can be opened; where it will be written, note with which key.

    Raises: KeyMissing; Unavailable.
    """
    try:
        if _check(_reader(url), sealer) and writes:
            _note(connect.migrator(connect.parse_url(url), wait_max_s=_WAIT_MAX_S), sealer)
    except DATABASE_ERRORS as err:
        raise (classified(err) or err) from err


def reseal(url: str, sealer: Sealer) -> int:
    """Seal under the newest key what is not; return how many rows were. Nobody else may write meanwhile.

    Raises: KeyMissing, SealBroken; Unavailable.
    """
    try:
        engine = _reader(url)
        with engine.connect() as connection:
            found = _found(connection)
        engine.dispose()
        if not sealer.key_ids or found <= {sealer.seals_with}:
            return 0
        return _reseal(connect.migrator(connect.parse_url(url), wait_max_s=_WAIT_MAX_S), sealer)
    except DATABASE_ERRORS as err:
        raise (classified(err) or err) from err


def _reader(url: str) -> sa.Engine:
    return connect.readers(connect.parse_url(url), LedgerSettings(pool_max=1))


def _found(connection: sa.Connection) -> set[str]:
    return set(connection.execute(sa.select(_seals.key_id)).scalars())


def _check(engine: sa.Engine, sealer: Sealer) -> bool:
    """Return whether the key that seals is still to be noted. Raises: KeyMissing."""
    try:
        with engine.connect() as connection:
            found = _found(connection)
    finally:
        engine.dispose()
    missing = sorted(found - {UNSEALED} - set(sealer.key_ids))
    if missing:
        here = ", ".join(sealer.key_ids) or "none"
        raise KeyMissing(
            f"the ledger is sealed with key {missing[0]}, and RAYHAUL_LEDGER__SECRET_KEY has {here}: "
            "put the old key behind the new one, with a comma between them"
        )
    return sealer.seals_with not in found


def _note(engine: sa.Engine, sealer: Sealer) -> None:
    try:
        with engine.begin() as connection:
            if sealer.seals_with not in _found(connection):
                connection.execute(sa.insert(tables.seals), {"key_id": sealer.seals_with})
    finally:
        engine.dispose()


def _reseal(engine: sa.Engine, sealer: Sealer) -> int:
    try:
        count = _reseal_jobs(engine, sealer) + _reseal_outbox(engine, sealer)
        with engine.begin() as connection:
            connection.execute(sa.delete(tables.seals).where(_seals.key_id != sealer.seals_with))
            if sealer.seals_with not in _found(connection):
                connection.execute(sa.insert(tables.seals), {"key_id": sealer.seals_with})
        if engine.dialect.name == "sqlite":
            _vacuum(engine)
    finally:
        engine.dispose()
    return count


def _reseal_jobs(engine: sa.Engine, sealer: Sealer) -> int:
    jobs = tables.jobs
    change = (
        sa.update(jobs)
        .where(jobs.c.id == sa.bindparam("job_id"))
        .values(spec=sa.bindparam("sealed_spec"), metadata=sa.bindparam("sealed_metadata"))
    )
    count, last_id = 0, ""
    while True:
        with engine.begin() as connection:
            page = connection.execute(sa.select(jobs).where(jobs.c.id > last_id).order_by(jobs.c.id).limit(_PAGE_ROWS))
            found = [rows.job(row, sealer) for row in page]
            if not found:
                return count
            connection.execute(
                change,
                [
                    {
                        "job_id": job.id,
                        "sealed_spec": rows.job_asked(job, sealer)["spec"],
                        "sealed_metadata": rows.job_state(job, sealer)["metadata"],
                    }
                    for job in found
                ],
            )
        count, last_id = count + len(found), found[-1].id


def _reseal_outbox(engine: sa.Engine, sealer: Sealer) -> int:
    outbox = tables.outbox
    change = (
        sa.update(outbox).where(outbox.c.outbox_id == sa.bindparam("message_id")).values(url=sa.bindparam("sealed_url"))
    )
    with engine.begin() as connection:
        found = [rows.outbox(row, sealer) for row in connection.execute(sa.select(outbox))]
        values: Sequence[dict[str, str]] = [
            {"message_id": record.outbox_id, "sealed_url": rows.outbox_values(record, sealer)["url"]}
            for record in found
        ]
        if values:
            connection.execute(change, values)
    return len(found)


def _vacuum(engine: sa.Engine) -> None:
    """Write the file anew: what was overwritten or deleted would stay in its free pages otherwise, and in the WAL."""
    connection = engine.raw_connection()
    try:
        for step in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            connection.cursor().execute(step)
    finally:
        connection.close()
