"""`rayhaul import`, as a process, over the real API: checked first, taken once, gone on with."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli_call import called
from cli_process import MAIN, Environ, bare_environ, shown_on
from plane import Site, listening, site_at

from actors.ports import Accepted, Submission
from rayhaul.errors import Unavailable
from rayhaul.ledger.base import JobFilter, Viewer


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as found:
        yield found


@pytest.fixture
async def alice(site: Site, tmp_path: Path) -> AsyncIterator[Environ]:
    async with listening(site.app) as url:
        key = site.auth["alice"]["Authorization"].partition(" ")[2]
        yield {**bare_environ(tmp_path), "RAYHAUL_URL": url, "RAYHAUL_API_KEY": key}


async def urls_of(site: Site) -> list[str]:
    """Return the URLs of all jobs there are, oldest first."""
    return [job.spec.url for job in reversed(await site.ledger.jobs(Viewer("alice"), JobFilter(limit=1000)))]


def url_list(path: Path, count: int) -> list[str]:
    urls = [f"https://files.example/{number}.bin" for number in range(count)]
    path.write_text("# a list\n" + "\n".join(urls) + "\n")
    return urls


async def test_a_list_is_taken_in_batches_and_once(site: Site, alice: Environ, tmp_path: Path) -> None:
    """All of it, in its order; the same command once more takes nothing twice; `--again` does."""
    path = tmp_path / "urls.txt"
    urls = url_list(path, 25)
    command = ("import", str(path), "--batch", "10", "--tag", "set=a", "--priority", "low")
    ran = await called(alice, *command)
    assert (ran.code, ran.stdout) == (0, "25 jobs are taken; `rayhaul jobs` shows them\n"), ran.stderr
    assert await urls_of(site) == urls
    job = (await site.ledger.jobs(Viewer("alice"), JobFilter(limit=1)))[0]
    assert (dict(job.spec.tags), str(job.spec.priority)) == ({"set": "a"}, "low")
    once_more = await called(alice, *command, "--json")
    assert once_more.json == {"submitted": 25}
    assert await urls_of(site) == urls
    assert (await called(alice, *command, "--again")).code == 0
    assert await urls_of(site) == urls + urls


async def test_it_goes_on_where_it_ended(site: Site, alice: Environ, tmp_path: Path) -> None:
    """The API fails after the first batch: how far it came is said, and the same command takes the rest alone."""
    path = tmp_path / "urls.txt"
    urls = url_list(path, 25)
    submit, calls = site.plane.submit, 0

    async def once(submission: Submission) -> Accepted:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Unavailable("gone", retry_after_s=3600)
        return await submit(submission)

    site.plane_seam.instead["submit"] = once
    broken = await called(alice, "import", str(path), "--batch", "10")
    assert broken.code == 1
    assert broken.stderr.endswith("10 of 25 jobs were taken. The same command goes on from there.\n")
    assert await urls_of(site) == urls[:10]
    site.plane_seam.instead.clear()
    assert (await called(alice, "import", str(path), "--batch", "10")).code == 0
    assert await urls_of(site) == urls


async def test_nothing_is_asked_for_where_a_line_is_wrong(site: Site, alice: Environ, tmp_path: Path) -> None:
    """The last of a thousand lines is wrong: exit code 2, its number, and no job."""
    path = tmp_path / "jobs.jsonl"
    rows = [{"url": f"https://files.example/{number}"} for number in range(999)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"url": "https://x.example/", "key": 5}]))
    for more in ((), ("--check",)):
        refused = await called(alice, "import", str(path), *more)
        assert refused.code == 2
        assert refused.stderr.startswith(f"rayhaul: {path}: line 1000: key: ")
    assert await urls_of(site) == []


async def test_what_only_the_api_can_see_is_told_by_its_line(site: Site, alice: Environ, tmp_path: Path) -> None:
    """A URL that the API refuses is named by its line of the list."""
    path = tmp_path / "list.csv"
    path.write_text("url,key\nhttps://files.example/1,\ngopher://files.example/2,\n")
    refused = await called(alice, "import", str(path))
    assert refused.code == 2
    assert "line 3 url" in refused.stderr
    assert await urls_of(site) == []


async def test_check_asks_for_nothing(site: Site, alice: Environ, tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    url_list(path, 3)
    checked = await called(alice, "import", str(path), "--check")
    assert (checked.code, checked.stdout) == (0, "3 jobs, and every line is right\n")
    assert await urls_of(site) == []


async def all_urls(site: Site) -> list[str]:
    """Return the URLs of all jobs, however many there are, oldest first."""
    urls: list[str] = []
    before = None
    while page := await site.ledger.jobs(Viewer("alice"), JobFilter(limit=1000, before_id=before)):
        urls += [job.spec.url for job in page]
        before = page[-1].id
    return urls[::-1]


@pytest.mark.drill
async def test_a_hundred_thousand_lines(site: Site, alice: Environ, tmp_path: Path) -> None:
    """On a terminal a bar shows how far it is; interrupted, the same command takes the rest, each line once."""
    path = tmp_path / "urls.txt"
    urls = url_list(path, 100_000)
    screen, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, "import", str(path)), env=alice, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = await asyncio.to_thread(shown_on, screen, r"[1-9]\d{3,4}/100000")
    assert "jobs taken" in shown
    process.send_signal(signal.SIGINT)
    shown = await asyncio.to_thread(shown_on, screen)
    assert await process.wait() == 130
    assert "The same command goes on from there." in shown
    first = await all_urls(site)
    assert 0 < len(first) < len(urls)
    assert first == urls[: len(first)]
    again = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, "import", str(path)), env=alice, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await again.communicate()
    assert (again.returncode, stdout) == (0, b"100000 jobs are taken; `rayhaul jobs` shows them\n")
    assert await all_urls(site) == urls
