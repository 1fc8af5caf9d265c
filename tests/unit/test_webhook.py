"""What a webhook says, how it is signed, what answers mean and when it is tried again."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from documents import ROOT, block
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook

from rayhaul.job import JobEvent, JobStatus
from rayhaul.policy.webhook import DELAYS_S, JITTER, Outcome, Result, body, classify, headers, next_try
from rayhaul.settings import Settings, WebhookSettings

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
#: Of the specification's own libraries: secret, id, timestamp, body and the signature that must come out.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER_SECRET = "whsec_" + "A" * 40


def told(event: str = "completed", **payload: object) -> bytes:
    payload = {"correlationId": "corr-1234", **payload}
    return body(event=event, job_id="job_1", user_id="ann", created_at=NOW, payload=payload)


def test_body() -> None:
    """Type, time and the event as event streams show it; in ASCII, without spaces."""
    text = told(bucket="b", key="ü.iso", parts=3)
    assert json.loads(text) == {
        "type": "job.completed",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "data": {
            "ts": "2026-01-02T03:04:05.678Z",
            "event": "completed",
            "jobId": "job_1",
            "userId": "ann",
            "correlationId": "corr-1234",
            "status": "completed",
            "payload": {"correlationId": "corr-1234", "bucket": "b", "key": "ü.iso", "parts": 3},
        },
    }
    assert text.isascii()
    assert b" " not in text


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (JobEvent.COMPLETED, JobStatus.COMPLETED),
        (JobEvent.FAILED, JobStatus.FAILED),
        (JobEvent.DEADLETTERED, JobStatus.FAILED),
        (JobEvent.CANCELLED, JobStatus.CANCELLED),
        (JobEvent.CREATED, JobStatus.QUEUED),
    ],
)
def test_status_follows_from_the_event(event: JobEvent, status: JobStatus) -> None:
    """The status after an event, which the outbox does not keep."""
    assert json.loads(told(event))["data"]["status"] == status


def test_no_secrets_in_a_body() -> None:
    """URLs lose what may be secret, wherever in the payload they stand."""
    url = "https://me:pw@files.example/a?sig=hush"
    found = json.loads(told("failed", message=f"GET {url} said 403", tried=[{"url": url}]))["data"]["payload"]
    assert found["message"] == "GET https://files.example/a said 403"
    assert found["tried"] == [{"url": "https://files.example/a"}]


def test_signature_is_the_specification_s() -> None:
    """The published example; without a key there is no signature, with two there are two."""
    message_id, now_s, text = VECTOR
    for secret, signatures in (
        (SECRET, [SIGNATURE]),
        (None, []),
        (f"{OTHER_SECRET}, {SECRET}", [None, SIGNATURE]),
    ):
        keys = WebhookSettings(secret=SecretStr(secret) if secret else None).keys
        found = headers(message_id=message_id, now_s=now_s + 0.9, body=text, keys=keys)
        assert found["webhook-id"] == message_id
        assert found["webhook-timestamp"] == str(now_s)
        sent = found["webhook-signature"].split(" ") if "webhook-signature" in found else []
        assert len(sent) == len(signatures)
        assert all(wanted in (None, got) for wanted, got in zip(signatures, sent, strict=True))


def test_the_document_s_message() -> None:
    """What docs/webhooks.md shows is what is sent of such an event, signed with the secret that it tells."""
    text = block("a message's body")
    data = json.loads(text)["data"]
    sent = body(
        event=data["event"],
        job_id=data["jobId"],
        user_id=data["userId"],
        created_at=datetime.fromisoformat(data["ts"]),
        payload=data["payload"],
    )
    assert sent.decode() == json.dumps(json.loads(text), separators=(",", ":"))
    request, *lines = block("a message").splitlines()
    assert request == "POST /hooks/rayhaul HTTP/1.1"
    shown = dict(line.split(": ", 1) for line in lines)
    moment = datetime.fromtimestamp(int(shown["webhook-timestamp"]), UTC)
    assert shown["webhook-signature"] == Webhook(SECRET).sign(shown["webhook-id"], moment, sent.decode())
    assert shown["X-Correlation-ID"] == data["correlationId"]
    assert f"signed with `{SECRET}`" in (ROOT / "docs/webhooks.md").read_text()


@given(key=st.binary(min_size=24, max_size=64), text=st.text(), message_id=st.from_regex(r"msg_[a-z0-9]{26}"))
def test_signature_is_the_reference_s(key: bytes, text: str, message_id: str) -> None:
    """Whatever is signed, the reference library signs it likewise."""
    found = headers(message_id=message_id, now_s=NOW.timestamp(), body=text.encode(), keys=[key])
    assert found["webhook-signature"] == Webhook(key).sign(message_id, NOW, text)


@pytest.mark.parametrize(
    ("statuses", "result"),
    [
        ((200, 201, 204, 299), Result.DELIVERED),
        ((300, 301, 302, 304, 307, 308), Result.REDIRECTED),
        ((410,), Result.GONE),
        ((429, 502, 503, 504), Result.BUSY),
        ((400, 401, 404, 409, 500, 501, 599), Result.REFUSED),
    ],
)
def test_statuses(statuses: tuple[int, ...], result: Result) -> None:
    """Only 2xx is a success, and only 410 is the end."""
    assert {classify(status) for status in statuses} == {result}


@given(
    attempts=st.integers(1, 20),
    result=st.sampled_from([result for result in Result if result not in {Result.DELIVERED, Result.GONE}]),
    asked_s=st.none() | st.floats(0, 100_000),
    seed=st.integers(0, 1000),
)
def test_next_try(attempts: int, result: Result, asked_s: float | None, seed: int) -> None:
    """The n-th wait is the table's give or take a fifth, or what the receiver asked for where that is longer."""
    outcome = Outcome(result=result, retry_after_s=asked_s)
    again_at = next_try(outcome, attempts=attempts, attempts_max=21, now=NOW, rng=random.Random(seed))
    assert again_at is not None
    waits_s = (again_at - NOW).total_seconds()
    table_s = (*DELAYS_S, *[DELAYS_S[-1]] * 20)[attempts - 1]
    assert waits_s >= max(table_s * (1 - JITTER), asked_s or 0) - 0.001
    assert waits_s <= max(table_s * (1 + JITTER), asked_s or 0) + 0.001


