"""The page in a real Chromium, over the real API and the small plane. One browser for all tests, a context for each."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from look import opened
from plane import Site, site_at
from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = shutil.which("chromium")
#: Without these it looks for its maker's servers (peter.sh/experiments/chromium-command-line-switches).
_SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest_asyncio.fixture(loop_scope="session")
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not here (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=_SWITCHES)
        yield found
        await found.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(site: Site, browser: Browser) -> AsyncIterator[Page]:
    """The page as it is before anybody has signed in."""
    async with opened(site, browser) as found:
        yield found
