"""A process for the durability tests: commits one job after another, and prints the id of each once acknowledged.

    python committer.py URL [FILE_BYTES_MAX]

It goes on until it is killed or a commit is refused. Then it prints the sentence on stderr, lifts the limit on the size
of files, commits the refused job again, and ends.
"""

import asyncio
import resource
import sys

from ledger_samples import a_job, an_event

from rayhaul.errors import Unavailable
from rayhaul.ledger.base import Batch
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings


async def main(url: str, file_bytes_max: int) -> None:
    ledger = open_ledger(LedgerSettings(), url)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.RLIM_INFINITY))
    while True:
        job = a_job()
        batch = Batch(jobs_new=[job], events=[an_event(job)])
        try:
            await ledger.commit(batch)
        except Unavailable as error:
            print(error.message, file=sys.stderr)
            break
        print(job.id, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await ledger.commit(batch)
    print(job.id, flush=True)
    await ledger.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else resource.RLIM_INFINITY))
