"""The page's files and its session: who is let in by the cookie, and who is not."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from plane import Site, listening, site_at

from rayhaul.errors import Fault

PAGE = {"X-Rayhaul-Page": "1"}
JOB = {"url": "https://files.example/data.bin"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as found:
        yield found


@pytest.fixture
async def browser(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """Keeps cookies, as a browser does, and sends no key by itself."""
    async with listening(site.app) as url, httpx.AsyncClient(base_url=url) as found:
        yield found


def key_of(site: Site, user: str) -> str:
    return site.auth[user]["Authorization"].partition(" ")[2]


async def test_every_fault_has_advice(browser: httpx.AsyncClient) -> None:
    """Whoever's fault a failure is, the page says what to do."""
    script = (await browser.get("/page/job.js")).text
    advice = script[script.index("const ADVICE = {") : script.index("};")]
    assert set(re.findall(r"^  (\w+): ", advice, re.MULTILINE)) == set(Fault)


async def test_the_files(browser: httpx.AsyncClient) -> None:
    """Whatever the page loads is there, of its own, and without a key; asked for again it is not sent again."""
    page = await browser.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    linked = re.findall(r'(?:href|src)="(/[^"]*)"', page.text)
    modules = (await browser.get("/page/main.js")).text
    linked += [f"/page/{name}" for name in re.findall(r'from "\./([\w.]+)"', modules)]
    assert len(linked) >= 8
    for path in linked:
        found = await browser.get(path)
        assert found.status_code == 200, path
        again = await browser.get(path, headers={"If-None-Match": found.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/page/none.js", "/page/..%2fauth.py", "/page/"):
        assert (await browser.get(path)).status_code == 404, path


async def test_nothing_is_loaded_from_elsewhere() -> None:
    """No address of another host stands in the files but those of examples and of the SVG's own name."""
    for file in (Path(__file__).parents[2] / "serve_app" / "page").iterdir():
        found = set(re.findall(r"https?://[\w.]+", file.read_text()))
        assert found <= {"https://files.example", "http://www.w3.org"}, file.name


async def test_signing_in(site: Site, browser: httpx.AsyncClient) -> None:
    """A key becomes a cookie that no script reads and no other site sends; it lets in where the key would."""
    assert (await browser.get("/session")).status_code == 401
    signed = await browser.post("/session", json={"key": f" {key_of(site, 'alice')}\n"}, headers=PAGE)
    assert signed.json() == {"userId": "alice", "role": "user", "scopes": ["read", "write"]}
    cookie = signed.headers["Set-Cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/")), cookie
    assert "secure" not in cookie
    assert (await browser.get("/session")).json()["userId"] == "alice"
    assert (await browser.get("/jobs")).status_code == 200
    assert (await browser.get("/agents")).status_code == 403
    assert (await browser.post("/jobs", json=JOB, headers=PAGE)).status_code == 201
    assert (await browser.delete("/session", headers=PAGE)).status_code == 204
    assert (await browser.get("/jobs")).status_code == 401


async def test_behind_tls_the_cookie_is_secure(site: Site, browser: httpx.AsyncClient) -> None:
    headers = {**PAGE, "X-Forwarded-Proto": "https"}
    signed = await browser.post("/session", json={"key": key_of(site, "alice")}, headers=headers)
    assert "secure" in signed.headers["Set-Cookie"].lower()


async def test_a_wrong_key_gets_no_cookie(browser: httpx.AsyncClient) -> None:
    for key in ("x", "rayhaul_live_aaaaaaaa_" + "b" * 43 + "_cccccc"):
        refused = await browser.post("/session", json={"key": key}, headers=PAGE)
        assert refused.status_code == 401
        assert "Set-Cookie" not in refused.headers


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "cross-site", **PAGE}, {"Sec-Fetch-Site": "same-site", **PAGE}],
    ids=["no header", "another site", "a sibling"],
)
async def test_another_site_changes_nothing(site: Site, browser: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """The cookie alone makes no job, signs nobody in or out; a key in the header needs none of that."""
    key = key_of(site, "alice")
    await browser.post("/session", json={"key": key}, headers=PAGE)
    for method, path, body in (
        ("POST", "/jobs", JOB),
        ("POST", "/session", {"key": key}),
        ("DELETE", "/session", None),
    ):
        refused = await browser.request(method, path, json=body, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), path
    assert (await browser.get("/jobs")).json()["jobs"] == []
    sent = await browser.post("/jobs", json=JOB, headers={**headers, "Authorization": f"Bearer {key}"})
    assert sent.status_code == 201


async def test_events_come_by_the_cookie(site: Site, browser: httpx.AsyncClient) -> None:
    """A browser's EventSource sends no header of its own."""
    await browser.post("/session", json={"key": key_of(site, "alice")}, headers=PAGE)
    job_id = await site.submit("alice")
    async with browser.stream("GET", f"/jobs/{job_id}/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event:"):
                assert line == "event: created"
                break
