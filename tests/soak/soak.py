"""A soak: a whole service in one process under a random mix of origin and store faults, and an audit of all it did.

    SOAK_S=1800 SEED=7 python tests/soak/soak.py [figures.json]

Jobs run against an origin that fails and lies, into SeaweedFS behind a proxy that fails and lies; agents, scheduler and
store are killed. Every object is compared by its SHA-256, every failure by its code; at the end nothing may be lost,
doubled or left open, memory may not have grown, and no fault may have stayed away. The seed is printed first; the
figures go to bench/results/soak.json, or where the argument says.
"""

import asyncio
import hashlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "soak")]

import aiohttp  # noqa: E402 - after the path is set
from inprocess import quick_settings, running_service  # noqa: E402
from origin import Origin, content_windows  # noqa: E402
from soak_memory import Calms, Memory, give_back_what_is_free, quarters  # noqa: E402
from soak_mix import LATER, Asked, Mix, draw  # noqa: E402
from soak_upheavals import Upheavals  # noqa: E402
from soak_weather import WEATHER, never  # noqa: E402
from store import kept_store  # noqa: E402
from store_proxy import StoreProxy  # noqa: E402

from rayhaul.client.aio import AsyncClient  # noqa: E402
from rayhaul.job import FINAL  # noqa: E402
from rayhaul.metrics import Meter  # noqa: E402
from rayhaul.settings import (  # noqa: E402
    LivenessSettings,
    S3Settings,
    Settings,
    SourceSettings,
    SweepSettings,
    TransferSettings,
)
from rayhaul.wire import JobView  # noqa: E402
from tasks.sink import Sink  # noqa: E402

MIB = 1024 * 1024
PREFIX = "soak/"
AGENTS = 3
JOBS_AT_ONCE = 16
#: Time for what is under way at the end, agents that are offline and sweeps included.
TAIL_S_MAX = 600.0
#: A client that waits for a scheduler to be started again.
RETRIES_MAX = 12
#: Looks at an object while the store is being started again, a second apart.
LOOKS_MAX = 60
SAMPLE_EVERY_S = 5.0


@dataclass(slots=True)
class Figures:
    seed: int
    planned_s: float
    took_s: float = 0.0
    jobs: int = 0
    completed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    bytes_published: int = 0
    #: How often each fault was made, of `origin`, `store` and `cluster`.
    happened: dict[str, Counter[str]] = field(default_factory=dict)
    #: Objects with other bytes than the source had, or published though they must not be.
    corrupt: list[str] = field(default_factory=list)
    #: Jobs that were accepted and did not end, or completed without their object, or failed though they should have
    #: overcome their faults, or with another error than theirs.
    lost: list[str] = field(default_factory=list)
    #: Objects under the prefix that no completed job made.
    doubled: list[str] = field(default_factory=list)
    #: Uploads left open at the end, under whatever keys: nobody else uploads there (ADR 9).
    orphans: list[str] = field(default_factory=list)
    #: All along, with whatever is under way.
    busy: Memory = field(default_factory=Memory)
    #: When nothing was under way, and at the end.
    calm: Memory = field(default_factory=Memory)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def never(self) -> list[str]:
        """Faults of the mix that did not happen as often as they must in so long a run."""
        return never(self.happened, self.planned_s)

    @property
    def is_good(self) -> bool:
        wrong = self.corrupt or self.lost or self.doubled or self.orphans or self.never
        return not wrong and self.completed > 0 and self.calm.is_flat


