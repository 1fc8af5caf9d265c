"""Log lines over HTTP and on the command line: who may, what is found, how it is shown."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from plane import Site, site_at

from actors.log_files import LocalLogs

AT = "2026-11-26T18:00:0{}.000Z"


def line(second: int, message: str, **fields: Any) -> str:
    return json.dumps({"ts": AT.format(second), "level": "info", "service": "agent", **fields, "msg": message}) + "\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


@pytest.fixture
async def site(tmp_path: Path, directory: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path, logs=LocalLogs(directory)) as site:
        yield site


async def found(site: Site, **asked: str) -> list[str]:
    answer = await site.http.get("/logs", params=asked, headers=site.auth["olga"])
    assert answer.status_code == 200, answer.text
    return [one["msg"] for one in answer.json()["lines"]]


async def test_a_jobs_lines(site: Site, directory: Path) -> None:
    """A job's lines come with those of the request that asked for it; a job nobody knows has those with its id."""
    headers = {**site.auth["alice"], "X-Correlation-ID": "from-the-edge"}
    job_id = (await site.http.post("/jobs", json={"url": "https://files.example/a"}, headers=headers)).json()["id"]
    (directory / "worker-a-01-7.err").write_text(
        line(1, "edge", correlationId="from-the-edge")
        + line(2, "of the job", jobId=job_id, correlationId="from-the-edge", level="warn", agentId="agent-1")
        + line(3, "of another", jobId="job_2", correlationId="from-the-edge")
        + line(4, "neither", correlationId="other-edge")
    )
    assert await found(site, jobId=job_id) == ["edge", "of the job"]
    assert await found(site, jobId="job_2") == ["of another"]
    assert await found(site, correlationId="from-the-edge") == ["edge", "of the job", "of another"]
    assert await found(site, agentId="agent-1") == ["of the job"]
    assert await found(site, level="warn") == ["of the job"]
    assert await found(site, since="2026-11-26T19:00:03+01:00") == ["of another", "neither"]
    assert await found(site, limit="1") == ["neither"]


async def test_only_operators(site: Site) -> None:
    """A user's own lines stand among others'."""
    assert (await site.http.get("/logs", headers=site.auth["alice"])).status_code == 403
    assert (await site.http.get("/logs")).status_code == 401


@pytest.mark.parametrize(
    "asked", [{"level": "loud"}, {"limit": "0"}, {"limit": "10001"}, {"since": "x"}, {"jobId": "a b"}]
)
async def test_nonsense_is_refused(site: Site, asked: Mapping[str, str]) -> None:
    """What cannot be asked for is a problem, not an empty answer."""
    answer = await site.http.get("/logs", params=asked, headers=site.auth["olga"])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
