"""A process for the power-loss drill: commits one job after another, and prints the id of each once acknowledged.

    python drill_committer.py URL COMMITS [SYNCHRONOUS]

SYNCHRONOUS replaces the ledger's own setting (FULL) on its connection, for the null test.
"""

import asyncio
import sys

import sqlalchemy as sa
from ledger_samples import a_job, an_event

from rayhaul.ledger.base import Batch
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings


async def main(url: str, commits: int, synchronous: str | None) -> None:
    ledger = open_ledger(LedgerSettings(), url)
    if synchronous is not None:
        await _set(ledger, synchronous)
    for _ in range(commits):
        job = a_job()
        await ledger.commit(Batch(jobs_new=[job], events=[an_event(job)]))
        print(job.id, flush=True)
    await ledger.close()


async def _set(ledger: SqlLedger, synchronous: str) -> None:
    """Change the connection that writes: it stays the same one for as long as nothing fails."""

    def change(connection: sa.Connection) -> None:
        # Not within a transaction, SQLite says: the one that was begun for us ends here.
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
        connection.exec_driver_sql("BEGIN")

    await ledger._write(change)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