def test_waits_differ() -> None:
    """Two messages that failed together are not tried again together."""
    rng = random.Random(1)
    outcome = Outcome(result=Result.REFUSED, status=500)
    found = {next_try(outcome, attempts=3, attempts_max=10, now=NOW, rng=rng) for _ in range(50)}
    assert len(found) == 50


def test_the_end_of_the_schedule() -> None:
    """Ten tries by default, over three days; a 410 is the end at once."""
    attempts_max = WebhookSettings().attempts_max
    now, tries = NOW, 1
    while True:
        outcome = Outcome(result=Result.SILENT)
        again_at = next_try(outcome, attempts=tries, attempts_max=attempts_max, now=now, rng=random.Random(tries))
        if again_at is None:
            break
        now, tries = again_at, tries + 1
    assert tries == 10
    assert timedelta(days=2.5) < now - NOW < timedelta(days=3.8)
    gone = Outcome(result=Result.GONE, status=410)
    assert next_try(gone, attempts=1, attempts_max=attempts_max, now=NOW, rng=random.Random(1)) is None


@pytest.mark.parametrize(
    ("secret", "keys_count"),
    [
        ("", 0),
        (SECRET, 1),
        (SECRET.replace("L", "+"), 1),
        (f"{SECRET},{OTHER_SECRET}", 2),
        ("whsec_" + "A" * 31, None),
        ("whsec_" + "A" * 90, None),
        ("whsec_" + "!" * 40, None),
        (SECRET.removeprefix("whsec_"), None),
        (SECRET.replace("whsec", "whsk"), None),
        (f"{SECRET},short", None),
    ],
)
def test_secrets(secret: str, keys_count: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """24 to 64 bytes in base64 after the prefix; a refused one is not shown in the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYHAUL_WEBHOOK__SECRET", secret)
    if keys_count is not None:
        settings = Settings()
        assert len(settings.webhook.keys) == keys_count
        assert not secret or secret not in repr(settings)
        return
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"] == ("webhook", "secret")
    assert secret not in str(refused.value)
