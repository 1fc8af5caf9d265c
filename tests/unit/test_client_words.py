"""The pure parts of the client: errors by code, requests from fields, pauses between tries."""

import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.client import errors
from rayhaul.client.errors import api_error
from rayhaul.client.fields import batches, job_requests
from rayhaul.client.retries import BACKOFF_S_MAX, Patience, backoff_s, retry_after_s
from rayhaul.client.transport import Answer, pause_before_retry_s
from rayhaul.errors import codes
from rayhaul.wire import Problem


def problem(code: str, status: int, **more: Any) -> bytes:
    made = Problem(title="No", status=status, detail="Because.", code=code, correlation_id="corr-1234", **more)
    return made.model_dump_json(by_alias=True).encode()


FAMILIES = {
    "invalid_request": errors.BadRequest,
    "idempotency_mismatch": errors.BadRequest,
    "egress_denied": errors.BadRequest,
    "unauthorized": errors.AccessDenied,
    "forbidden": errors.AccessDenied,
    "not_found": errors.NotFound,
    "conflict": errors.Conflict,
    "cancelled": errors.Conflict,
    "rate_limited": errors.Throttled,
    "quota_exceeded": errors.Throttled,
    "checksum_mismatch": errors.SourceFailed,
    "upload_lost": errors.SinkFailed,
    "agent_lost": errors.ServiceFailed,
    "requeues_exhausted": errors.ServiceFailed,
    "internal": errors.ServiceFailed,
}


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code_has_its_family(code: str) -> None:
    """Each code that the service knows becomes the error that the table of errors.py names, detail and ids included."""
    family = FAMILIES.get(code) or {"source": errors.SourceFailed, "sink": errors.SinkFailed}[code.partition("_")[0]]
    error = api_error(418, problem(code, 418), None)
    assert type(error) is family
    assert (error.code, error.status, error.detail, error.correlation_id) == (code, 418, "Because.", "corr-1234")
    assert str(error) == f"{code}: Because."


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, b"", errors.AccessDenied, "unauthorized"),
        (404, b"<html>", errors.NotFound, "not_found"),
        (400, b"{}", errors.BadRequest, "invalid_request"),
        (502, b"Bad Gateway", errors.ServiceFailed, "internal"),
        (409, problem("brand_new", 409), errors.Conflict, "brand_new"),
        (500, problem("brand_new", 500), errors.ServiceFailed, "brand_new"),
    ],
)
def test_strange_answers(status: int, body: bytes, kind: type[errors.ApiError], code: str) -> None:
    """What a proxy answers, and codes newer than this client, go by their status."""
    error = api_error(status, body, "corr-5678")
    assert (type(error), error.code, error.status) == (kind, code, status)


def test_wrong_fields_are_named() -> None:
    """The sentence of a refusal says which field was wrong."""
    body = problem("invalid_request", 422, errors=[{"field": "url", "message": "no URL"}])
    assert str(api_error(422, body, None)) == "invalid_request: Because. (url: no URL)"


def test_errors_survive_pickling() -> None:
    """Errors come through process pools whole."""
    error = api_error(404, problem("not_found", 404), None)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, str(copy)) == (type(error), error.args, str(error))


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"url": "https://a.example/x"}, {"url": "https://a.example/x"}),
        ({"url": "u", "size_bytes_max": 5, "key": None}, {"url": "u", "sizeBytesMax": 5}),
        ({"url": "u", "sizeBytesMax": 5}, {"url": "u", "sizeBytesMax": 5}),
        (
            {"url": "u", "priority": "high", "tags": {"a_b": "c"}},
            {"url": "u", "priority": "high", "tags": {"a_b": "c"}},
        ),
        (
            {"url": "u", "not_before": datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=1)))},
            {"url": "u", "notBefore": datetime(2026, 1, 2, 2, tzinfo=UTC)},
        ),
    ],
)
def test_fields(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    """Both ways to write a name give the wire's; what was not said is not sent."""
    (request,) = job_requests([fields])
    assert request.model_dump(by_alias=True, exclude_unset=True) == sent


def test_naive_time_is_local() -> None:
    """A time without a zone is this machine's, as everywhere in Python; it never leaves without one."""
    moment = datetime(2026, 1, 2, 3)  # noqa: DTZ001 - that is what is tested
    (request,) = job_requests([{"url": "u", "not_before": moment}])
    assert request.not_before == moment.astimezone()


@pytest.mark.parametrize(
    ("fields", "field"),
    [({}, "url"), ({"url": "u", "speed": 1}, "speed"), ({"url": "u", "headers": {"Token": ["hush"]}}, "headers.Token")],
)
def test_wrong_fields(fields: dict[str, Any], field: str) -> None:
    """A wrong field is named before anything is sent; its value is not repeated."""
    with pytest.raises(errors.BadRequest) as refused:
        job_requests([fields])
    assert refused.value.code == "invalid_request"
    assert [wrong["field"] for wrong in refused.value.fields] == [field]
    assert "hush" not in f"{refused.value!r} {refused.value.__cause__!r}"


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [2, 2]), (5, [2, 2, 1])])
async def test_batches(count: int, sizes: list[int]) -> None:
    """Batches are full but for the last, whether the jobs come from a plain or an asynchronous source."""

    async def slowly() -> AsyncIterator[str]:
        for index in range(count):
            yield str(index)

    for jobs in ([str(index) for index in range(count)], slowly()):
        found = [batch async for batch in batches(jobs, 2)]
        assert [len(batch) for batch in found] == sizes
        assert [job for batch in found for job in batch] == [str(index) for index in range(count)]


