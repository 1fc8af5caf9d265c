"""The real ledger and the reference side by side: they take and refuse the same, and show the same."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reference import ReferenceLedger
from violations import must

from rayhaul.errors import RayhaulError
from rayhaul.job import Job, utc
from rayhaul.ledger.base import Batch, Ledger, Role, Viewer
from rayhaul.ledger.store import SqlLedger, Work, _Lane, open_ledger
from rayhaul.settings import LedgerSettings

_ALL = Viewer("simulation", Role.OPERATOR)


def as_stored(job: Job) -> Job:
    """Return a job as it comes back from the ledger: a backoff's end is kept in whole milliseconds."""
    at = job.next_attempt_at
    return job if at is None else replace(job, next_attempt_at=utc(at.timestamp()))


class _InlineLane(_Lane):
    """A lane without threads: nothing happens at a time that the seed does not say."""

    async def call(self, work: Work[Any]) -> Any:
        return self._run(work)


def inline(ledger: SqlLedger) -> SqlLedger:
    """Let the ledger do its work where it is called."""
    for lane in (ledger._readers, ledger._writer):
        assert lane is not None, "it was opened for writing"
        lane.__class__ = _InlineLane
    return ledger


class LedgerFiles:
    """Fresh SQLite ledgers: migrated once, then copied. In memory where that can be: this is not about the disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._template = directory / "template.db"
        asyncio.run(open_ledger(LedgerSettings(), f"sqlite:///{self._template}").close())

    def fresh(self, name: str) -> SqlLedger:
        path = self._directory / f"{name}.db"
        shutil.copy(self._template, path)
        return open_ledger(LedgerSettings(pool_max=1), f"sqlite:///{path}")


@contextmanager
def ledger_files() -> Iterator[LedgerFiles]:
    shm = Path("/dev/shm")
    with TemporaryDirectory(prefix="rayhaul-simulation-", dir=shm if shm.is_dir() else None) as directory:
        yield LedgerFiles(Path(directory))


class Twin:
    """A ledger (rayhaul.ledger.base.Ledger) that is both."""

    def __init__(self, real: Ledger, reference: ReferenceLedger) -> None:
        self._real = real
        self._reference = reference
        self._turn = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, batch: Batch) -> None:
        async with self._turn:
            refusal: type[RayhaulError] | None = None
            try:
                self._reference.check_refusals(batch)
            except RayhaulError as error:
                refusal = type(error)
            try:
                await self._real.commit(batch)
            except RayhaulError as error:
                must(type(error) is refusal, "twin", f"the ledger says {type(error)}, the reference {refusal}")
                raise
            must(refusal is None, "twin", f"the ledger takes what the reference refuses: {refusal}")
            await self._reference.commit(batch)

    async def lead(self, holder: str) -> int:
        async with self._turn:
            await self._reference.lead(holder)
            return await self._real.lead(holder)

    async def compare(self) -> None:
        """Look at all of both."""
        real, reference = await self._real.state(), await self._reference.state()
        reference = replace(reference, open_jobs=[as_stored(job) for job in reference.open_jobs])
        must(real == reference, "twin", f"the ledger shows {real}\nthe reference {reference}")
        for job_id, job in self._reference.rows.jobs.items():
            must(await self._real.job(_ALL, job_id) == as_stored(job), "twin", f"{job_id} differs")
            history = await self._real.history(_ALL, job_id)
            must(history == self._reference.rows.histories[job_id], "twin", f"the history of {job_id} differs")
