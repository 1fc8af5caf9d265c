"""Who may what: every route of the application for every kind of caller.

A route that is not in the table fails the first test: whoever adds one says here who may.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from control_scene import scene_of
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from plane import Site, site_at

from rayhaul.ledger.base import Role, Scope


class Kind(StrEnum):
    #: Needs no key.
    OPEN = "open"
    #: Needs no key in a header, but comes from the page.
    PAGE = "page"
    #: Any key; what it shows is the caller's own, or everybody's.
    ANY = "any"
    #: A thing of somebody's: for its owner and for operators; nobody else learns that it is there.
    OWN = "own"
    OPERATORS = "operators"


KEYLESS = (Kind.OPEN, Kind.PAGE)
JOB = {"url": "https://files.example/data.bin"}

#: Every route, with the body that a sane request has.
ROUTES: dict[tuple[str, str], tuple[Kind, Any]] = {
    ("GET", "/"): (Kind.OPEN, None),
    ("GET", "/page/{name}"): (Kind.OPEN, None),
    ("POST", "/session"): (Kind.PAGE, {"key": "none"}),
    ("DELETE", "/session"): (Kind.PAGE, None),
    ("GET", "/session"): (Kind.ANY, None),
    ("GET", "/livez"): (Kind.OPEN, None),
    ("GET", "/readyz"): (Kind.OPEN, None),
    ("GET", "/openapi.json"): (Kind.OPEN, None),
    ("POST", "/jobs"): (Kind.ANY, JOB),
    ("POST", "/jobs/batch"): (Kind.ANY, {"jobs": [JOB]}),
    ("GET", "/jobs"): (Kind.ANY, None),
    ("GET", "/events"): (Kind.ANY, None),
    ("GET", "/dlq"): (Kind.ANY, None),
    ("GET", "/queue"): (Kind.ANY, None),
    ("GET", "/webhooks/deliveries"): (Kind.ANY, None),
    ("GET", "/webhooks/disabled"): (Kind.ANY, None),
    ("POST", "/webhooks/test"): (Kind.ANY, {"url": "https://hooks.invalid/"}),
    ("GET", "/metrics"): (Kind.ANY, None),
    ("GET", "/alerts"): (Kind.ANY, None),
    ("GET", "/slo"): (Kind.ANY, None),
    ("GET", "/hosts"): (Kind.ANY, None),
    ("GET", "/jobs/{job_id}"): (Kind.OWN, None),
    ("DELETE", "/jobs/{job_id}"): (Kind.OWN, None),
    ("POST", "/jobs/{job_id}/pause"): (Kind.OWN, None),
    ("POST", "/jobs/{job_id}/resume"): (Kind.OWN, None),
    ("POST", "/jobs/{job_id}/retry"): (Kind.OWN, None),
    ("GET", "/jobs/{job_id}/history"): (Kind.OWN, None),
    ("GET", "/jobs/{job_id}/parts"): (Kind.OWN, None),
    ("GET", "/jobs/{job_id}/events"): (Kind.OWN, None),
    ("GET", "/jobs/{job_id}/download"): (Kind.OWN, None),
    ("GET", "/jobs/{job_id}/receipt"): (Kind.OWN, None),
    ("POST", "/dlq/{job_id}/replay"): (Kind.OWN, None),
    ("DELETE", "/dlq/{job_id}"): (Kind.OWN, None),
    ("PUT", "/jobs/{job_id}/requeue"): (Kind.OPERATORS, None),
    ("GET", "/internal/jobs/{job_id}/state"): (Kind.OPERATORS, None),
    ("GET", "/logs"): (Kind.OPERATORS, None),
    ("GET", "/scaling"): (Kind.OPERATORS, None),
    ("GET", "/agents"): (Kind.OPERATORS, None),
    ("GET", "/agents/{agent}"): (Kind.OPERATORS, None),
    ("GET", "/agents/{agent}/status/{job_id}"): (Kind.OPERATORS, None),
    ("POST", "/agents/{agent}/stop"): (Kind.OPERATORS, {"jobId": "{job_id}"}),
    ("POST", "/agents/{agent}/drain"): (Kind.OPERATORS, None),
    ("POST", "/queue/pause"): (Kind.OPERATORS, {"priority": "low"}),
    ("POST", "/queue/resume"): (Kind.OPERATORS, {"priority": "low"}),
    ("GET", "/keys"): (Kind.OPERATORS, None),
    ("POST", "/keys"): (Kind.OPERATORS, {"user": "carol"}),
    ("POST", "/keys/{key_id}/rotate"): (Kind.OPERATORS, {"overlapSeconds": 60}),
    ("DELETE", "/keys/{key_id}"): (Kind.OPERATORS, None),
}

#: With these keys nobody is let in anywhere. All but the last two are keys of alice, who owns the jobs.
STRANGERS = ("revoked", "expired", "wrong-secret", "unknown", "nobody")
#: Keys of alice, of bob, and of an operator, by what they may do.
USERS = ("alice", "alice-read", "alice-write", "bob")
OPERATORS = ("olga", "olga-read", "olga-write")
#: What a caller may get who is let in: the thing's state may not allow what was asked.
SERVED = {200, 201, 204, 307, 409}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem without what differs from answer to answer."""
        return {name: value for name, value in json.loads(self.body).items() if name != "correlationId"}


