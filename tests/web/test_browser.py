"""The page in a real Chromium, over the real API and the small plane: what a person does, and what they hear of it."""

import asyncio
import re
from contextlib import suppress
from dataclasses import replace
from time import time
from typing import Any

import pytest
from control_scene import PART, PROGRESS, add_upload, scene_of
from look import TIMEOUT_MS, check_accessible, opened, sign_in
from plane import Site
from playwright.async_api import Browser, Page, Request, Route, expect

from rayhaul.errors import Internal, SourceBusy
from rayhaul.job import JobEvent, JobResult, utc
from rayhaul.lease import SessionState
from rayhaul.ledger.base import Batch, JobFilter, ScalingRecord, Viewer

MANY = 1000

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_sign_in_and_out(site: Site, page: Page) -> None:
    """A wrong key is told as such; the right one opens the list; signed out, nothing is shown any more."""
    await check_accessible(page)
    await page.get_by_label("API key").fill("nonsense")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text("This is no valid API key.")
    await sign_in(page, site)
    await page.reload()
    await expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("API key")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("API key")).to_be_visible()


async def test_add_watch_and_cancel(site: Site, page: Page) -> None:
    """Several URLs become jobs that appear by themselves; one is cancelled on its own page, and retried."""
    await sign_in(page, site)
    await page.get_by_label("URLs, one a line").fill("https://files.example/one.bin\nhttps://files.example/two.bin")
    await page.get_by_role("button", name="Fetch into the bucket").click()
    await expect(page.get_by_role("status")).to_have_text("2 jobs are taken.")
    await expect(page.get_by_role("link", name="two.bin")).to_be_visible()
    # There are none.
    await expect(page.get_by_role("button", name="Older jobs")).to_have_count(0)
    await page.get_by_label("Show").select_option("failed")
    await expect(page.get_by_text("No failed jobs.")).to_be_visible()
    await page.get_by_label("Show").select_option("")
    await check_accessible(page)
    await page.get_by_role("link", name="one.bin").click()
    await expect(page.get_by_role("heading", name="one.bin")).to_be_visible()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_text("cancelled", exact=True)).to_be_visible()
    await expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    await check_accessible(page)
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("queued", exact=True)).to_be_visible()


async def test_a_job_that_moves(site: Site, page: Page) -> None:
    """How far it is and how fast, which parts are in whose hands, what has happened; then its receipt."""
    scene = await scene_of(site)
    site.plane.tell_progress(scene.running, PROGRESS)
    await sign_in(page, site, "olga")
    await page.goto(f"/#/jobs/{scene.running}")
    await expect(page.get_by_text(re.compile(r"^40 B of 100 B · 2 of 5 parts · .+/s · .+ left$"))).to_be_visible()
    told = "3 of 5 parts are in the bucket: 2 by agent-1, which is to bring 2; 1 by agent-2"
    parts = page.get_by_role("img", name=told, exact=True)
    await expect(parts).to_be_visible()
    await expect(parts.locator("span")).to_have_count(5)
    await expect(page.get_by_text("Download began")).to_be_visible()
    await check_accessible(page)
    site.plane.tell_progress(scene.running, replace(PROGRESS, bytes_done=80, parts_done=4))
    await expect(page.get_by_text(re.compile(r"^80 B of 100 B · 4 of 5 parts"))).to_be_visible()
    stored = JobResult(bucket="bucket", key="a/file.bin", size_bytes=100, etag="abc", sha256=None, parts_count=5)
    await site.plane.move(
        scene.running, JobEvent.UPLOADING, JobEvent.COMPLETED, result=stored, key=stored.key, completed_at=utc(time())
    )
    await expect(page.get_by_text("Completed and verified")).to_be_visible()
    async with page.expect_download() as receipt:
        await page.get_by_role("button", name="Receipt").click()
    assert (await receipt.value).suggested_filename == f"{scene.running}-receipt.json"
    async with page.expect_request(re.compile(rf"/jobs/{scene.running}/download")):
        await page.get_by_role("button", name="Download").click()