async def test_batches_read_no_further_ahead() -> None:
    """Of an endless source only the batch at hand is in memory."""
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(len(taken))
            yield "u"

    stream = batches(endless(), 3)
    await anext(stream)
    assert len(taken) == 3
    await stream.aclose()


@pytest.mark.parametrize("one", ["https://a.example/x", {"url": "https://a.example/x"}])
async def test_one_job_is_no_batch(one: Any) -> None:
    """One URL, handed over as if it were many, is not taken for its letters."""
    with pytest.raises(TypeError, match="submit"):
        await anext(batches(one, 2))


@given(failures=st.integers(1, 100_000), fraction=st.floats(0, 1))
def test_backoff_is_bounded(failures: int, fraction: float) -> None:
    """However long it fails, a pause is never nothing and never longer than the most."""
    assert 0.1 <= backoff_s(failures, fraction) <= BACKOFF_S_MAX
    assert backoff_s(failures, fraction) <= backoff_s(failures + 1, 1.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        ("-1", None),
        ("7.5", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds and dates are read; a date that is past is no wait; anything else says nothing."""
    assert retry_after_s(value, 100.0) == seconds


@pytest.mark.parametrize(
    ("status", "code", "asked", "is_repeatable", "at_least_s"),
    [
        (503, "internal", None, True, 0.1),
        (503, "internal", "7", True, 7.0),
        (503, "internal", "61", True, None),
        (503, "internal", None, False, None),
        (504, "internal", None, True, 0.1),
        (500, "internal", None, True, None),
        (404, "not_found", None, True, None),
        (429, "rate_limited", "2", False, 2.0),
        (429, "rate_limited", None, True, None),
        (429, "rate_limited", "3600", True, None),
        (429, "quota_exceeded", "1", True, None),
    ],
)
def test_what_is_sent_again(
    status: int, code: str, asked: str | None, *, is_repeatable: bool, at_least_s: float | None
) -> None:
    """Only what passes by itself is tried again, only where that is safe, and never sooner than asked."""
    headers = {} if asked is None else {"Retry-After": asked}
    answer = Answer(status=status, headers=headers, body=problem(code, status), correlation_id="corr-1234")
    pause_s = pause_before_retry_s(answer, 1, is_repeatable=is_repeatable)
    if at_least_s is None:
        assert pause_s is None
    else:
        assert pause_s is not None
        assert at_least_s <= pause_s <= at_least_s + 0.3


def test_patience() -> None:
    """Failures in a row are borne for so long; any answer starts the time anew, an event the pauses as well."""
    now_s = [0.0]
    patience = Patience(10, lambda: 1.0, lambda: now_s[0])
    assert not patience.is_over()
    assert [patience.pause_s() for _ in range(3)] == [0.2, 0.4, 0.8]
    now_s[0] = 9.9
    assert not patience.is_over()
    patience.forgive()
    now_s[0] = 19.8
    assert not patience.is_over()
    assert patience.pause_s() == 1.6
    patience.renew()
    assert patience.pause_s() == 0.2
    now_s[0] = 25.0
    assert not patience.is_over()
    now_s[0] = 35.0
    assert patience.is_over()
