"""Webhooks over HTTP: the log of deliveries, and a message to try a receiver with."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import check_problem
from cli_call import called
from cli_process import bare_environ
from plane import Site, api_settings, listening, site_at
from pydantic import SecretStr
from receiver import HANG, Receiver
from standardwebhooks import Webhook

from rayhaul.ledger.base import Viewer
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledWebhook
from rayhaul.settings import EgressSettings, WebhookSettings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


@pytest.fixture
async def site(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Site]:
    settings = api_settings().model_copy(
        update={
            "egress": EgressSettings(allow=(f"127.0.0.1:{receiver.port}",)),
            "webhook": WebhookSettings(secret=SecretStr(SECRET), timeout_s=0.3),
        }
    )
    async with site_at(tmp_path, settings) as site:
        yield site


async def tried(site: Site, url: str) -> httpx.Response:
    return await site.http.post("/webhooks/test", json={"url": url}, headers=site.auth["alice"])


def a_delivery(job_id: str, user: str, attempt: int) -> DeliveryRecord:
    return DeliveryRecord(
        ts=datetime(2026, 3, 1, tzinfo=UTC),
        message_id=f"msg_{attempt}",
        job_id=job_id,
        user_id=user,
        event="completed",
        receiver="hooks.example",
        attempt=attempt,
        result="refused",
        status=500,
        duration_ms=12,
        next_attempt_at=None,
    )


async def test_a_test_message_is_signed_and_its_outcome_told(site: Site, receiver: Receiver) -> None:
    """The receiver gets one message that the reference library verifies; the answer says what came back."""
    report = (await tried(site, receiver.url("hook"))).json()
    assert (report["result"], report["status"], report["signed"]) == ("delivered", 204, True)
    (delivery,) = receiver.deliveries
    assert delivery.message_id == report["messageId"]
    message = Webhook(SECRET).verify(delivery.body, dict(delivery.headers))
    assert message["type"] == "job.completed"
    assert message["data"]["payload"]["test"] is True
    assert (message["data"]["jobId"], message["data"]["userId"]) == ("job_test", "alice")


@pytest.mark.parametrize(
    ("answer", "result", "status"),
    [
        (500, "refused", 500),
        (410, "gone", 410),
        ((302, {"Location": "/elsewhere"}), "redirected", 302),
        (HANG, "silent", None),
    ],
)
async def test_what_is_no_success_is_told(
    site: Site, receiver: Receiver, answer: Any, result: str, status: int | None
) -> None:
    """Refusals, redirects, which are not followed, and silence."""
    report = (await tried(site, receiver.answer("hook", answer))).json()
    assert (report["result"], report["status"]) == (result, status)
    assert len(receiver.deliveries) == 1


async def disable(site: Site, url: str, *users: str) -> datetime:
    """Have these users' messages not sent to a URL; return since when."""
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    webhooks = [
        DisabledWebhook(user_id=user, url=url, receiver="hooks.example", disabled_at=now, last_at=now) for user in users
    ]
    await site.ledger.note_disabled(webhooks, [])
    return now


async def test_a_delivered_test_enables_a_webhook_again(site: Site, receiver: Receiver) -> None:
    """One that fails does not; one that is delivered does, for who asked for it alone, and says so."""
    url = receiver.answer("hook", 500, 204)
    since = await disable(site, url, "alice", "bob")
    told = [(await tried(site, url)).json() for _ in range(3)]
    assert [(each["disabledSince"], each["enabledAgain"]) for each in told] == [
        ("2026-03-01T12:00:00.000Z", False),
        ("2026-03-01T12:00:00.000Z", True),
        (None, False),
    ]
    assert await site.ledger.disabled_since(Viewer("alice"), url) is None
    assert await site.ledger.disabled_since(Viewer("bob"), url) == since


async def test_the_list_of_disabled_webhooks(site: Site) -> None:
    """Those for which a message was given up last come first; each user the own ones, of a URL host and port alone."""
    since = await disable(site, "https://hooks.example/s3cret", "alice", "bob")
    given_up = since + timedelta(days=1)
    other = DisabledWebhook(
        user_id="alice", url="https://other.example/", receiver="other.example", disabled_at=since, last_at=given_up
    )
    await site.ledger.note_disabled([other], [])

    async def listed(user: str, **query: str) -> list[dict[str, str]]:
        answer = await site.http.get("/webhooks/disabled", params=query, headers=site.auth[user])
        assert "s3cret" not in answer.text
        webhooks: list[dict[str, str]] = answer.json()["webhooks"]
        return webhooks

    first, second = await listed("alice")
    assert first == {
        "receiver": "other.example",
        "userId": "alice",
        "disabledSince": "2026-03-01T12:00:00.000Z",
        "lastGivenUpAt": "2026-03-02T12:00:00.000Z",
    }
    assert second["receiver"] == "hooks.example"
    assert await listed("alice", limit="1") == [first]
    assert [each["userId"] for each in await listed("bob")] == ["bob"]
    assert sorted(each["userId"] for each in await listed("olga")) == ["alice", "alice", "bob"]