class Soak:
    def __init__(self, upheavals: Upheavals, bucket: Sink, figures: Figures) -> None:
        self.upheavals = upheavals
        self.service = upheavals.service
        self.origin = upheavals.origin
        self.proxy = upheavals.proxy
        self.bucket = bucket
        self.figures = figures
        self.mix = Mix()
        #: Keys of completed jobs.
        self.keys: set[str] = set()

    async def run(self) -> None:
        figures = self.figures
        ends_s = time.monotonic() + figures.planned_s
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                AsyncClient(self.service.url, self.service.alice, retries_max=RETRIES_MAX)
            )
            http = await stack.enter_async_context(aiohttp.ClientSession())
            sampling = asyncio.create_task(self._sample())
            try:
                async with asyncio.timeout(figures.planned_s + TAIL_S_MAX), asyncio.TaskGroup() as group:
                    calms = Calms(JOBS_AT_ONCE, ends_s, figures.calm.sample)
                    for lane in range(JOBS_AT_ONCE):
                        group.create_task(self._lane(lane, ends_s, calms, client, http))
                    for upheaval in self.upheavals.all(ends_s):
                        group.create_task(upheaval)
            except TimeoutError:
                figures.lost.append("jobs did not end in time")
            finally:
                sampling.cancel()
                with suppress(asyncio.CancelledError):
                    await sampling
            self.proxy.reset()
            await self._audit_bucket()
        figures.calm.sample()
        figures.happened = {
            "origin": self.origin.happened,
            "store": self.proxy.happened,
            "cluster": self.upheavals.happened,
        }

    async def _lane(
        self, lane: int, ends_s: float, calms: Calms, client: AsyncClient, http: aiohttp.ClientSession
    ) -> None:
        rng = Random(self.figures.seed * 1000 + lane)
        number = attended = 0
        while time.monotonic() < ends_s:
            number += 1
            path = f"{lane}-{number}.bin"
            # Hashing what is asked for takes a while: not on the event loop of the service.
            asked = await asyncio.to_thread(draw, rng, self.mix, self.origin, path)
            self.figures.jobs += 1
            self.figures.kinds[asked.kind] += 1
            job = await client.submit(asked.url, **asked.fields)
            while job.status not in FINAL:
                await asyncio.sleep(0.3)
                job = await client.get(job.id)
            await self._audit(job, asked, http)
            self.origin.remove(path)
            self.proxy.seen.clear()
            self.proxy.broken.clear()
            attended = await calms.attend(attended)

    async def _audit(self, job: JobView, asked: Asked, http: aiohttp.ClientSession) -> None:
        figures = self.figures
        told = f"{job.id} ({asked.kind})"
        if job.result is None:
            code = "none" if job.error is None else job.error.code
            figures.failed[code] += 1
            if code not in asked.fails:
                figures.lost.append(f"{told}: {code}")
            return
        figures.completed += 1
        figures.bytes_published += job.result.size_bytes
        self.keys.add(job.result.key)
        digest = await self._stored_sha256(job.result.key, http)
        if digest is None:
            figures.lost.append(told)
        elif digest not in await asyncio.to_thread(_allowed, asked):
            figures.corrupt.append(told)

    async def _stored_sha256(self, key: str, http: aiohttp.ClientSession) -> str | None:
        for _ in range(LOOKS_MAX):
            with suppress(aiohttp.ClientError):
                return await self._read_sha256(key, http)
            # The store has just been killed, and will be there again.
            await asyncio.sleep(1)
        return None

    async def _read_sha256(self, key: str, http: aiohttp.ClientSession) -> str | None:
        digest = hashlib.sha256()
        async with http.get(self.bucket.presign_get(key, filename="x", expires_s=600)) as answer:
            if answer.status != 200:
                return None
            async for piece in answer.content.iter_any():
                digest.update(piece)
        return digest.hexdigest()

    async def _audit_bucket(self) -> None:
        """Wait for sweeps and aborts, then look for what should not be there."""
        figures = self.figures
        ends_s = time.monotonic() + TAIL_S_MAX
        while time.monotonic() < ends_s:
            figures.orphans = [upload.key for upload in await self.bucket.list_uploads(PREFIX)]
            if not (figures.orphans or (await self.service.ledger.state()).sessions):
                break
            await asyncio.sleep(2)
        client = self.bucket.calls.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.bucket, Prefix=PREFIX)
        stored = await asyncio.to_thread(lambda: {entry["Key"] for page in pages for entry in page.get("Contents", ())})
        figures.doubled = sorted(stored - self.keys)
        figures.lost += sorted(self.keys - stored)

    async def _sample(self) -> None:
        while True:
            self.figures.busy.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)


