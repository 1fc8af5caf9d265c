"""Spans of what follows from a job's creation, each the root of a trace of its own that is linked to the creation.

So a trace ends with the work of one process, however long the job waits or is retried; a batch of thousands is no trace
of thousands. Source: OpenTelemetry semantic conventions for messaging, "Trace structure".
"""

from urllib.parse import urlsplit

from rayhaul.lease import AbortOrder, Order, ProbeOrder, SweepOrder, TransferOrder
from rayhaul.ledger.base import TRACEPARENT
from rayhaul.ledger.deliveries import OutboxRecord
from rayhaul.tracing import NO_SPAN, OFF, Attributes, Kind, Span, Tracer, Value, parsed


def order_span(tracer: Tracer, order: Order, agent: str) -> Span:
    """Return the span of an agent's carrying out an order."""
    if tracer is OFF:
        return NO_SPAN
    match order:
        case ProbeOrder():
            return _consumer(tracer, "probe", order, agent, {"server.address": _host(order.url)})
        case TransferOrder():
            about: dict[str, Value | None] = {
                "epoch": order.epoch,
                "leaseId": order.lease_id,
                "firstPart": order.first_part,
                "endPart": order.end_part,
                "server.address": _host(order.url),
            }
            return _consumer(tracer, "lease", order, agent, about)
        case AbortOrder() | SweepOrder():
            # Nobody's request: it follows from the cluster's own tidiness.
            return NO_SPAN


def _consumer(tracer: Tracer, verb: str, order: ProbeOrder | TransferOrder, agent: str, about: Attributes) -> Span:
    context = order.context
    attributes: dict[str, Value | None] = {
        "messaging.system": "rayhaul",
        "messaging.destination.name": "jobs",
        "messaging.operation.name": verb,
        "messaging.operation.type": "process",
        "messaging.message.id": context.job_id,
        "correlationId": context.correlation_id,
        "jobId": context.job_id,
        "userId": context.user_id,
        "agentId": agent,
        "attempt": context.attempt or None,
    }
    return tracer.span(
        f"{verb} jobs", Kind.CONSUMER, link=parsed(context.traceparent), attributes={**attributes, **about}
    )


def webhook_span(tracer: Tracer, record: OutboxRecord) -> Span:
    """Return the span of one delivery of a message."""
    attributes: Attributes = {
        "http.request.method": "POST",
        "server.address": _host(record.url),
        "messaging.message.id": record.outbox_id,
        "correlationId": record.payload.get("correlationId"),
        "jobId": record.job_id,
        "userId": record.user_id,
        "event": record.event,
        "attempt": record.attempts + 1,
    }
    return tracer.span("webhook", Kind.CLIENT, link=parsed(record.payload.get(TRACEPARENT)), attributes=attributes)


def _host(url: str) -> str | None:
    """Return the host; the rest of a URL may be secret. None where the URL can not be read."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
