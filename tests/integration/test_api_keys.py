"""Keys over their lives: scopes, rotation with an overlap, last use."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from answers import check_problem
from plane import Site, site_at

from rayhaul.errors import Unavailable
from serve_app.auth import USE_NOTED_EVERY


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        yield site


async def make(site: Site, **fields: Any) -> dict[str, Any]:
    answer = await site.http.post("/keys", json={"user": "carol", **fields}, headers=site.auth["olga"])
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def rotate(site: Site, key_id: str, overlap_s: int) -> dict[str, Any]:
    path, body = f"/keys/{key_id}/rotate", {"overlapSeconds": overlap_s}
    answer = await site.http.post(path, json=body, headers=site.auth["olga"])
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/keys/{made['id']}"
    return made


async def status(site: Site, made: dict[str, Any]) -> int:
    answer = await site.http.get("/jobs", headers={"Authorization": f"Bearer {made['key']}"})
    return answer.status_code


async def test_a_key_has_the_scopes_asked_for(site: Site) -> None:
    """Both unless said otherwise; one alone; none or another word is refused."""
    assert (await make(site))["scopes"] == ["read", "write"]
    made = await make(site, scopes=["write"])
    assert (made["scopes"], await status(site, made)) == (["write"], 403)
    for scopes in ([], ["admin"], ["read", "read", "read"]):
        answer = await site.http.post("/keys", json={"user": "carol", "scopes": scopes}, headers=site.auth["olga"])
        check_problem(answer, 422, "invalid_request")


async def test_a_rotated_key_holds_for_the_overlap(site: Site) -> None:
    """The new key may do the same; both hold until the overlap is over, then the new one alone."""
    old = await make(site, scopes=["read"], name="laptop")
    new = await rotate(site, old["id"], 60)
    assert {name: new[name] for name in ("userId", "role", "name", "scopes", "expiresAt")} == {
        "userId": "carol",
        "role": "user",
        "name": "laptop",
        "scopes": ["read"],
        "expiresAt": None,
    }
    assert (new["id"] != old["id"], await status(site, old), await status(site, new)) == (True, 200, 200)
    site.clock.offset_s = 61
    assert (await status(site, old), await status(site, new)) == (401, 200)


async def test_rotation_makes_no_life_longer(site: Site) -> None:
    """The old key ends when it would have ended anyway; the new one lives as long as the old one was to live."""
    now = datetime.now(UTC)
    old = await make(site, expiresAt=(now + timedelta(hours=1)).isoformat())
    site.clock.offset_s = 1800
    new = await rotate(site, old["id"], 86_400)
    listed = (await site.http.get("/keys", headers=site.auth["olga"])).json()["keys"]
    kept = {key["id"]: key for key in listed}
    assert kept[old["id"]]["expiresAt"] == old["expiresAt"]
    life = datetime.fromisoformat(new["expiresAt"]) - datetime.fromisoformat(new["createdAt"])
    assert abs(life - timedelta(hours=1)) < timedelta(seconds=30)


async def test_what_is_over_is_not_rotated(site: Site) -> None:
    """A revoked key gets no successor, nor one that never was; an overlap has bounds."""
    old = await make(site)
    await site.http.delete(f"/keys/{old['id']}", headers=site.auth["olga"])
    for key_id, problem in ((old["id"], (409, "conflict")), ("00000000", (404, "not_found"))):
        answer = await site.http.post(f"/keys/{key_id}/rotate", json={}, headers=site.auth["olga"])
        check_problem(answer, *problem)
    body = {"overlapSeconds": 31 * 86_400}
    answer = await site.http.post(f"/keys/{old['id']}/rotate", json=body, headers=site.auth["olga"])
    check_problem(answer, 422, "invalid_request")


async def test_a_whole_number_may_be_written_with_a_point(site: Site) -> None:
    """60.0 is 60 (JSON Schema); 60.5 is no number of seconds that there is."""
    key = await make(site)
    for text, status in (("60.5", 422), ('"60"', 422), ("60.0", 201)):
        answer = await site.http.post(
            f"/keys/{key['id']}/rotate",
            content=f'{{"overlapSeconds": {text}}}',
            headers=site.auth["olga"] | {"Content-Type": "application/json"},
        )
        assert answer.status_code == status, answer.text


async def test_last_use_is_noted_seldom_and_in_nobodys_way(site: Site) -> None:
    """The first use is noted, those of the next minutes are not; a plane that cannot note it disturbs nobody."""
    key = await site.add_key("carol")

    async def used_at() -> datetime | None:
        await asyncio.gather(*site.app.state.keyring._noting)
        kept = await site.ledger.key(key.key_id)
        assert kept is not None
        return kept.last_used_at

    assert await used_at() is None
    for _ in range(3):
        assert (await site.http.get("/jobs", headers=site.auth["carol"])).status_code == 200
    first = await used_at()
    assert first is not None
    site.clock.offset_s = USE_NOTED_EVERY.total_seconds() - 5
    await site.http.get("/jobs", headers=site.auth["carol"])
    assert await used_at() == first
    site.clock.offset_s += 10
    site.plane_seam.fail["note_keys_used"] = Unavailable()
    site.app.state.keyring._note_use = site.plane_seam.note_keys_used
    assert (await site.http.get("/jobs", headers=site.auth["carol"])).status_code == 200
    assert await used_at() == first
    site.plane_seam.fail.clear()
    site.app.state.keyring._note_use = site.plane.note_keys_used
    site.clock.offset_s *= 2
    await site.http.get("/jobs", headers=site.auth["carol"])
    assert await used_at() == pytest.approx(first + timedelta(seconds=site.clock.offset_s), abs=timedelta(seconds=30))
