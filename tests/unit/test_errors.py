"""The error tree: codes of the contract, faults, and values that cross processes."""

from rayhaul.errors import Fault, RayhaulError, SourceBusy, codes

CONTRACT = {
    "invalid_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "conflict",
    "idempotency_mismatch",
    "rate_limited",
    "quota_exceeded",
    "egress_denied",
    "source_unreachable",
    "source_timeout",
    "source_stalled",
    "source_refused",
    "source_not_found",
    "source_busy",
    "source_failed",
    "source_truncated",
    "source_changed",
    "source_too_large",
    "checksum_mismatch",
    "sink_busy",
    "sink_refused",
    "upload_lost",
    "agent_lost",
    "requeues_exhausted",
    "cancelled",
    "internal",
}


def test_codes_are_the_contract() -> None:
    """Every code of the contract has an error, and no error has another code."""
    assert codes() == CONTRACT


def test_callers_faults_are_never_retried() -> None:
    """What the caller did wrong is not made right by trying again."""
    pending: list[type[RayhaulError]] = [RayhaulError]
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        assert not (kind.fault is Fault.CALLER and kind.retryable), kind
        assert 400 <= kind.http_status < 600


def test_failure_value() -> None:
    """An error as a value keeps what decides about a retry."""
    failure = SourceBusy("slow down", retry_after_s=7).failure()
    assert (failure.code, failure.fault, failure.retryable, failure.retry_after_s) == ("source_busy", "source", True, 7)
    assert SourceBusy().message == "The source asks to slow down."
