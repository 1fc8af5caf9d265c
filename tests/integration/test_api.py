"""The HTTP API over the real ledger and the small plane (tests/plane.py): requests and their answers."""

import asyncio
import io
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import check_problem
from fastapi.routing import iter_route_contexts
from plane import Site, api_settings, site_at
from seams import BUCKET

from rayhaul.errors import NotFound, RateLimited, Unavailable
from rayhaul.job import JobEvent, Progress
from rayhaul.ledger.base import JobFilter, LedgerConflict, Role, Viewer
from rayhaul.log import JsonFormatter
from rayhaul.tracing import parsed

URL = "https://files.example/data.bin"
UNKNOWN = "job_00000000000000000000000000"
OPEN = {"/", "/livez", "/readyz", "/openapi.json"}
#: The page's files, and signing in and out: tested with the page.
OF_THE_PAGE = {("POST", "/session"), ("DELETE", "/session"), ("GET", "/page/{name}")}
OPERATORS_ONLY = {
    ("PUT", "/jobs/{job_id}/requeue"),
    ("GET", "/agents"),
    ("GET", "/logs"),
    ("GET", "/agents/{agent}"),
    ("GET", "/agents/{agent}/status/{job_id}"),
    ("POST", "/agents/{agent}/stop"),
    ("POST", "/agents/{agent}/drain"),
    ("POST", "/queue/pause"),
    ("POST", "/queue/resume"),
    ("GET", "/internal/jobs/{job_id}/state"),
    ("POST", "/keys"),
    ("GET", "/keys"),
    ("DELETE", "/keys/{key_id}"),
}
#: Routes of one job, and what its owner gets while it is queued.
JOB_ROUTES = [
    ("GET", "/jobs/{id}", 200),
    ("DELETE", "/jobs/{id}", 200),
    ("POST", "/jobs/{id}/pause", 200),
    ("POST", "/jobs/{id}/resume", 409),
    ("POST", "/jobs/{id}/retry", 409),
    ("GET", "/jobs/{id}/history", 200),
    ("GET", "/jobs/{id}/parts", 200),
    ("GET", "/jobs/{id}/download", 409),
    ("GET", "/jobs/{id}/receipt", 409),
    ("POST", "/dlq/{id}/replay", 409),
    ("DELETE", "/dlq/{id}", 409),
]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        yield site


def all_routes(site: Site) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(site.app.routes):
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, route.path or ""


# --- who may ---


async def test_every_route_but_the_open_ones_needs_a_good_key(site: Site) -> None:
    """No key, no bearer, a typing error, a wrong secret, a revoked and an expired key: 401, on every route."""
    now = datetime.now(UTC)
    await site.add_key("revoked", revoked_at=now)
    await site.add_key("expired", expires_at=now - timedelta(seconds=1))
    await site.add_key("wrong", secret_sha256="0" * 64)
    good = site.auth["alice"]["Authorization"]
    offered = [
        {},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": good[:-1] + ("x" if good[-1] != "x" else "y")},
        site.auth["revoked"],
        site.auth["expired"],
        site.auth["wrong"],
    ]
    asked = 0
    for method, path in all_routes(site):
        if path in OPEN or (method, path) in OF_THE_PAGE:
            continue
        for headers in offered:
            answer = await site.http.request(method, re.sub(r"{\w+}", UNKNOWN, path), headers=headers)
            check_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            asked += 1
    assert asked > 100


async def test_operator_routes_refuse_users(site: Site) -> None:
    """A user's key gets 403 on the operator's routes, an operator's key does not."""
    assert set(all_routes(site)) >= OPERATORS_ONLY
    for method, path in OPERATORS_ONLY:
        target = re.sub(r"{\w+}", UNKNOWN, path)
        check_problem(await site.http.request(method, target, headers=site.auth["alice"]), 403, "forbidden")
        answer = await site.http.request(method, target, headers=site.auth["olga"])
        assert answer.status_code not in {401, 403}


async def test_the_open_routes_need_no_key(site: Site) -> None:
    """Health, the page and the documents of the API are open."""
    for path in OPEN:
        assert (await site.http.get(path)).status_code == 200, path


async def test_the_bearer_scheme_is_read_in_any_case(site: Site) -> None:
    """RFC 9110 11.1: the scheme's case does not matter."""
    text = site.auth["alice"]["Authorization"].partition(" ")[2]
    assert (await site.http.get("/jobs", headers={"Authorization": f"bEaReR {text}"})).status_code == 200