async def test_the_command_line_lists_what_is_disabled(site: Site, tmp_path: Path) -> None:
    """As a table, with what helps, and as JSON; that there is none is said."""
    async with listening(site.app) as api:
        key = site.auth["alice"]["Authorization"].partition(" ")[2]
        environ = {**bare_environ(tmp_path), "RAYHAUL_URL": api, "RAYHAUL_API_KEY": key}
        none = await called(environ, "webhooks", "disabled")
        await disable(site, "https://hooks.example/", "alice", "bob")
        found = await called(environ, "webhooks", "disabled")
        as_json = await called(environ, "webhooks", "disabled", "--json")
    assert (none.code, none.stdout, none.stderr) == (0, "", "no webhook is disabled\n")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["RECEIVER", "hooks.example"]
    assert "rayhaul webhooks test URL" in found.stderr
    assert [each["userId"] for each in json.loads(as_json.stdout)["webhooks"]] == ["alice"]


async def test_the_command_line_says_what_is_disabled(site: Site, receiver: Receiver, tmp_path: Path) -> None:
    """The log says why messages are given up, once; the test says that it is over."""
    job = await site.submit("alice")
    gone = replace(a_delivery(job, "alice", 1), result="gone", status=410, why="it answered 410\x1b[2J")
    await site.ledger.note_deliveries([gone, replace(gone, status=None), a_delivery(job, "alice", 2)])
    url = receiver.answer("hook", 500, 204)
    await disable(site, url, "alice")
    async with listening(site.app) as api:
        key = site.auth["alice"]["Authorization"].partition(" ")[2]
        environ = {**bare_environ(tmp_path), "RAYHAUL_URL": api, "RAYHAUL_API_KEY": key}
        log, *tests = [
            await called(environ, "webhooks", *words)
            for words in (["log"], ["test", url], ["test", url], ["test", url])
        ]
    assert len(log.stdout.splitlines()) == 4
    assert log.stderr == "hooks.example: it answered 410\ufffd[2J\n"
    assert [each.code for each in tests] == [1, 0, 0]
    said = [re.sub(r" at \S+ \S+;", ";", each.stderr).splitlines()[1:] for each in tests]
    was = "it was disabled, for it answered 410; it is "
    assert said == [[f"{was}still disabled, until a test is delivered"], [f"{was}enabled again"], []]


async def test_a_test_message_goes_nowhere_it_may_not(site: Site, receiver: Receiver) -> None:
    """The guard of all outbound connections stands before this one too."""
    check_problem(await tried(site, "http://169.254.169.254/latest/meta-data"), 422, "egress_denied")
    check_problem(await tried(site, "file:///etc/passwd"), 422, "invalid_request")
    report = (await tried(site, f"http://localhost:{receiver.port}/hook")).json()
    assert report["result"] in {"denied", "delivered"}
    check_problem(await tried(site, f"http://127.0.0.1:{receiver.port + 1}/hook"), 422, "egress_denied")


async def test_the_log_of_deliveries(site: Site) -> None:
    """Newest first, by pages, of one job or all; each user the own ones."""
    job, other, of_bob = await site.submit("alice"), await site.submit("alice"), await site.submit("bob")
    await site.ledger.note_deliveries(
        [
            a_delivery(job, "alice", 1),
            a_delivery(other, "alice", 2),
            a_delivery(of_bob, "bob", 3),
            a_delivery(job, "alice", 4),
        ]
    )

    async def page(user: str, **query: str) -> dict[str, Any]:
        answer = await site.http.get("/webhooks/deliveries", params=query, headers=site.auth[user])
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    first = await page("alice", limit="2")
    assert [each["attempt"] for each in first["deliveries"]] == [4, 2]
    rest = await page("alice", limit="2", cursor=first["nextCursor"])
    assert ([each["attempt"] for each in rest["deliveries"]], rest["nextCursor"]) == ([1], None)
    assert [each["attempt"] for each in (await page("alice", jobId=job))["deliveries"]] == [4, 1]
    assert [each["attempt"] for each in (await page("bob"))["deliveries"]] == [3]
    assert (await page("bob", jobId=job))["deliveries"] == []
    assert len((await page("olga"))["deliveries"]) == 4
    shown = first["deliveries"][0]
    assert (shown["receiver"], shown["status"], shown["jobId"]) == ("hooks.example", 500, job)
    answer = await site.http.get("/webhooks/deliveries?cursor=job_1", headers=site.auth["alice"])
    check_problem(answer, 422, "invalid_request")
