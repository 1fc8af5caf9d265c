"""Webhooks over HTTP: the log of deliveries, and a message to try a receiver with."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import check_problem
from plane import Site, api_settings, site_at
from pydantic import SecretStr
from receiver import HANG, Receiver
from standardwebhooks import Webhook

from rayhaul.ledger.base import DeliveryRecord
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