async def test_a_key_expires_by_the_clock(site: Site) -> None:
    """A key that was good a moment ago, and is remembered, is refused from its last instant on."""
    await site.add_key("guest", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert (await site.http.get("/jobs", headers=site.auth["guest"])).status_code == 200
    site.clock.offset_s = 3600
    check_problem(await site.http.get("/jobs", headers=site.auth["guest"]), 401, "unauthorized")


@pytest.mark.parametrize(("method", "path", "status"), JOB_ROUTES)
async def test_a_foreign_job_is_as_unknown_as_none(site: Site, method: str, path: str, status: int) -> None:
    """The owner gets an answer; somebody else gets the very 404 of an id that never was."""
    job_id = await site.submit("alice")
    foreign = await site.http.request(method, path.format(id=job_id), headers=site.auth["bob"])
    unknown = await site.http.request(method, path.format(id=UNKNOWN), headers=site.auth["bob"])
    problems = [check_problem(answer, 404, "not_found") for answer in (foreign, unknown)]
    for problem in problems:
        del problem["correlationId"]
    assert problems[0] == problems[1]
    owner = await site.http.request(method, path.format(id=job_id), headers=site.auth["alice"])
    assert owner.status_code == status
    if method == "GET":
        operator = await site.http.request(method, path.format(id=job_id), headers=site.auth["olga"])
        assert operator.status_code == status


async def test_not_found_says_nothing_of_what_was_asked(site: Site) -> None:
    """Whatever the part that found nothing says, every 404 has the same words."""
    site.ledger_seam.fail["job"] = NotFound("job 17 belongs to bob")
    problem = check_problem(await site.http.get(f"/jobs/{UNKNOWN}", headers=site.auth["alice"]), 404, "not_found")
    assert problem["detail"] == NotFound().message


async def test_lists_show_only_ones_own(site: Site) -> None:
    """Bob's list has no job of Alice's; the operator's has both."""
    of_alice, of_bob = await site.submit("alice"), await site.submit("bob")

    async def listed(user: str) -> list[str]:
        answer = await site.http.get("/jobs", headers=site.auth[user])
        return [job["id"] for job in answer.json()["jobs"]]

    assert await listed("alice") == [of_alice]
    assert await listed("bob") == [of_bob]
    assert await listed("olga") == [of_bob, of_alice]


async def test_a_key_is_remembered_and_a_revoked_one_forgotten(tmp_path: Path) -> None:
    """Within `key_cache_s` the ledger is not asked again, unless the key was revoked here."""
    async with site_at(tmp_path, api_settings(key_cache_s=3600)) as site:
        key = await site.add_key("guest")
        for _ in range(2):
            assert (await site.http.get("/jobs", headers=site.auth["guest"])).status_code == 200
            site.ledger_seam.fail["key"] = AssertionError("asked twice")
        site.ledger_seam.fail.clear()
        revoked = await site.http.delete(f"/keys/{key.key_id}", headers=site.auth["olga"])
        assert revoked.json()["revokedAt"] is not None
        check_problem(await site.http.get("/jobs", headers=site.auth["guest"]), 401, "unauthorized")


# --- problems ---

SECRET = "s3cr3t"
BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, ""),
    (b"{", 400, ""),
    (b'{"url": NaN}', 422, "url"),
    (b'{"url": "https://a.example/\\ud800"}', 400, ""),
    (b"[]", 422, ""),
    (b"{}", 422, "url"),
    (b'{"url": "https://a.example/x", "surprise": "s3cr3t"}', 422, "surprise"),
    # What is in answers is not a user's to say.
    (b'{"url": "https://a.example/x", "userId": "s3cr3t"}', 422, "userId"),
    (b'{"url": "https://a.example/x", "status": "completed"}', 422, "status"),
    (b'{"url": "https://a.example/x", "connections": "s3cr3t"}', 422, "connections"),
    (b'{"url": "https://a.example/x", "priority": "s3cr3t"}', 422, "priority"),
    (b'{"url": "https://a.example/x", "size_bytes_max": 1}', 422, "size_bytes_max"),
    (b'{"url": "https://a.example/x", "headers": {"X-Key": "s3cr3t\\n"}}', 422, "headers"),
    (b'{"url": "https://a.example/x", "headers": {"Host": "s3cr3t"}}', 422, "headers"),
    (b'{"url": "https://a.example/x", "checksum": "sha256:s3cr3t"}', 422, "checksum"),
    (b'{"url": "https://a.example/x", "notBefore": "2026-01-01T00:00:00"}', 422, "notBefore"),
    (b'{"url": "gopher://a.example/s3cr3t"}', 422, "url"),
    (b'{"url": "https://a.example/x", "mirrors": ["https://a.example/", "s3cr3t"]}', 422, "mirrors.1"),
    (b'{"url": "https://a.example/x", "webhook": "s3cr3t"}', 422, "webhook"),
]


