"""One of two schedulers that take the lead from each other; a function, and a process of its own.

    python rival.py URL NAME

It prints how often it was deposed.
"""

import asyncio
import sys

from ledger_samples import a_job, an_event

from rayhaul.job import JobEvent
from rayhaul.ledger.base import Batch, Deposed, Ledger
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings

_ROUNDS = 15
#: So many commits, each with two events, before it takes the lead again though nobody deposed it.
_COMMITS_MAX = 10


async def contend(ledger: Ledger, name: str) -> int:
    """Take the lead again and again, and commit under it, as fast as it goes; return how often we were deposed."""
    deposed_count = 0
    job = a_job()
    await ledger.commit(Batch(jobs_new=[job]))
    for _ in range(_ROUNDS):
        epoch = await ledger.lead(name)
        event = an_event(job, JobEvent.METADATA, epoch=epoch, name=name)
        try:
            for _ in range(_COMMITS_MAX):
                await ledger.commit(Batch(leader_epoch=epoch, events=[event, event]))
            await ledger.confirm(epoch)
        except Deposed:
            deposed_count += 1
    return deposed_count


async def main(url: str, name: str) -> None:
    ledger = open_ledger(LedgerSettings(), url)
    print("ready", flush=True)
    sys.stdin.read(1)
    print(await contend(ledger, name))
    await ledger.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