async def test_who_brought_which_part(site: Site, page: Page) -> None:
    """The owner sees each agent's parts in a colour of its own, how many they are, and those that nobody is known of;
    agents that share a colour stand apart in the legend. It fits on a phone, and stays when the job is completed.
    """
    scene = await scene_of(site)
    # One agent more than there are colours, and a part that was recorded by an earlier release.
    agents = ["agent-1", "agent-2", "agent-3", None, *(f"agent-{number}" for number in range(4, 8)), "agent-1"]
    await add_upload(scene, agents, size_bytes=PART * 11)
    await page.set_viewport_size({"width": 360, "height": 740})
    await sign_in(page, site)
    await page.goto(f"/#/jobs/{scene.running}")
    said = "; ".join(f"1 by agent-{number}" for number in range(2, 8))
    told = f"9 of 11 parts are in the bucket: 2 by agent-1, which is to bring 1; {said}; 1 by agents that are not known"
    parts = page.get_by_role("img", name=told, exact=True)
    await expect(parts).to_be_visible()
    assert [await cell.get_attribute("class") for cell in await parts.locator("span").all()] == [
        *("agent-0", "agent-1", "agent-2", "done", "agent-3", "agent-4", "agent-5", "agent-0", "agent-0"),
        *("agent-0 waits", ""),
    ]
    colors = await parts.locator("span").evaluate_all(
        "cells => cells.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert len({*colors[:7]}) == 7
    assert colors[7] == colors[0]
    assert await parts.locator("span").nth(4).get_attribute("title") == "part 5: in the bucket, by agent-4"
    legend = page.locator(".legend li")
    assert [" ".join((await item.inner_text()).split()) for item in await legend.all()] == [
        "agent-1: 2 brought (1, 9), 1 to come",
        *(
            f"agent-{agent}: 1 brought ({number})"
            for agent, number in zip(range(2, 8), (2, 3, 5, 6, 7, 8), strict=True)
        ),
        "1 in the bucket (4)",
    ]
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await check_accessible(page)
    stored = JobResult(bucket="bucket", key="a/file.bin", size_bytes=100, etag="abc", sha256=None, parts_count=11)
    await add_upload(scene, [*agents, "agent-2", "agent-2"], state=SessionState.COMPLETED)
    await site.ledger.commit(Batch(leases_ended=[f"lease_{scene.running}"]))
    await site.plane.move(scene.running, JobEvent.UPLOADING, JobEvent.COMPLETED, result=stored, key=stored.key)
    await expect(
        page.get_by_role("img", name=re.compile(r"^11 of 11 parts .*: 2 by agent-1; 3 by agent-2; "))
    ).to_be_visible()


async def test_what_the_api_refuses_is_said(site: Site, page: Page) -> None:
    """A URL that is none, with the field that is wrong; what was typed stays."""
    await sign_in(page, site)
    await page.get_by_label("URLs, one a line").fill("gopher://files.example/x")
    await page.get_by_role("button", name="Fetch into the bucket").click()
    await expect(page.get_by_role("status")).to_contain_text("url")
    await expect(page.get_by_label("URLs, one a line")).to_have_value("gopher://files.example/x")


async def test_dead_letters_are_replayed(site: Site, page: Page) -> None:
    """Its reason is there; after the replay it is not."""
    job_id = await site.submit("alice")
    await site.plane.bury(job_id, SourceBusy("asked <b>too</b> often").failure())
    await sign_in(page, site)
    await page.get_by_role("link", name="Dead letters").click()
    await expect(page.get_by_role("cell", name="source_busy")).to_be_visible()
    await check_accessible(page)
    await page.get_by_role("button", name="Replay data.bin").click()
    await expect(page.get_by_text("None: no job has run out of attempts.")).to_be_visible()
    assert (await site.ledger.job(Viewer("alice"), job_id)).dead_lettered_at is None


async def test_what_to_do_about_a_failure(site: Site, page: Page) -> None:
    """It is said beside the reason, also where the fault is ours."""
    job_id = await site.submit("alice")
    await site.plane.bury(job_id, Internal("a part was lost on the way").failure())
    await sign_in(page, site)
    await page.get_by_role("link", name="data.bin").click()
    problem = page.get_by_role("alert")
    await expect(problem).to_contain_text("internal a part was lost on the way")
    await expect(problem).to_contain_text("tell the operators if it happens again")
    await expect(page.get_by_text("Handed back", exact=True)).to_be_visible()
    await expect(page.get_by_text("once", exact=True)).to_be_visible()
    await expect(page.get_by_text("It ended before there were any.")).to_be_visible()
    await check_accessible(page)


async def test_more_dead_letters_than_are_shown(site: Site, page: Page) -> None:
    """That there are more is said."""

    async def of_one(route: Route, request: Request) -> None:
        await route.continue_(url=request.url.replace("limit=100", "limit=1"))

    for _ in range(2):
        await site.plane.bury(await site.submit("alice"), SourceBusy("asked too often").failure())
    await page.route(re.compile(r"/dlq\?"), of_one)
    await sign_in(page, site)
    await page.get_by_role("link", name="Dead letters").click()
    await expect(page.get_by_role("button", name="Replay data.bin")).to_have_count(1)
    await expect(page.get_by_text(re.compile(r"of more; .*: rayhaul dlq\.$"))).to_be_visible()
    await page.get_by_role("button", name="Delete data.bin").click()
    await expect(page.get_by_text("rayhaul dlq")).to_have_count(0)


@pytest.mark.parametrize("view", ["Jobs", "Dead letters"])
async def test_a_key_that_ends_meanwhile(site: Site, page: Page, view: str) -> None:
    """Whoever looks on is not left with what was true once: the page says so, and asks for a key."""
    key = await site.add_key("guest")
    await sign_in(page, site, "guest")
    await page.get_by_role("link", name=view, exact=True).click()
    await expect(page.get_by_role("heading", name=view)).to_be_visible()
    revoked = await site.http.delete(f"/keys/{key.key_id}", headers=site.auth["olga"])
    assert revoked.status_code == 200
    site.app.state.replica.feed.close()
    await expect(page.get_by_label("API key")).to_be_focused()
    await expect(page.get_by_role("status")).to_contain_text("signed in no longer")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


@pytest.mark.parametrize("view", ["the list", "the job"])
async def test_live_updates_come_back(site: Site, page: Page, view: str) -> None:
    """The stream ends, and the first that is asked for in its place is refused: what happened meanwhile is shown."""
    asked: list[str] = []

    async def refuse_once(route: Route, request: Request) -> None:
        asked.append(request.url)
        # The first is the one that ends.
        await (route.fulfill(status=503) if len(asked) == 2 else route.continue_())

    job_id = await site.submit("alice")
    await page.route(re.compile(r"/events(\?|$)" if view == "the list" else rf"/jobs/{job_id}/events"), refuse_once)
    await sign_in(page, site)
    await page.get_by_role("link", name="data.bin").click(trial=view == "the list")
    await site.plane.move(job_id, JobEvent.PAUSED)
    await expect(page.get_by_text("paused", exact=True).and_(page.locator(".status"))).to_be_visible()
    # The page may know that without its stream, which may not be there to be ended yet; and before it has ended it may
    # still tell what happens.
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        while len(asked) < 2:
            site.app.state.replica.feed.close()
            await asyncio.sleep(0.05)
    await site.plane.move(job_id, JobEvent.CANCELLED)
    await expect(page.get_by_text("cancelled", exact=True).and_(page.locator(".status"))).to_be_visible()
    if view == "the job":
        await expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    assert "last_event_id=" in asked[2]


async def test_views_for_operators(site: Site, page: Page) -> None:
    """Queue, with its valve, and agents; a user has no way to them."""
    await sign_in(page, site)
    await expect(page.get_by_role("link", name="Agents")).to_have_count(0)
    await page.get_by_role("button", name="Sign out").click()
    await sign_in(page, site, "olga")
    await page.get_by_role("link", name="Queue").click()
    await page.get_by_role("button", name="Pause low").click()
    await expect(page.get_by_role("button", name="Resume low")).to_be_visible()
    await check_accessible(page)
    for view in ("Agents", "Hosts", "Alerts and SLOs"):
        await page.get_by_role("link", name=view).click()
        await expect(page.get_by_role("heading", name=view, level=1)).to_be_visible()
        await check_accessible(page)


async def test_scaling_decisions_are_shown(site: Site, page: Page) -> None:
    """What was wanted, from how many agents, and why: the newest first."""
    facts: dict[str, Any] = {"draining": 0, "load_pct": 91.4, "jobs_waiting": 7}
    made = [
        ScalingRecord(ts=utc(1_790_000_000), reason="out", wanted=3, online=1, pending=0, **facts),
        ScalingRecord(ts=utc(1_790_000_060), reason="node_late", wanted=2, online=1, pending=2, **facts),
    ]
    await site.ledger.commit(Batch(scaling=made))
    await sign_in(page, site, "olga")
    await page.get_by_role("link", name="Agents").click()
    rows = page.get_by_role("table", name="Scaling decisions").get_by_role("row")
    await expect(rows).to_have_count(3)
    await expect(rows.nth(1).get_by_role("cell")).to_have_text(
        [re.compile("2026"), "1 (2 coming)", "2", "node late", "91 %", "7"]
    )
    await expect(rows.nth(2).get_by_role("cell")).to_have_text([re.compile("2026"), "1", "3", "out", "91 %", "7"])
    await check_accessible(page)


async def test_a_phone_in_the_dark(site: Site, browser: Browser) -> None:
    """No view is wider than the screen, and the colours of the dark keep their contrast."""
    scene = await scene_of(site)
    site.plane.tell_progress(scene.running, PROGRESS)
    await site.submit(url=f"https://files.example/{'a-name-that-is-long-' * 9}.bin", key=f"alice/{'long' * 40}.bin")
    async with opened(site, browser, color_scheme="dark", viewport={"width": 360, "height": 740}) as page:
        await check_accessible(page)
        await sign_in(page, site, "olga")
        for path, heading in [
            ("#/", "Jobs"),
            (f"#/jobs/{scene.running}", "data.bin"),
            (f"#/jobs/{scene.dead}", "data.bin"),
            ("#/queue", "Queue"),
            ("#/dead", "Dead letters"),
            ("#/agents", "Agents"),
            ("#/hosts", "Hosts"),
            ("#/health", "Alerts and SLOs"),
        ]:
            await page.evaluate("path => { location.hash = path; }", path)
            await expect(page.get_by_role("heading", name=heading, level=1)).to_be_focused()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360, path
            for link in await page.get_by_role("navigation").get_by_role("link").all():
                box = await link.bounding_box()
                assert box is not None
                assert box["x"] + box["width"] <= 360, "no view is out of sight"
            await check_accessible(page)


_WATCH = """
() => {
  const watched = { draws: 0, rowsPut: 0, rowsDrawn: new Set(), longTasksMs: [] };
  new MutationObserver((changes) => {
    watched.draws += 1;
    for (const { target, addedNodes } of changes) {
      watched.rowsPut += [...addedNodes].filter((node) => node.nodeName === "TR").length;
      watched.rowsDrawn.add((target.parentElement ?? target).closest("tr"));
    }
  }).observe(document.querySelector("tbody"), { subtree: true, childList: true, attributes: true });
  new PerformanceObserver((list) => {
    watched.longTasksMs.push(...list.getEntries().map((task) => Math.round(task.duration)));
  }).observe({ type: "longtask" });
  globalThis.watched = watched;
}
"""
_MOVING, _ROUNDS = 50, 4


async def _asked_for_alone(site: Site, page: Page, job_id: str) -> None:
    """Pause a job that the page does not show until the page asks for it, which it does not among many that change.

    Of those before it the page may hear later than it showed them.
    """
    asked = asyncio.Event()
    page.on("response", lambda response: asked.set() if response.url.endswith(f"/jobs/{job_id}") else None)
    await site.plane.move(job_id, JobEvent.PAUSED)
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        while not asked.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(asked.wait(), 2)
            if not asked.is_set():
                await site.plane.move(job_id, JobEvent.RESUMED, JobEvent.PAUSED)


async def test_a_thousand_jobs(site: Site, page: Page) -> None:
    """Taken at once from a pasted list, they leave the page usable, and what moves is drawn alone and once a frame."""
    await sign_in(page, site)
    await page.get_by_label("URLs, one a line").fill("\n".join(f"https://files.example/{n}.bin" for n in range(MANY)))
    await page.get_by_role("button", name="Fetch into the bucket").click()
    await expect(page.get_by_role("status")).to_have_text(f"{MANY} jobs are taken.")
    await expect(page.get_by_role("link", name=f"{MANY - 1}.bin", exact=True)).to_be_visible()
    await page.get_by_label("Show").select_option("queued")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(100)
    ids = [job.id for job in await site.ledger.jobs(Viewer("alice"), JobFilter(limit=MANY))]
    moving, oldest = ids[:_MOVING], ids[-1]
    for job_id in moving:
        await site.plane.move(job_id, JobEvent.STARTED)
    await page.get_by_label("Show").select_option("")
    await expect(page.locator(".status.downloading")).to_have_count(_MOVING)
    await _asked_for_alone(site, page, oldest)
    for older in range(200, MANY + 1, 100):
        await page.get_by_role("button", name="Older jobs").click()
        await expect(rows).to_have_count(older)
    # It comes at its place in time, not at the top because it has just changed.
    await expect(rows.last.locator(".status")).to_have_text("paused")
    await page.evaluate(_WATCH)
    for done in range(1, _ROUNDS + 1):
        for job_id in moving:
            site.plane.tell_progress(job_id, replace(PROGRESS, bytes_total=None, bytes_done=done, eta_s=done))
        for place in (1, _MOVING):
            await expect(page.locator(f"tbody tr:nth-child({place}) td:last-child")).to_have_text(f"{done} s")
    watched = await page.evaluate("({ ...watched, rowsDrawn: watched.rowsDrawn.size })")
    print(f"{MANY} rows, {_MOVING * _ROUNDS} events: {watched}")
    assert watched["rowsPut"] == 0
    assert watched["rowsDrawn"] == _MOVING
    assert watched["draws"] <= _MOVING * _ROUNDS / 4