@pytest.mark.parametrize(("body", "status", "field"), BAD_BODIES)
async def test_a_bad_body_is_named_and_not_echoed(site: Site, body: bytes, status: int, field: str) -> None:
    """400 for what is no JSON, 422 with the field for the rest; what was sent stands nowhere in the answer."""
    headers = {**site.auth["alice"], "Content-Type": "application/json"}
    answer = await site.http.post("/jobs", content=body, headers=headers)
    problem = check_problem(answer, status, "invalid_request")
    assert [error["field"] for error in problem.get("errors", [])] == ([field] if status == 422 else [])
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("field", "url"),
    [
        ("url", "http://10.1.2.3/x"),
        ("url", "http://[::1]/x"),
        ("url", "https://a.example:22/x"),
        ("webhook", "http://169.254.169.254/latest"),
        ("refreshWebhook", "http://192.168.0.1/"),
    ],
)
async def test_urls_into_private_networks_are_denied(site: Site, field: str, url: str) -> None:
    """Literal addresses and ports that nobody may fetch are refused with the job, and counted."""
    answer = await site.http.post("/jobs", json={"url": URL, field: url}, headers=site.auth["alice"])
    problem = check_problem(answer, 422, "egress_denied")
    assert problem["detail"].startswith(f"{field}:")
    metrics = (await site.http.get("/metrics", headers=site.auth["olga"])).text
    assert "rayhaul_egress_denied_total{reason=" in metrics


