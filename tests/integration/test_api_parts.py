"""Who brought which parts of a job, as its owner is told."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from control_scene import NOW, PART, Scene, add_upload, scene_of
from plane import Site, site_at

from rayhaul.job import JobEvent, JobResult
from rayhaul.lease import Lease, SessionState
from rayhaul.ledger.base import Batch
from rayhaul.policy.planning import PARTS_MAX


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        yield site


@pytest.fixture
async def scene(site: Site) -> Scene:
    return await scene_of(site)


async def shown(site: Site, job_id: str, what: str = "parts") -> Any:
    answer = await site.http.get(f"/jobs/{job_id}/{what}", headers=site.auth["alice"])
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_parts_by_agent(site: Site, scene: Scene) -> None:
    assert await shown(site, scene.running) == {
        "jobId": scene.running,
        "partsDone": 3,
        "partsTotal": None,
        "brought": [
            {"agent": "agent-1", "parts": 2, "bytes": 2 * PART, "numbers": "1-2"},
            {"agent": "agent-2", "parts": 1, "bytes": PART, "numbers": "3"},
        ],
        "toCome": [{"agent": "agent-1", "stripe": {"firstPart": 1, "endPart": 11}}],
    }


async def test_a_job_that_has_no_parts(site: Site) -> None:
    told = await shown(site, await site.submit("alice"))
    assert (told["partsDone"], told["partsTotal"], told["brought"], told["toCome"]) == (0, None, [], [])


async def test_parts_of_a_ledger_that_did_not_tell(site: Site, scene: Scene) -> None:
    """They are there, and nobody's; whoever brings more is named beside them."""
    await add_upload(scene, [None, None, "agent-2", None], size_bytes=9 * PART)
    told = await shown(site, scene.running)
    assert [(one["agent"], one["numbers"]) for one in told["brought"]] == [(None, "1-2,4"), ("agent-2", "3")]
    assert (told["partsDone"], told["partsTotal"]) == (4, 9)


async def test_the_most_parts_are_told_in_few_bytes(site: Site, scene: Scene) -> None:
    """Stripes are runs; and where no two neighbours are of one agent it is a few bytes a part."""
    await add_upload(scene, [f"agent-{number // 2500}" for number in range(PARTS_MAX)])
    told = await shown(site, scene.running)
    assert [one["numbers"] for one in told["brought"]] == ["1-2500", "2501-5000", "5001-7500", "7501-10000"]
    await add_upload(scene, [f"agent-{number % 2}" for number in range(PARTS_MAX)])
    answer = await site.http.get(f"/jobs/{scene.running}/parts", headers=site.auth["alice"])
    assert (answer.json()["partsDone"], len(answer.json()["brought"])) == (PARTS_MAX, 2)
    assert len(answer.content) < 50_000


async def test_the_receipt_tells_who_brought_how_much(site: Site, scene: Scene) -> None:
    """By the parts of the upload that was completed; an object without parts is of the agent that had the job."""
    await add_upload(scene, ["agent-1", "agent-2", "agent-1"], state=SessionState.COMPLETED)
    stored = JobResult(bucket="bucket", key="a/file.bin", size_bytes=3 * PART, etag="abc", sha256=None, parts_count=3)
    await site.plane.move(scene.running, JobEvent.UPLOADING, JobEvent.COMPLETED, result=stored, agents=("agent-2",))
    receipt = await shown(site, scene.running, "receipt")
    assert receipt["broughtBy"] == [{"agent": "agent-1", "bytes": 2 * PART}, {"agent": "agent-2", "bytes": PART}]

    small = await site.submit("alice")
    stored = replace(stored, size_bytes=1000, parts_count=1)
    happened = (JobEvent.METADATA, JobEvent.STARTED, JobEvent.UPLOADING, JobEvent.COMPLETED)
    await site.plane.move(small, *happened, result=stored, agents=("agent-2",))
    told = await shown(site, small)
    assert told["brought"] == [{"agent": "agent-2", "parts": 1, "bytes": 1000, "numbers": "1"}]
    assert told["partsTotal"] == 1
    assert (await shown(site, small, "receipt"))["broughtBy"] == [{"agent": "agent-2", "bytes": 1000}]


async def test_parts_that_are_not_in_the_object(site: Site, scene: Scene) -> None:
    """A stream of no known length was begun again and ended sooner: what came the first time after that is nobody's."""
    agents = ["agent-2", "agent-2", "agent-1", "agent-1"]
    await add_upload(scene, agents, state=SessionState.COMPLETED, size_bytes=None)
    stored = JobResult(bucket="bucket", key="a/file.bin", size_bytes=2 * PART, etag="abc", sha256=None, parts_count=2)
    await site.plane.move(scene.running, JobEvent.UPLOADING, JobEvent.COMPLETED, result=stored, agents=("agent-2",))
    told = await shown(site, scene.running)
    assert [(one["agent"], one["numbers"]) for one in told["brought"]] == [("agent-2", "1-2")]
    assert (told["partsDone"], told["partsTotal"]) == (2, 2)
    receipt = await shown(site, scene.running, "receipt")
    assert receipt["broughtBy"] == [{"agent": "agent-2", "bytes": 2 * PART}]


async def test_a_lease_that_is_over_brings_nothing_more(site: Site, scene: Scene) -> None:
    lease = Lease(
        lease_id="lease_x",
        job_id=scene.running,
        epoch=8,
        agent="agent-2",
        incarnation="1",
        first_part=11,
        end_part=PARTS_MAX + 1,
        granted_at=NOW,
    )
    await site.ledger.commit(Batch(leases_granted=[lease], leases_ended=[f"lease_{scene.running}"]))
    told = await shown(site, scene.running)
    assert told["toCome"] == [{"agent": "agent-2", "stripe": {"firstPart": 11, "endPart": PARTS_MAX + 1}}]
