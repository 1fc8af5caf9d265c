"""The page by keys alone: everything is reached and used, and the focus is never lost to what moves by itself."""

import asyncio
import re
from dataclasses import replace

import pytest
from control_scene import PROGRESS, scene_of
from look import sign_in
from plane import Site
from playwright.async_api import Locator, Page, Route, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")
_TABS_MAX = 30


async def tab_to(page: Page, wanted: Locator, key: str = "Tab") -> None:
    """Press Tab until it has the focus."""
    for _ in range(_TABS_MAX):
        await page.keyboard.press(key)
        if await wanted.evaluate("one => one === document.activeElement"):
            return
    pytest.fail(f"{_TABS_MAX} times Tab do not lead to {wanted}")


async def test_from_the_key_to_the_way_out(site: Site, page: Page) -> None:
    """Signed in, a job added, opened, cancelled and retried, back in the list, signed out; no mouse."""
    await expect(page.get_by_label("API key")).to_be_focused()
    await page.keyboard.type(site.auth["alice"]["Authorization"].partition(" ")[2])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Jobs")).to_be_focused()
    await tab_to(page, page.get_by_label("URLs, one a line"))
    await page.keyboard.type("https://files.example/one.bin")
    await tab_to(page, page.get_by_role("button", name="Fetch into the bucket"))
    await page.keyboard.press("Enter")
    link = page.get_by_role("link", name="one.bin")
    await expect(link).to_be_visible()
    await tab_to(page, link)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="one.bin")).to_be_focused()
    await tab_to(page, page.get_by_role("button", name="Cancel"))
    await page.keyboard.press("Space")
    # The button that was pressed is gone: what takes its place has no focus, the top of the view has.
    await expect(page.get_by_text("cancelled", exact=True)).to_be_visible()
    await expect(page.get_by_role("heading", name="one.bin")).to_be_focused()
    await tab_to(page, page.get_by_role("button", name="Retry"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("queued", exact=True)).to_be_visible()
    await tab_to(page, page.get_by_role("link", name="Jobs"), "Shift+Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Jobs")).to_be_focused()
    out = page.get_by_role("button", name="Sign out")
    await page.keyboard.press("Shift+Tab")
    await expect(out).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("API key")).to_be_focused()


async def test_the_skip_link_stays_in_its_view(site: Site, page: Page) -> None:
    """It leads past the header of the view that is shown, not to another one."""
    await sign_in(page, site)
    await page.get_by_role("link", name="Queue").press("Enter")
    await expect(page.get_by_role("heading", name="Queue")).to_be_focused()
    skip = page.get_by_role("link", name="Skip to content")
    await skip.focus()
    await expect(skip).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    await expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    assert page.url.endswith("#/queue")


async def test_progress_takes_no_focus(site: Site, page: Page) -> None:
    """A button of a job that moves keeps the focus while bytes arrive."""
    scene = await scene_of(site)
    site.plane.tell_progress(scene.running, PROGRESS)
    await sign_in(page, site)
    await page.evaluate("path => { location.hash = path; }", f"#/jobs/{scene.running}")
    await expect(page.get_by_text(re.compile("^40 B of 100 B"))).to_be_visible()
    cancel = page.get_by_role("button", name="Cancel")
    await tab_to(page, cancel)
    site.plane.tell_progress(scene.running, replace(PROGRESS, bytes_done=80, parts_done=4))
    await expect(page.get_by_text(re.compile("^80 B of 100 B"))).to_be_visible()
    await expect(cancel).to_be_focused()


async def test_what_is_read_again_takes_no_focus(site: Site, page: Page) -> None:
    """A button of a table that is read every two seconds keeps the focus, and the table is read all the same."""
    dead = [await site.submit(url=f"https://files.example/{name}.bin") for name in ("one", "two", "three")]
    for job_id in dead:
        await site.plane.bury(job_id)
    await sign_in(page, site, "olga")
    await page.get_by_role("link", name="Dead letters").press("Enter")
    await expect(page.get_by_role("row")).to_have_count(4)
    replay = page.get_by_role("button", name="Replay one.bin")
    await tab_to(page, replay)
    # That of another row: what is at its place afterwards is not what was chosen.
    await site.plane.discard(dead[1])
    await expect(page.get_by_role("row")).to_have_count(3)
    await expect(replay).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("row")).to_have_count(2)
    await expect(page.get_by_role("heading", name="Dead letters")).to_be_focused()
    await page.get_by_role("link", name="Queue").press("Enter")
    await tab_to(page, page.get_by_role("button", name="Pause low"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Resume low")).to_be_focused()


async def test_the_view_asked_for_last_is_shown(site: Site, page: Page) -> None:
    """One that was asked for before, and is answered later, does not take its place."""
    held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()

    async def hold(route: Route) -> None:
        held.set_result(route)

    await sign_in(page, site)
    await page.route(re.compile("/queue$"), hold)
    await page.get_by_role("link", name="Queue").press("Enter")
    route = await held
    await page.get_by_role("link", name="Dead letters").press("Enter")
    await expect(page.get_by_role("heading", name="Dead letters")).to_be_focused()
    async with page.expect_response(re.compile("/queue$")) as late:
        await route.continue_()
    await (await late.value).finished()
    # The page has the answer; a turn later it has drawn what it draws of it.
    await page.evaluate("new Promise((shown) => setTimeout(shown, 50))")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Dead letters")