async def test_routing_errors_are_problems(site: Site) -> None:
    """No such route: 404. A method that the path does not take: 405 with all methods that it does."""
    check_problem(await site.http.get("/nowhere"), 404, "not_found")
    check_problem(await site.http.get("/jobs/", headers=site.auth["alice"]), 404, "not_found")
    answer = await site.http.put("/jobs", headers=site.auth["alice"])
    check_problem(answer, 405, "invalid_request")
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("path", ["/jobs/%00", "/jobs/a.b", "/jobs/" + "x" * 65, "/jobs/%00/events", "/keys/%00"])
async def test_ids_that_cannot_be_are_not_found(site: Site, path: str) -> None:
    """An id that no database should be asked for is unknown."""
    method = "DELETE" if path.startswith("/keys") else "GET"
    check_problem(await site.http.request(method, path, headers=site.auth["olga"]), 404, "not_found")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("status=s3cr3t", "status"),
        ("tag=s3cr3t", "tag"),
        ("tag=a:%00", "tag"),
        ("cursor=%00", "cursor"),
    ],
)
async def test_bad_queries_are_named(site: Site, query: str, field: str) -> None:
    """A parameter that cannot be is a 422 with its name, not its value."""
    answer = await site.http.get(f"/jobs?{query}", headers=site.auth["alice"])
    problem = check_problem(answer, 422, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert SECRET not in answer.text


async def test_bodies_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    """413 by the announced length before a byte is read, and by count where none is announced."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 1000

    read: list[str] = []

    async def announced(path: str) -> AsyncIterator[bytes]:
        read.append(path)
        yield b" " * 2001

    async with site_at(tmp_path, api_settings(body_bytes_max=2000)) as site:
        for path in ("/jobs", "/jobs/batch", "/keys"):
            answer = await site.http.post(path, content=pieces(), headers=site.auth["olga"])
            check_problem(answer, 413, "invalid_request")
            headers = {**site.auth["olga"], "Content-Length": "2001"}
            check_problem(await site.http.post(path, content=announced(path), headers=headers), 413, "invalid_request")
    assert read == []


async def test_a_body_has_only_so_many_values(tmp_path: Path) -> None:
    """Small values in great number would make errors that fill the memory: refused before any is read."""
    many = ",".join(f'"{number}": 1' for number in range(2000))
    async with site_at(tmp_path, api_settings(batch_jobs_max=5)) as site:
        for path, body in (
            ("/jobs", f'{{"url": "{URL}", "headers": {{{many}}}}}'),
            ("/jobs/batch", f'{{"jobs": [{{"url": "{URL}", "headers": {{{many}}}}}]}}'),
            ("/jobs", '{"url": "' + "x" * 1024 * 1024 + '"}'),
        ):
            answer = await site.http.post(path, content=body, headers=site.auth["alice"])
            check_problem(answer, 413, "invalid_request")


async def test_too_many_wrong_fields_are_not_listed(site: Site) -> None:
    """A handful is named; thousands are told as such."""
    for count, named in ((30, 20), (1500, 0)):
        fields = ",".join(f'"{number}": 1' for number in range(count))
        body = f'{{"jobs": [{{"url": "{URL}", {fields}}}]}}'
        answer = await site.http.post("/jobs/batch", content=body, headers=site.auth["alice"])
        assert len(check_problem(answer, 422, "invalid_request").get("errors", [])) == named


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (RuntimeError(f"password {SECRET}"), 500, "internal", None),
        (LedgerConflict(f"row {SECRET}"), 500, "internal", None),
        (Unavailable("the scheduler is starting"), 503, "internal", "1"),
        (RateLimited(retry_after_s=2.2), 429, "rate_limited", "3"),
    ],
)
async def test_what_fails_on_our_side(
    site: Site, caplog: pytest.LogCaptureFixture, *, error: Exception, status: int, code: str, retry_after: str | None
) -> None:
    """Our own errors have their status; inner details go to the log with a traceback, not to the caller."""
    site.plane_seam.fail["submit"] = error
    answer = await site.http.post("/jobs", json={"url": URL}, headers=site.auth["alice"])
    check_problem(answer, status, code)
    assert answer.headers.get("retry-after") == retry_after
    assert SECRET not in answer.text
    logged = [record for record in caplog.records if record.exc_info]
    assert bool(logged) == (status == 500)


async def test_a_ledger_out_of_reach_is_503(site: Site) -> None:
    """A read that cannot be made is told as such, with the time to come back."""
    site.ledger_seam.fail["jobs"] = Unavailable("the database is locked")
    answer = await site.http.get("/jobs", headers=site.auth["alice"])
    check_problem(answer, 503, "internal")
    assert answer.headers["retry-after"] == "1"


# --- what surrounds a request ---


@pytest.mark.parametrize("path", ["/jobs", "/nowhere", "/livez", "/jobs/" + UNKNOWN, "/jobs?limit=0", "/jobs/x/events"])
async def test_the_correlation_id_comes_back_everywhere(site: Site, path: str) -> None:
    """A sane id is echoed, on answers and problems alike; another one is replaced by a UUIDv4."""
    for offered, echoed in (("trace.me_0-1", True), ("short", False), ("x" * 65, False), ("with space", False)):
        answer = await site.http.get(path, headers={**site.auth["alice"], "X-Correlation-ID": offered})
        found = answer.headers["x-correlation-id"]
        assert found == offered if echoed else uuid.UUID(found).version == 4


async def test_the_correlation_id_goes_with_the_job(site: Site) -> None:
    """The request's id and its traceparent stand in the job, and the id in its events."""
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {**site.auth["alice"], "X-Correlation-ID": "from-the-edge", "traceparent": traceparent}
    answer = await site.http.post("/jobs", json={"url": URL}, headers=headers)
    job_id = answer.json()["id"]
    assert answer.json()["correlationId"] == "from-the-edge"
    job = await site.ledger.job(Viewer("alice"), job_id)
    assert job.traceparent == traceparent
    history = (await site.http.get(f"/jobs/{job_id}/history", headers=site.auth["alice"])).json()["events"]
    assert [(event["event"], event["correlationId"]) for event in history] == [("created", "from-the-edge")]


@pytest.mark.parametrize(
    "offered",
    [
        [],
        ["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
        ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-" + "1" * 32 + "-00f067aa0ba902b7-01"],
    ],
)
async def test_a_job_has_a_trace_whoever_asks(site: Site, offered: list[str]) -> None:
    """Without a traceparent, with one that breaks the rules, with two: the edge makes one up that nobody records."""
    headers = [*site.auth["alice"].items(), *(("traceparent", text) for text in offered)]
    answer = await site.http.post("/jobs", json={"url": URL}, headers=headers)
    job = await site.ledger.job(Viewer("alice"), answer.json()["id"])
    found = parsed(job.traceparent)
    assert found is not None
    assert not found.sampled
    assert found.trace_id not in "".join(offered).lower()


async def test_one_log_line_a_request(site: Site) -> None:
    """The line has the specification's fields, the route's template and never the raw path."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("api"))
    log = logging.getLogger("serve_app")
    log.addHandler(handler)
    try:
        headers = {**site.auth["alice"], "X-Correlation-ID": "find-me-again"}
        await site.http.get(f"/jobs/{UNKNOWN}?x=1", headers=headers)
    finally:
        log.removeHandler(handler)
    (line,) = [json.loads(text) for text in written.getvalue().splitlines()]
    assert line.pop("durationMs") >= 0
    assert line.pop("ts")
    assert re.fullmatch("[0-9a-f]{32}", line.pop("traceId"))
    assert line == {
        "level": "info",
        "service": "api",
        "correlationId": "find-me-again",
        "handler": "GET /jobs/{job_id}",
        "userId": "alice",
        "jobId": UNKNOWN,
        "statusCode": 404,
        "msg": "GET /jobs/{job_id} 404",
    }


async def test_requests_are_counted_by_route_template(site: Site) -> None:
    """Metric labels are the template and known methods: a client cannot make up new ones."""
    await site.http.get(f"/jobs/{UNKNOWN}", headers=site.auth["alice"])
    await site.http.get("/made-up-path")
    await site.http.request("BREW", "/jobs", headers=site.auth["alice"])
    text = (await site.http.get("/metrics", headers=site.auth["alice"])).text
    assert 'rayhaul_http_requests_total{method="GET",route="/jobs/{job_id}",status="404"} 1.0' in text
    assert 'rayhaul_http_requests_total{method="GET",route="(unmatched)",status="404"} 1.0' in text
    assert 'rayhaul_http_requests_total{method="OTHER",route="/jobs",status="405"} 1.0' in text
    assert 'rayhaul_http_request_duration_seconds_count{method="GET",route="/jobs/{job_id}"} 1.0' in text
    assert "made-up" not in text
    assert UNKNOWN not in text


async def test_answers_carry_the_security_headers(site: Site) -> None:
    """Nothing is stored, sniffed or told to the next site."""
    for answer in (await site.http.get("/jobs", headers=site.auth["alice"]), await site.http.get("/jobs")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


# --- asking for jobs ---


async def test_a_job_comes_back_without_its_secrets(site: Site) -> None:
    """201, Location, and the job as asked for; user info, query and header values never come back."""
    asked = {
        "url": "https://me:s3cr3t@files.example/a/data.bin?signature=s3cr3t#s3cr3t",
        "mirrors": ["https://mirror.example/data.bin?token=s3cr3t"],
        "key": "in/data.bin",
        "filename": "data.bin",
        "headers": {"Authorization": "Bearer s3cr3t"},
        "checksum": "md5:D41D8CD98F00B204E9800998ECF8427E",
        "priority": "high",
        "tags": {"team": "media"},
        "notBefore": "2030-01-01T00:00:00Z",
    }
    answer = await site.http.post("/jobs", json=asked, headers=site.auth["alice"])
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert SECRET not in answer.text
    assert job["url"] == "https://files.example/a/data.bin"
    assert job["status"] == "queued"
    assert job["priority"] == "high"
    assert job["tags"] == {"team": "media"}
    assert job["checksum"] == "md5:d41d8cd98f00b204e9800998ecf8427e"
    assert job["destination"] == {"bucket": BUCKET, "key": "in/data.bin"}
    assert job["userId"] == "alice"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["createdAt"])
    again = await site.http.get(answer.headers["location"], headers=site.auth["alice"])
    assert again.json() == job
    kept = await site.ledger.job(Viewer("alice"), job["id"])
    assert kept.spec.url == asked["url"]
    assert kept.spec.headers == asked["headers"]


async def test_an_accepted_job_is_told_although_the_ledger_cannot_be_read(site: Site) -> None:
    """Once the plane took it, the answer is 201 whatever happens to the read after it."""
    site.ledger_seam.fail["job"] = Unavailable("the database is locked")
    answer = await site.http.post("/jobs", json={"url": URL}, headers=site.auth["alice"])
    assert answer.status_code == 201
    assert answer.json()["status"] == "queued"
    assert (await site.ledger.job(Viewer("alice"), answer.json()["id"])).spec.url == URL


async def test_a_client_that_hangs_up_does_not_undo_its_job(site: Site) -> None:
    """Cancelled while the plane writes, the request ends and the write goes on."""
    entered, release = asyncio.Event(), asyncio.Event()
    site.plane_seam.hold["submit"] = (entered, release)
    asking = asyncio.create_task(site.http.post("/jobs", json={"url": URL}, headers=site.auth["alice"]))
    await entered.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await site.ledger.jobs(Viewer("alice"), JobFilter()) == []
    writing = list(site.app.state.replica.writing)
    release.set()
    await asyncio.gather(*writing)
    assert len(await site.ledger.jobs(Viewer("alice"), JobFilter())) == 1
    assert not site.app.state.replica.writing


async def test_an_idempotency_key_makes_one_job(site: Site) -> None:
    """The same body, however written, gives the same job; another body is refused; another user is another key."""

    async def post(user: str, key: str, body: str) -> httpx.Response:
        headers = {**site.auth[user], "Idempotency-Key": key}
        return await site.http.post("/jobs", content=body, headers=headers)

    first = await post("alice", "abc", '{"url": "https://a.example/x", "tags": {"a": "1", "b": "2"}}')
    again = await post("alice", '"abc"', '{"tags":{"b":"2","a":"1"},"priority":"normal","url":"https://a.example/x"}')
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    other = await post("alice", "abc", '{"url": "https://a.example/y"}')
    check_problem(other, 422, "idempotency_mismatch")
    of_bob = await post("bob", "abc", '{"url": "https://a.example/y"}')
    assert "idempotent-replayed" not in of_bob.headers
    for bad in ("", '""', "x" * 256, "a b"):
        check_problem(await post("alice", bad, '{"url": "https://a.example/y"}'), 422, "invalid_request")
    assert len(await site.ledger.jobs(Viewer("alice"), JobFilter())) == 1


async def test_a_key_at_once_makes_one_job(site: Site) -> None:
    """Ten requests with one key at the same time: one job, told ten times."""
    headers = {**site.auth["alice"], "Idempotency-Key": "all-at-once"}
    answers = await asyncio.gather(*(site.http.post("/jobs", json={"url": URL}, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9


async def test_a_batch_is_all_or_nothing(site: Site) -> None:
    """Jobs come back in the order asked; one wrong job, and none is made."""
    urls = [f"https://files.example/{number}" for number in range(2000)]
    answer = await site.http.post(
        "/jobs/batch", json={"jobs": [{"url": url} for url in urls]}, headers=site.auth["bob"]
    )
    assert answer.status_code == 201
    ids = [job["id"] for job in answer.json()["jobs"]]
    assert len(set(ids)) == len(urls)
    found = {job.id: job.spec.url for job in await site.ledger.jobs(Viewer("bob"), JobFilter(limit=5000))}
    assert [found[job_id] for job_id in ids] == urls

    for wrong, code, place in (
        ({"url": "ftp://a.example/"}, "invalid_request", "jobs.1.url"),
        ({"url": URL, "surprise": 1}, "invalid_request", "jobs.1.surprise"),
        ({"url": URL, "checksum": "md5:1"}, "invalid_request", "jobs.1.checksum"),
        ({"url": "http://10.0.0.1/"}, "egress_denied", "jobs.1.url"),
    ):
        body = {"jobs": [{"url": URL}, wrong, {"url": URL}]}
        answer = await site.http.post("/jobs/batch", json=body, headers=site.auth["alice"])
        assert place in json.dumps(check_problem(answer, 422, code))
    assert await site.ledger.jobs(Viewer("alice"), JobFilter()) == []


async def test_a_batch_has_bounds(tmp_path: Path) -> None:
    """None, and more than the setting says, are refused; its Idempotency-Key gives the same ids again."""
    async with site_at(tmp_path, api_settings(batch_jobs_max=2)) as site:
        headers = {**site.auth["alice"], "Idempotency-Key": "batch"}
        for count, status in ((0, 422), (3, 422), (2, 201)):
            body = {"jobs": [{"url": URL}] * count}
            answer = await site.http.post("/jobs/batch", json=body, headers=headers)
            assert answer.status_code == status
        again = await site.http.post("/jobs/batch", json={"jobs": [{"url": URL}] * 2}, headers=headers)
        assert again.json() == answer.json()
        assert again.headers["idempotent-replayed"] == "true"


async def test_a_batch_of_ten_thousand(site: Site) -> None:
    """As many as the default allows are all there; one more is refused, and leaves nothing."""
    jobs = [{"url": f"https://files.example/{number}"} for number in range(10_001)]
    refused = await site.http.post("/jobs/batch", json={"jobs": jobs}, headers=site.auth["alice"])
    check_problem(refused, 422, "invalid_request")
    assert await site.ledger.last_seq() == 0
    answer = await site.http.post("/jobs/batch", json={"jobs": jobs[:-1]}, headers=site.auth["alice"])
    assert answer.status_code == 201
    ids = [job["id"] for job in answer.json()["jobs"]]
    assert len(set(ids)) == 10_000
    created = await site.ledger.events_after(Viewer("alice"), 0, limit=20_000)
    assert [event.job_id for event in created] == ids


# --- looking at jobs ---


async def test_pages_hold_every_job_once(site: Site) -> None:
    """Following `nextCursor` shows all jobs, newest first, each once; a new one does not disturb it."""
    ids = [await site.submit() for _ in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = (await site.http.get("/jobs", params=query, headers=site.auth["alice"])).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        await site.submit()
    assert seen == ids[::-1]


async def test_lists_are_filtered(site: Site) -> None:
    """By status and by tag, written name:value or name=value."""
    plain, tagged = await site.submit(), await site.submit(tags={"team": "media:tv", "x": "y"})
    await site.plane.move(plain, JobEvent.PAUSED)

    async def listed(**query: str) -> list[str]:
        answer = await site.http.get("/jobs", params=query, headers=site.auth["alice"])
        return [job["id"] for job in answer.json()["jobs"]]

    assert await listed(status="", tag="", cursor="") == [tagged, plain]
    assert await listed(status="paused") == [plain]
    assert await listed(status="queued") == [tagged]
    assert await listed(tag="team:media:tv") == [tagged]
    assert await listed(tag="x=y") == [tagged]
    assert await listed(tag="x=z") == []
    assert await listed(tag="x=y", status="paused") == []


async def test_running_jobs_show_live_progress(site: Site) -> None:
    """Progress comes from the scheduler; one call serves all requests of a moment, and none is made for still jobs."""
    moving, still = await site.submit(), await site.submit()
    await site.plane.move(moving, JobEvent.STARTED)
    site.plane.tell_progress(
        moving, Progress(bytes_done=40, bytes_total=100, bytes_per_s=12.34, eta_s=4.86, parts_done=2, parts_total=5)
    )
    await site.http.get(f"/jobs/{still}", headers=site.auth["alice"])
    assert site.plane.asked_for_progress == 0
    jobs = [f"/jobs/{moving}"] * 10 + ["/jobs"] * 10
    answers = await asyncio.gather(*(site.http.get(path, headers=site.auth["alice"]) for path in jobs))
    assert site.plane.asked_for_progress == 1
    expected = {
        "bytes": 40,
        "bytesTotal": 100,
        "bytesPerSecond": 12.3,
        "etaSeconds": 4.9,
        "partsDone": 2,
        "partsTotal": 5,
    }
    assert answers[0].json()["progress"] == expected
    assert answers[-1].json()["jobs"][1]["progress"] == expected
    assert answers[-1].json()["jobs"][0]["progress"]["bytes"] == 0


async def test_a_job_is_shown_without_the_scheduler(site: Site) -> None:
    """Progress is a courtesy: while the scheduler is out of reach, reads go on."""
    moving = await site.submit()
    await site.plane.move(moving, JobEvent.STARTED)
    site.plane_seam.fail["progress"] = Unavailable()
    answer = await site.http.get(f"/jobs/{moving}", headers=site.auth["alice"])
    assert answer.status_code == 200
    assert answer.json()["progress"]["bytes"] == 0


async def test_a_completed_job_shows_its_result(site: Site) -> None:
    """Bytes are the size, parts are all, and the final URL has lost its signature."""
    job_id = await site.submit()
    await site.plane.complete(job_id, size_bytes=1000)
    job = (await site.http.get(f"/jobs/{job_id}", headers=site.auth["alice"])).json()
    assert job["status"] == "completed"
    assert job["progress"] == {
        "bytes": 1000,
        "bytesTotal": 1000,
        "bytesPerSecond": 0.0,
        "etaSeconds": None,
        "partsDone": 2,
        "partsTotal": 2,
    }
    assert job["result"]["sizeBytes"] == 1000
    assert job["metadata"]["finalUrl"] == "https://cdn.example/file.bin"
    assert job["filename"] == "file.bin"
    assert site.plane.asked_for_progress == 0


async def test_receipt_of_a_completed_job(site: Site) -> None:
    """It names source, version, object, checksums, times and agents, and no secrets; before the end there is none."""
    job_id = await site.submit(checksum=f"sha256:{'a' * 64}")
    check_problem(await site.http.get(f"/jobs/{job_id}/receipt", headers=site.auth["alice"]), 409, "conflict")
    await site.plane.complete(job_id, key="a/file.bin")
    job = (await site.http.get(f"/jobs/{job_id}", headers=site.auth["alice"])).json()
    receipt = (await site.http.get(f"/jobs/{job_id}/receipt", headers=site.auth["alice"])).json()
    assert receipt["sourceUrl"] == job["url"]
    assert receipt["finalUrl"] == job["metadata"]["finalUrl"]
    assert receipt["validator"]["etag"] == job["metadata"]["etag"]
    for name in ("bucket", "key", "sizeBytes", "etag", "sha256", "crc64nvme"):
        assert receipt[name] == job["result"][name], name
    for name in ("createdAt", "startedAt", "completedAt"):
        assert receipt["times"][name] == job[name], name
    assert (receipt["jobId"], receipt["checksum"]) == (job_id, job["checksum"])
    assert receipt["parts"] == job["progress"]["partsTotal"]
    assert receipt["agents"] == job["agents"]
    assert "?" not in receipt["sourceUrl"] + receipt["finalUrl"]


async def test_download_leads_to_a_signed_link(site: Site) -> None:
    """307 to the link exactly as signed; `json=1` shows it with its end; before completion it is a conflict."""
    job_id = await site.submit(filename="wanted.bin")
    check_problem(await site.http.get(f"/jobs/{job_id}/download", headers=site.auth["alice"]), 409, "conflict")
    await site.plane.complete(job_id, key="a/file.bin")
    answer = await site.http.get(f"/jobs/{job_id}/download", headers=site.auth["alice"])
    assert answer.status_code == 307
    link = f"https://s3.example/{BUCKET}/a/file.bin?filename=wanted.bin&X-Amz-Expires=900&X-Amz-Signature=sig%2F1"
    assert answer.headers["location"] == link
    assert answer.headers["cache-control"] == "no-store"
    before = datetime.now(UTC)
    shown = (await site.http.get(f"/jobs/{job_id}/download?json=1", headers=site.auth["alice"])).json()
    assert shown["url"] == link
    left = datetime.fromisoformat(shown["expiresAt"]) - before
    assert timedelta(seconds=890) < left < timedelta(seconds=910)


# --- steering jobs ---


async def test_commands_follow_the_transition_table(site: Site) -> None:
    """Each command answers with the job as it is then; what the state does not allow is a conflict."""
    job_id = await site.submit()
    steps = [
        ("POST", "resume", 409, None),
        ("POST", "pause", 200, "paused"),
        ("POST", "pause", 409, None),
        ("POST", "resume", 200, "queued"),
        ("DELETE", "", 200, "cancelled"),
        ("DELETE", "", 200, "cancelled"),
        ("POST", "pause", 409, None),
        ("POST", "retry", 200, "queued"),
    ]
    for method, command, status, state in steps:
        answer = await site.http.request(method, f"/jobs/{job_id}/{command}".rstrip("/"), headers=site.auth["alice"])
        if state is None:
            check_problem(answer, status, "conflict")
        else:
            assert (answer.status_code, answer.json()["status"]) == (status, state), command
    check_problem(await site.http.put(f"/jobs/{job_id}/requeue", headers=site.auth["alice"]), 403, "forbidden")
    requeued = await site.http.put(f"/jobs/{job_id}/requeue", headers=site.auth["olga"])
    assert requeued.json()["status"] == "queued"
    await site.plane.complete(job_id)
    check_problem(await site.http.delete(f"/jobs/{job_id}", headers=site.auth["alice"]), 409, "conflict")


async def test_history_tells_the_whole_way(site: Site) -> None:
    """Every event row, oldest first, with growing numbers."""
    job_id = await site.submit(url="https://files.example/x?signature=s3cr3t")
    await site.plane.complete(job_id)
    answer = await site.http.get(f"/jobs/{job_id}/history", headers=site.auth["alice"])
    events = answer.json()["events"]
    assert [event["event"] for event in events] == ["created", "metadata", "started", "uploading", "completed"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert events[-1]["status"] == "completed"
    assert SECRET not in answer.text


# --- running the cluster ---


async def test_keys_are_made_listed_and_revoked(site: Site) -> None:
    """The text is shown once and works at once; lists have no secret; a revoked key is refused."""
    answer = await site.http.post("/keys", json={"user": "carol", "name": "laptop"}, headers=site.auth["olga"])
    assert answer.status_code == 201
    made = answer.json()
    assert made["role"] == "user"
    carol = {"Authorization": f"Bearer {made['key']}"}
    assert (await site.http.get("/jobs", headers=carol)).status_code == 200
    listed = await site.http.get("/keys", headers=site.auth["olga"])
    found = {key["id"]: key for key in listed.json()["keys"]}
    assert found[made["id"]]["userId"] == "carol"
    assert made["key"].split("_")[3] not in listed.text
    assert "sha256" not in listed.text.lower()
    for _ in range(2):
        revoked = await site.http.delete(f"/keys/{made['id']}", headers=site.auth["olga"])
        assert revoked.json()["revokedAt"] is not None
    check_problem(await site.http.get("/jobs", headers=carol), 401, "unauthorized")
    check_problem(await site.http.delete("/keys/nosuchkey", headers=site.auth["olga"]), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": "a b"}, "user"),
        ({"user": "carol", "role": "king"}, "role"),
        ({"user": "carol", "expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"user": "carol", "expiresAt": "2040-01-01T00:00:00"}, "expiresAt"),
        ({"user": "carol", "surprise": 1}, "surprise"),
    ],
)
async def test_bad_keys_are_not_made(site: Site, body: dict[str, Any], field: str) -> None:
    """A key request is validated like a job."""
    problem = check_problem(await site.http.post("/keys", json=body, headers=site.auth["olga"]), 422, "invalid_request")
    assert problem["errors"][0]["field"] == field


async def test_an_operators_key_has_its_role_and_end(site: Site) -> None:
    """Role and expiry are the ones asked for."""
    body = {"user": "otto", "role": "operator", "expiresAt": "2040-01-01T00:00:00+01:00"}
    made = (await site.http.post("/keys", json=body, headers=site.auth["olga"])).json()
    assert made["expiresAt"] == "2039-12-31T23:00:00.000Z"
    otto = {"Authorization": f"Bearer {made['key']}"}
    assert (await site.http.get("/agents", headers=otto)).status_code == 200
    kept = await site.ledger.key(made["id"])
    assert kept is not None
    assert kept.role is Role.OPERATOR


async def test_readiness_is_the_planes(site: Site) -> None:
    """Ready, not ready, out of reach; alive all the while."""
    assert (await site.http.get("/readyz")).json() == {"status": "ready"}
    site.plane.is_ready = False
    answer = await site.http.get("/readyz")
    check_problem(answer, 503, "internal")
    assert answer.headers["retry-after"] == "2"
    site.plane_seam.fail["ready"] = Unavailable()
    check_problem(await site.http.get("/readyz"), 503, "internal")
    assert (await site.http.get("/livez")).status_code == 200


# --- the document ---


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for inner in schema.values():
            yield from _names(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _names(inner)


def _refs(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for inner in schema.values():
            yield from _refs(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _refs(inner)


async def test_the_openapi_document(site: Site) -> None:
    """Version 3.1, one bearer scheme, camelCase, every reference there, problems declared on every closed route."""
    document = (await site.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"apiKey": []}]
    schemas = document["components"]["schemas"]
    # The one name that is not ours: draft-ietf-httpapi-ratelimit-headers-10, 5.
    ours = [name for name in _names(schemas) if name != "violated-policies"]
    assert all(re.fullmatch(r"[a-z][A-Za-z0-9]*", name) for name in ours), ours
    for ref in _refs(document):
        assert ref.removeprefix("#/components/schemas/") in schemas, ref
    assert "HTTPValidationError" not in schemas
    assert schemas["JobRequest"]["additionalProperties"] is False
    operations = [
        ((method.upper(), path), operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    for (method, path), operation in operations:
        assert operation["description"]
        if path in OPEN or (method, path) in OF_THE_PAGE:
            assert operation["security"] == []
        else:
            problem = operation["responses"]["401"]["content"]["application/problem+json"]["schema"]
            assert problem == {"$ref": "#/components/schemas/Problem"}
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids))
    documented = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert documented == {(method, path) for method, path in all_routes(site) if path not in OPEN} - {
        ("GET", "/page/{name}")
    } | {
        ("GET", "/livez"),
        ("GET", "/readyz"),
    }
