"""The API's edge: rate limits and their headers, what is too much of anything, and knobs that are not the client's."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from answers import check_problem
from plane import Site, api_settings, site_at

from rayhaul import keys
from rayhaul.job import utc
from rayhaul.ledger.base import ApiKey, Role
from serve_app.edge import HEADER_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        yield site


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Site]:
    """A site that takes six requests of a key a minute."""
    async with site_at(tmp_path, api_settings(rate_per_minute=6, key_cache_s=5)) as site:
        site.clock.frozen_s = 1_800_000_000.0
        yield site


def stranger() -> str:
    """Return a key that is well made, and that nobody knows."""
    return keys.new_key("mallory", Role.USER, "", utc(1_800_000_000.0), secrets.token_bytes)[0]


async def get(site: Site, user: str = "alice", path: str = "/jobs", **headers: str) -> httpx.Response:
    return await site.http.get(path, headers={**site.auth[user], **headers})


# --- rate limits ---


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(strict: Site) -> None:
    """Six pass and count down; the seventh is 429 with Retry-After; after that wait one more passes."""
    for left in (5, 4, 3, 2, 1, 0):
        answer = await get(strict)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"requests";q=6;w=60'
        assert answer.headers["ratelimit"] == f'"requests";r={left};t={60 - left * 10}'
    refused = await get(strict)
    problem = check_problem(refused, 429, "rate_limited")
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert problem["violated-policies"] == ["requests"]
    assert refused.headers["retry-after"] == "10"
    assert refused.headers["ratelimit"] == '"requests";r=0;t=60'
    strict.clock.offset_s = 10
    assert (await get(strict)).status_code == 200
    check_problem(await get(strict), 429, "rate_limited")


async def test_each_key_has_a_limit_of_its_own(strict: Site) -> None:
    """Alice's requests cost Bob nothing, and those without a good key cost nobody anything."""
    for _ in range(7):
        await get(strict)
        await strict.http.get("/jobs", headers={"Authorization": "Bearer nonsense"})
    check_problem(await get(strict), 429, "rate_limited")
    assert (await get(strict, "bob")).headers["ratelimit"] == '"requests";r=5;t=10'
    unknown = await strict.http.get("/jobs")
    assert "ratelimit" not in unknown.headers


async def test_refused_requests_are_counted(strict: Site) -> None:
    """`rayhaul_rate_limit_hits_total` counts them, and nothing else."""
    for _ in range(9):
        await get(strict)
    text = (await get(strict, "olga", "/metrics")).text
    assert "rayhaul_rate_limit_hits_total 3.0" in text


async def test_an_address_that_signs_in_too_often_is_told_so(strict: Site) -> None:
    """With a wrong key or a right one; the last proxy's word counts, and another address is not held back."""
    key = strict.auth["alice"]["Authorization"].removeprefix("Bearer ")

    async def sign_in(text: str, forwarded: str) -> httpx.Response:
        headers = {"X-Rayhaul-Page": "1", "X-Forwarded-For": forwarded}
        return await strict.http.post("/session", json={"key": text}, headers=headers)

    for number in range(6):
        tried = await sign_in("nonsense" if number % 2 else key, f"198.51.100.{number}, 203.0.113.7")
        assert tried.status_code == (401 if number % 2 else 200)
        assert tried.headers["ratelimit"].startswith(f'"requests";r={5 - number};')
    refused = await sign_in(key, "203.0.113.7")
    check_problem(refused, 429, "rate_limited")
    assert int(refused.headers["retry-after"]) == 10
    assert "set-cookie" not in refused.headers
    assert (await sign_in(key, "203.0.113.8")).status_code == 200
    # What is no address is nobody's word: the peer's own counts.
    assert (await sign_in(key, "a wolf")).headers["ratelimit"].startswith('"requests";r=5;')
    assert (await get(strict)).status_code == 200