async def ask(app: FastAPI, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
    """Make a request and hang up once the answer has begun: event streams would go on."""
    began = asyncio.Event()
    status, received = 0, b""
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}
        await began.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status, received
        if message["type"] == "http.response.start":
            status = message["status"]
            began.set()
        else:
            received += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return Answer(status=status, body=received)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        await _add_callers(site)
        yield site


async def _add_callers(site: Site) -> None:
    now = datetime.now(UTC)
    await site.add_key("revoked", user_id="alice", revoked_at=now)
    await site.add_key("expired", user_id="alice", expires_at=now - timedelta(seconds=1))
    await site.add_key("wrong-secret", user_id="alice", secret_sha256="ab" * 32)
    good = site.auth["alice"]["Authorization"]
    unknown = await site.add_key("unknown", user_id="alice", secret_sha256="cd" * 32)
    site.ledger_seam.instead["key"] = lambda key_id: _no_key(site, key_id, unknown.key_id)
    site.auth["nobody"] = {}
    for name, user, role in (("alice", "alice", Role.USER), ("olga", "olga", Role.OPERATOR)):
        for scope in Scope:
            await site.add_key(f"{name}-{scope}", role, user_id=user, scopes=frozenset({scope}))
    assert site.auth["alice"]["Authorization"] == good


async def _no_key(site: Site, key_id: str, unknown: str) -> Any:
    return None if key_id == unknown else await site.ledger.key(key_id)


async def request(site: Site, route: tuple[str, str], caller: str, *, known: bool = True) -> Answer:
    """Make the sane request of a route, about things of alice that are there, or about none."""
    method, path = route
    kind, body = ROUTES[route]
    about = (
        await _things(site, path)
        if known
        else {"job_id": "job_0", "agent": "agent-0", "key_id": "00000000", "name": "none.js"}
    )
    for name, value in about.items():
        path = path.replace(f"{{{name}}}", value)
    if body is not None:
        body = json.loads(json.dumps(body).replace("{job_id}", about.get("job_id", "")))
    assert kind is not Kind.OPEN or "{" not in path
    return await ask(site.app, method, path, site.auth[caller], body)