def _allowed(asked: Asked) -> set[str]:
    """Return the SHA-256 of every version of the file that its origin ever showed."""
    found = set()
    for seed, size in asked.versions:
        digest = hashlib.sha256()
        for window in content_windows(seed, size):
            digest.update(window)
        found.add(digest.hexdigest())
    return found


def soak_settings(s3: S3Settings) -> Settings:
    return quick_settings(
        s3.model_copy(update={"prefix": PREFIX}),
        liveness=LivenessSettings(
            heartbeat_s=0.3, offline_s=8, self_fence_s=5, stalled_s=30, requeues_max=20, park_s=1, park_s_max=5
        ),
        source=SourceSettings(stall_timeout_s=2, first_byte_timeout_s=5, probe_timeout_s=15, speed_window_s=5),
        transfer=TransferSettings(
            part_bytes_min=5 * MIB,
            single_put_bytes_max=MIB,
            stripe_parts_min=1,
            retry_base_s=0.1,
            retry_cap_s=4,
            attempts_max=8,
        ),
        sweep=SweepSettings(interval_s=10, age_s_min=30, owns_prefix=True),
    )


@asynccontextmanager
async def surroundings(figures: Figures) -> AsyncIterator[Soak]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rayhaul-soak-")))
        store = stack.enter_context(kept_store())
        origin = await stack.enter_async_context(Origin())
        proxy = await stack.enter_async_context(StoreProxy(store.settings))
        service = await stack.enter_async_context(
            running_service(directory, soak_settings(proxy.settings), agents=AGENTS)
        )
        bucket = await stack.enter_async_context(Sink(store.settings, meter=Meter(), connections_max=8))
        proxy.weather(Random(figures.seed + LATER), WEATHER)
        yield Soak(Upheavals(service, origin, proxy, store, Random(figures.seed)), bucket, figures)


def _told(memory: Memory) -> dict[str, Any]:
    rss = memory.rss_mib
    return {
        "samples": len(rss),
        "rss_mib": {"median": median(rss), "max": max(rss), "quarters": quarters(rss)},
        "sqlite_mib": {"max": max(memory.sqlite_mib), "quarters": quarters(memory.sqlite_mib)},
        "rest_mib": {"quarters": [round(each, 1) for each in quarters(memory.rest_mib)]},
    }


def report(figures: Figures) -> dict[str, Any]:
    told = asdict(figures) | {
        "failed": dict(figures.failed),
        "happened": {where: dict(sorted(counts.items())) for where, counts in figures.happened.items()},
        "never": figures.never,
        "kinds": dict(sorted(figures.kinds.items())),
        "busy": _told(figures.busy),
        "calm": _told(figures.calm) | {"growth_mib": round(figures.calm.growth_mib, 1)},
    }
    for name in ("corrupt", "lost", "doubled", "orphans"):
        told[f"{name}_count"] = len(getattr(figures, name))
    return told


async def main() -> int:
    seed = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))
    figures = Figures(seed=seed, planned_s=float(os.environ.get("SOAK_S") or 1800))
    print(f"soak of {figures.planned_s:.0f} s, SEED={seed}", flush=True)
    began_s = time.monotonic()
    give_back_what_is_free()
    async with surroundings(figures) as soak:
        await soak.run()
    figures.took_s = round(time.monotonic() - began_s, 1)
    told = report(figures)
    print(json.dumps(told, indent=2))
    for name in figures.never:
        print(f"a fault never happened: {name}")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "bench" / "results" / "soak.json"
    target.write_text(json.dumps(told, indent=2) + "\n")
    print("good" if figures.is_good else "BAD", "->", target)
    return 0 if figures.is_good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
