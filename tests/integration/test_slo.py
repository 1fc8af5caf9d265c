"""Objectives from end to end: counted in the scheduler's transactions, right after restarts, shown to everybody."""

from datetime import timedelta
from pathlib import Path

import pytest
from cli_call import called
from cli_process import bare_environ
from control_rig import Rig, rig_with
from plane import listening, site_at

from rayhaul import AsyncClient
from rayhaul.alert_file import read_objectives
from rayhaul.errors import SourceNotFound, Unavailable
from rayhaul.job import utc
from rayhaul.ledger.base import Batch, SloCount
from rayhaul.metrics import HTTP_REQUESTS, Meter
from rayhaul.policy.standings import stretch_of
from serve_app.slos import standings


class Replica:
    """A process that counts requests, and tells of them as long as it lives."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.meter = Meter()

    async def answer(self, good: int, bad: int = 0) -> None:
        self.meter.inc(HTTP_REQUESTS, "GET", "/jobs", "200", by=good)
        self.meter.inc(HTTP_REQUESTS, "GET", "/jobs", "500", by=bad)
        await self.rig.scheduler.metrics("api/1", self.meter.snapshot())


async def counted(rig: Rig, name: str) -> tuple[int, int]:
    """Return (events, bad ones) as GET /slo has them."""
    found = {one.objective.name: one for one in await standings(read_objectives(), rig.ledger, utc(rig.clock()))}
    return found[name].total, found[name].bad


async def test_jobs_are_counted_with_their_ends() -> None:
    """One completed, one failed by its source, one by the bucket; cancelled ones do not count."""
    async with rig_with() as rig:
        rig.objectives = read_objectives()
        (agent,) = await rig.begin(1)
        jobs = await rig.running(4)
        agent.tell_done(agent.order_of(jobs[0]))
        agent.tell_failed(agent.order_of(jobs[1]), SourceNotFound().failure())
        await rig.beat()
        assert await rig.statuses(jobs[:2]) == {jobs[0]: "completed", jobs[1]: "failed"}
        # The very commit that ended them carries the count.
        assert await counted(rig, "JobSuccess") == (2, 1)
        assert await counted(rig, "JobSuccessByService") == (2, 0)
        assert await counted(rig, "MetadataReady") == (4, 0)


async def test_metadata_that_does_not_come_is_bad_at_once() -> None:
    """After 15 s the jobs that wait are told of, and once it came they are counted once."""
    async with rig_with() as rig:
        rig.objectives = read_objectives()
        await rig.begin(1)
        await rig.submit(3)
        rig.clock.now_s += 14
        assert await counted(rig, "MetadataReady") == (0, 0)
        rig.clock.now_s += 2
        assert await counted(rig, "MetadataReady") == (3, 3)
        await rig.look()
        assert await counted(rig, "MetadataReady") == (3, 3)


async def test_requests_are_counted_once_over_restarts() -> None:
    """A replica lives on while schedulers come and go, and tells everything again: it is counted once all the same."""
    async with rig_with() as rig:
        rig.objectives = read_objectives()
        await rig.begin(1)
        replica = Replica(rig)
        await replica.answer(90, 10)
        await rig.live(11)
        assert await counted(rig, "ApiAvailability") == (100, 10)
        for _ in range(2):
            await rig.restart()
            await replica.answer(0)
            await rig.live(11)
            assert await counted(rig, "ApiAvailability") == (100, 10)
        await replica.answer(5, 1)
        await rig.live(11)
        assert await counted(rig, "ApiAvailability") == (106, 11)


async def test_a_commit_that_fails_counts_nothing_twice() -> None:
    """Whether it stands or not: what was in it is not written again."""
    for stands in (False, True):
        async with rig_with() as rig:
            rig.objectives = read_objectives()
            await rig.begin(1)
            replica = Replica(rig)
            await replica.answer(1)
            await rig.live(11)
            await replica.answer(89, 10)
            rig.clock.now_s += 11

            async def commit(batch: Batch, *, stands: bool = stands) -> None:
                if stands:
                    await rig.ledger.commit(batch)
                raise Unavailable

            rig.seam.instead["commit"] = commit
            with pytest.raises(Unavailable):
                await rig.tick()
            del rig.seam.instead["commit"]
            await rig.live(11)
            assert await counted(rig, "ApiAvailability") == ((100, 10) if stands else (1, 0))


async def test_the_api_the_client_and_the_command_line(tmp_path: Path) -> None:
    """Each objective with target, ratio, budget and burn rates, from counts in the ledger alone."""
    async with site_at(tmp_path) as site, listening(site.app) as url:
        stretch = stretch_of(utc(site.clock()))
        counts = [
            SloCount(slo="ApiAvailability", starts_at=stretch, total=9_000, bad=5),
            SloCount(slo="ApiAvailability", starts_at=stretch - timedelta(days=29), total=1_000, bad=0),
            SloCount(slo="ApiAvailability", starts_at=stretch - timedelta(days=31), total=1_000, bad=999),
            SloCount(slo="JobSuccess", starts_at=stretch, total=100, bad=30),
        ]
        await site.ledger.commit(Batch(slo_counts=counts))
        answer = await site.http.get("/slo", headers=site.auth["alice"])
        assert answer.status_code == 200
        found = {one["name"]: one for one in answer.json()["slos"]}
        assert list(found) == [objective.name for objective in read_objectives()]
        api = found["ApiAvailability"]
        assert (api["target"], api["window"], api["events"], api["bad"]) == (0.999, "30d", 10_000, 5)
        assert (api["ratio"], api["budgetLeft"], api["burnRate"]) == pytest.approx((0.9995, 0.5, 0.5))
        assert api["burnRates"]["1h"] == pytest.approx(5 / 9000 / 0.001)
        assert api["burning"] is None
        assert found["JobSuccess"]["burning"] == "P1"
        assert found["SseLag"]["ratio"] is None
        key = site.auth["alice"]["Authorization"].partition(" ")[2]
        async with AsyncClient(url, key) as client:
            assert (await client.slo()).slos[0].events == 10_000
        environ = {**bare_environ(tmp_path), "RAYHAUL_URL": url, "RAYHAUL_API_KEY": key}
        told = await called(environ, "slo")
        assert told.code == 0
        rows = {row.split()[0]: row for row in told.stdout.splitlines()[1:]}
        assert rows["ApiAvailability"].split()[1:8] == ["99.90%", "30d", "99.950%", "10000", "5", "50%", "0.50"]
        assert rows["JobSuccess"].endswith("burning, P1")