async def _things(site: Site, path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if "{agent}" in path:
        scene = await scene_of(site)
        found = {"agent": "agent-1", "job_id": scene.running}
    elif "{job_id}" in path:
        found["job_id"] = await site.submit("alice")
        if path.startswith("/dlq"):
            await site.plane.bury(found["job_id"])
    if "{name}" in path:
        found["name"] = "main.js"
    if "{key_id}" in path:
        found["key_id"] = (await site.add_key("victim", user_id="alice")).key_id
    return found


def of_kind(kind: Kind) -> Iterator[tuple[str, str]]:
    return (route for route, (its_kind, _) in ROUTES.items() if its_kind is kind)


def may(caller: str, method: str) -> bool:
    """Whether the scopes of the caller's key allow the method."""
    return not caller.endswith("-write" if method == "GET" else "-read")


def test_the_table_has_every_route(site: Site) -> None:
    """All routes of the application, and no others."""
    routes = iter_route_contexts(site.app.routes)
    assert {(m, r.path or "") for r in routes for m in (r.methods or set()) - {"HEAD"}} == set(ROUTES)


async def test_the_document_has_every_route(site: Site) -> None:
    """What the OpenAPI document tells is what there is, but for the page's own files and itself."""
    paths = (await site.http.get("/openapi.json")).json()["paths"]
    told = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    untold = {("GET", "/"), ("GET", "/page/{name}"), ("GET", "/openapi.json")}
    assert told == set(ROUTES) - untold


def test_the_figures_are_true() -> None:
    """As many routes and callers as SECURITY.md says."""
    callers = (*STRANGERS, *USERS, *OPERATORS)
    told = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    assert f"{len(ROUTES)} routes for {len(callers)} callers" in told


async def test_open_routes_are_open(site: Site) -> None:
    """Whoever asks, and whatever key is sent along."""
    for route in of_kind(Kind.OPEN):
        for caller in (*STRANGERS, *USERS, *OPERATORS):
            assert (await request(site, route, caller)).status == 200, (route, caller)


async def test_the_page_s_routes_are_the_page_s(site: Site) -> None:
    """Signing in needs the page's header and a key that holds; a key in the header makes no difference."""
    for caller in (*STRANGERS, *USERS, *OPERATORS):
        assert (await request(site, ("POST", "/session"), caller)).status == 403, caller
        assert (await ask(site.app, "POST", "/session", {"x-rayhaul-page": "1"}, {"key": "none"})).status == 401
        assert (await request(site, ("DELETE", "/session"), caller)).status == 204, caller


async def test_no_other_route_lets_strangers_in(site: Site) -> None:
    """No key, one that is over, one that is wrong: 401, on every route, whether the thing is there or not."""
    asked = 0
    for route, (kind, _) in ROUTES.items():
        for caller in STRANGERS if kind not in KEYLESS else ():
            for known in (True, False):
                answer = await request(site, route, caller, known=known)
                assert (answer.status, answer.problem["code"]) == (401, "unauthorized"), (route, caller)
                asked += 1
    assert asked >= 30 * len(STRANGERS) * 2


async def test_an_unknown_key_and_a_wrong_secret_get_the_same_answer(site: Site) -> None:
    """Nobody learns which keys there are; that a key is over is told to those who hold its secret."""
    answers = {caller: await request(site, ("GET", "/jobs"), caller) for caller in STRANGERS}
    assert answers["unknown"].problem == answers["wrong-secret"].problem == answers["nobody"].problem
    assert "revoked" in answers["revoked"].problem["detail"]
    assert "expired" in answers["expired"].problem["detail"]


async def test_no_route_serves_a_key_without_the_scope(site: Site) -> None:
    """A key to read changes nothing, a key to write shows nothing: 403 on every route that needs the other one."""
    refused = 0
    for route, (kind, _) in ROUTES.items():
        for caller in (*USERS, *OPERATORS) if kind not in KEYLESS else ():
            if may(caller, route[0]):
                continue
            answer = await request(site, route, caller)
            assert (answer.status, answer.problem["code"]) == (403, "forbidden"), (route, caller)
            refused += 1
    assert refused >= 2 * 30


async def test_routes_for_any_key(site: Site) -> None:
    """Everybody whose key has the scope is served."""
    for route in of_kind(Kind.ANY):
        for caller in (*USERS, *OPERATORS):
            if may(caller, route[0]):
                assert (await request(site, route, caller)).status in SERVED, (route, caller)


async def test_somebody_elses_thing_is_as_unknown_as_none(site: Site) -> None:
    """The owner and operators are served; for anybody else the answer is that of a thing which never was."""
    for route in of_kind(Kind.OWN):
        foreign = await request(site, route, "bob")
        assert (foreign.status, foreign.problem["code"]) == (404, "not_found"), route
        assert foreign.problem == (await request(site, route, "bob", known=False)).problem, route
        for caller in (*USERS, *OPERATORS):
            if caller != "bob" and may(caller, route[0]):
                assert (await request(site, route, caller)).status in SERVED, (route, caller)


async def test_routes_for_operators(site: Site) -> None:
    """Users are refused, the owner of the thing included; operators with the scope are served."""
    for route in of_kind(Kind.OPERATORS):
        for caller in USERS:
            answer = await request(site, route, caller)
            assert (answer.status, answer.problem["code"]) == (403, "forbidden"), (route, caller)
        for caller in OPERATORS:
            if may(caller, route[0]):
                assert (await request(site, route, caller)).status in SERVED, (route, caller)
