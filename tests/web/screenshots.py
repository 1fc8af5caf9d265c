"""Takes docs/img/*.png: the page in a real Chromium over a real service with real jobs. `make screenshots`."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from inprocess import Service, quick_settings, service_thread
from origin import OriginThread
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright
from store import running_store

from rayhaul import Client
from rayhaul.settings import AgentSettings, HostsSettings, TransferSettings

IMAGES = Path(__file__).parents[2] / "docs" / "img"
MIB = 1024**2
#: What a page of documents can afford.
_BYTES_MAX = 200_000
_SIZE: ViewportSize = {"width": 1100, "height": 640}
_TIMEOUT_MS = 120_000
_AGENTS = 3
#: In the bucket when the picture is taken.
_PARTS = 14
_RATE_BYTES_PER_S = int(1.2 * MIB)
_DONE = ("handbook.pdf", "firmware-4.2.bin", "tiles-2026-02.tar")
_VIEWS = (
    ("Queue", "queue", 400),
    ("Dead letters", "dead", 240),
    ("Agents", "agents", 480),
    ("Hosts", "hosts", 240),
    ("Alerts and SLOs", "slo", 820),
)
_SLOW = ("dataset/images-01.tar", "dataset/images-02.tar", "backup-monday.img", "genome/chr1.fa.gz")


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not here (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name, running_store() as store, OriginThread() as origin:
        settings = quick_settings(
            store.settings.model_copy(update={"prefix": "shots/"}),
            agent=AgentSettings(slots=4),
            hosts=HostsSettings(connections_max=24),
            transfer=TransferSettings(
                part_bytes_min=5 * MIB, single_put_bytes_max=5 * MIB, retry_base_s=0.1, retry_cap_s=0.2, attempts_max=2
            ),
        )
        with service_thread(Path(name), settings, agents=_AGENTS) as service, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            context = browser.new_context(base_url=service.url, viewport=_SIZE, color_scheme="light")
            context.set_default_timeout(_TIMEOUT_MS)
            expect.set_options(timeout=_TIMEOUT_MS)
            with Client(service.url, service.operator) as client:
                _take_all(context.new_page(), service, client, origin.add)
            browser.close()


def _take_all(page: Page, service: Service, client: Client, add: Callable[..., str]) -> None:
    page.goto("/")
    page.get_by_label("API key").fill(service.operator)
    page.keyboard.press("Enter")
    slow = [add(path, size=300 * MIB, seed=3, rate_bytes_per_s=_RATE_BYTES_PER_S) for path in _SLOW]
    page.get_by_label("URLs, one a line").fill("\n".join(slow[:3]))
    _take(page, "add")
    # Alone, so that all agents help with it.
    large = client.submit(slow[0], connections=8)
    _until(lambda: len(client.get(large.id).agents) == _AGENTS and client.get(large.id).progress.parts_done > _PARTS)
    page.goto(f"/#/jobs/{large.id}")
    expect(page.locator(".legend").get_by_text("agent-")).to_have_count(_AGENTS)
    _take(page, "job", height=730)
    _ask(client, add, slow[1:])
    page.goto("/#/")
    expect(page.get_by_role("cell", name="completed").first).to_be_visible()
    expect(page.get_by_text("MiB/s").first).to_be_visible()
    _take(page, "jobs", height=960)
    for link, image, height in _VIEWS:
        _show(page, link, image, height)


def _ask(client: Client, add: Callable[..., str], slow: list[str]) -> None:
    """Ask for jobs that wait, for jobs that end in every way, and for some that go on."""
    client.pause_queue("low")
    waiting = [add(f"archive/{year}.tar.zst", size=50 * MIB, seed=4) for year in range(2022, 2026)]
    client.submit_many({"url": url, "priority": "low"} for url in waiting)
    done = [add(path, size=9 * MIB, seed=2) for path in _DONE]
    lost = client.submit(add("moved/report.csv", size=MIB, status=404))
    dead = client.submit(add("mirror/nightly.iso", size=MIB, status=503))
    for job in client.wait_many([*client.submit_many(done), lost.id, dead.id], timeout_s=120):
        assert job.status in {"completed", "failed"}
    _until(lambda: bool(client.dead_letters().jobs))
    slow_ids = client.submit_many({"url": url, "connections": 4} for url in slow)
    _until(lambda: all(client.get(job_id).progress.bytes > 8 * MIB for job_id in slow_ids))


def _show(page: Page, link: str, image: str, height: int) -> None:
    page.get_by_role("link", name=link).click()
    expect(page.get_by_role("heading", name=link, level=1)).to_be_visible()
    expect(page.get_by_role("table").first).to_be_visible()
    _take(page, image, height=height)


def _take(page: Page, image: str, *, height: int = _SIZE["height"]) -> None:
    page.set_viewport_size({"width": _SIZE["width"], "height": height})
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{image}.png"
    page.screenshot(path=path)
    size_bytes = path.stat().st_size
    assert size_bytes < _BYTES_MAX, f"{path.name} has {size_bytes} bytes"
    print(f"{path.name}: {size_bytes // 1000} kB")


def _until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_MS / 1000
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


if __name__ == "__main__":
    main()
