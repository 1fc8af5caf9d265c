"""A person before the page: a tab of a real Chromium that reaches the API under test and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from axe_playwright_python.async_playwright import Axe
from plane import Site, listening
from playwright.async_api import Browser, Page, Route, expect

#: On a machine that other tests keep busy.
TIMEOUT_MS = 40_000


@asynccontextmanager
async def opened(site: Site, browser: Browser, **context: Any) -> AsyncIterator[Page]:
    """Yield the page, opened; an error in its scripts and a request to another host fail the test."""
    async with listening(site.app) as url:
        made = await browser.new_context(base_url=url, **context)
        made.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        broken: list[str] = []
        abroad: list[str] = []

        async def refuse(route: Route) -> None:
            abroad.append(route.request.url)
            await route.abort()

        await made.route(lambda asked: not asked.startswith((f"{url}/", "blob:", "data:")), refuse)
        page = await made.new_page()
        page.on("pageerror", lambda error: broken.append(str(error)))
        await page.goto("/")
        # It asks first who is signed in, and has no view until that is answered.
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        yield page
        await made.close()
        assert broken == []
        assert abroad == []


async def sign_in(page: Page, site: Site, user: str = "alice") -> None:
    await page.get_by_label("API key").fill(site.auth[user]["Authorization"].partition(" ")[2])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Jobs")).to_be_visible()


async def check_accessible(page: Page) -> None:
    """No rule of WCAG 2 that axe-core knows is broken."""
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