async def test_an_address_with_too_many_wrong_keys_has_no_more_of_them_looked_up(strict: Site) -> None:
    """The ledger is not asked for them any more; a key in use goes on, from that address too, and so do others."""

    async def ask(key: str, forwarded: str) -> httpx.Response:
        return await strict.http.get("/jobs", headers={"Authorization": f"Bearer {key}", "X-Forwarded-For": forwarded})

    known = strict.auth["alice"]["Authorization"].removeprefix("Bearer ")
    other = strict.auth["bob"]["Authorization"].removeprefix("Bearer ")
    assert (await ask(known, "203.0.113.9")).status_code == 200
    wrong = [(await ask(stranger(), "203.0.113.9")).status_code for _ in range(8)]
    assert wrong == [401] * 6 + [429] * 2
    refused = await ask(other, "203.0.113.9")
    check_problem(refused, 429, "rate_limited")
    assert int(refused.headers["retry-after"]) == 10
    assert (await ask(known, "203.0.113.9")).status_code == 200
    assert (await ask(other, "203.0.113.10")).status_code == 200
    # One who has an address of a network has them all; who comes without a proxy shares the ingress with everybody.
    spread = [(await ask(stranger(), f"2001:db8::{n}")).status_code for n in range(1, 9)]
    assert spread == [401] * 6 + [429] * 2
    assert (await strict.http.get("/jobs", headers={"Authorization": "Bearer nonsense"})).status_code == 401
    # A key that was good is looked up again when it has been remembered long enough, whatever its neighbours do.
    strict.clock.offset_s = 6
    assert (await ask(stranger(), "203.0.113.9")).status_code == 429
    assert (await ask(known, "203.0.113.9")).status_code == 200


async def test_keys_that_are_made_up_are_looked_up_a_few_at_a_time(site: Site) -> None:
    """Where no proxy tells addresses too; a key in use does not stand in their line."""
    assert (await get(site)).status_code == 200
    looking, most = 0, 0
    full, release = asyncio.Event(), asyncio.Event()
    known = site.auth["alice"]["Authorization"].split("_")[2]

    async def slow(key_id: str) -> ApiKey | None:
        nonlocal looking, most
        if key_id != known:
            looking += 1
            most = max(most, looking)
            if looking == 4:
                full.set()
            await release.wait()
            looking -= 1
        return await site.ledger.key(key_id)

    site.ledger_seam.instead["key"] = slow
    made_up = [
        asyncio.create_task(site.http.get("/jobs", headers={"Authorization": f"Bearer {stranger()}"}))
        for _ in range(12)
    ]
    async with asyncio.timeout(20):
        await full.wait()
        assert (await get(site)).status_code == 200
        release.set()
        answers = await asyncio.gather(*made_up)
    assert [answer.status_code for answer in answers] == [401] * 12
    assert most == 4


async def test_each_replica_grants_its_share(tmp_path: Path) -> None:
    """Of three replicas each takes a third of the rate."""
    async with site_at(tmp_path, api_settings(rate_per_minute=30, replicas=3)) as site:
        assert (await get(site)).headers["ratelimit-policy"] == '"requests";q=10;w=60'


# --- too much of anything ---


async def test_too_many_or_too_long_header_fields_are_431(site: Site) -> None:
    """One more than is taken, and one byte more; what is taken passes."""
    sent = 6  # by the client itself, beside the key
    many = {f"X-{number}": "a" for number in range(HEADERS_MAX - sent + 1)}
    check_problem(await get(site, **many), 431, "invalid_request")
    check_problem(await get(site, **{"X-Long": "a" * HEADER_BYTES_MAX}), 431, "invalid_request")
    fewer = dict(list(many.items())[:-2])
    assert (await get(site, **fewer)).status_code == 200


async def test_a_target_that_is_too_long_is_414(site: Site) -> None:
    """Path and query together; refused before anybody reads them."""
    check_problem(await get(site, path=f"/jobs?tag={'a' * TARGET_BYTES_MAX}"), 414, "invalid_request")
    check_problem(await get(site, path=f"/jobs/{'a' * TARGET_BYTES_MAX}"), 414, "invalid_request")


# --- Serve's knobs ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-Timeout-Seconds", "0.001"),
        ("x-request-disconnect-disabled", "?1"),
        ("serve_multiplexed_model_id", "m"),
        ("Serve-Multiplexed-Model-Id", "m"),
    ],
)
async def test_knobs_of_ray_serve_are_not_the_clients(site: Site, name: str, value: str) -> None:
    """A client that turns one is refused, on any route, whoever it is."""
    check_problem(await get(site, **{name: value}), 400, "invalid_request")
    check_problem(await site.http.get("/livez", headers={name: value}), 400, "invalid_request")


# --- security headers ---


async def test_data_is_no_document_and_nothing_is_framed(site: Site) -> None:
    """Answers with data may load nothing; pages are framed by nobody; both on errors as well."""
    for answer in (await get(site), await site.http.get("/jobs"), await get(site, path="/nowhere")):
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    page = await site.http.get("/")
    assert page.headers["x-frame-options"] == "DENY"
    (policy,) = page.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_no_page_of_the_framework_is_served(site: Site, path: str) -> None:
    """Scripts from elsewhere would run with the session of whoever is signed in."""
    assert (await site.http.get(path)).status_code == 404
