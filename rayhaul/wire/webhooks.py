"""Deliveries of webhook messages, webhooks that are disabled, and a test of a receiver."""

from pydantic import Field

from rayhaul.wire.base import URI, RequestShape, ResponseShape, Timestamp


class DeliveryView(ResponseShape):
    """One try to deliver a webhook message."""

    seq: int = Field(description="Its place in the log of deliveries.")
    ts: Timestamp = Field(description="When it was tried.")
    message_id: str = Field(description="The `webhook-id` header.")
    job_id: str = Field(description="The job that it tells of.")
    event: str = Field(description="What it tells.")
    receiver: str = Field(description="Host and port.")
    attempt: int = Field(description="Tries so far, this one included.")
    result: str = Field(description="What became of it.")
    status: int | None = Field(description="The answer's HTTP status; null where there was none.")
    duration_ms: int = Field(description="Until the answer, in milliseconds.")
    next_attempt_at: Timestamp | None = Field(description="Null where it is not tried again.")
    why: str | None = Field(
        description="Why it was given up before its time, and what helps; null where it was not. Without a `status`, "
        "nothing was sent."
    )


class DeliveryPage(ResponseShape):
    """Some deliveries."""

    deliveries: list[DeliveryView] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="For `cursor` of the next page; null on the last one.")


class DisabledWebhookView(ResponseShape):
    """A URL that answered 410 to a user's message, and gets no more of that user's."""

    receiver: str = Field(description="Host and port; the URL itself is not kept.")
    user_id: str = Field(description="Whose messages it gets no more.")
    disabled_since: Timestamp = Field(description="When it answered 410.")
    last_given_up_at: Timestamp = Field(description="When a message for it was last given up, the first one included.")


class DisabledWebhooksPage(ResponseShape):
    """Disabled webhooks."""

    webhooks: list[DisabledWebhookView] = Field(description="Those first for which a message was given up last.")


class WebhookTestRequest(RequestShape):
    """Names the receiver of a test message."""

    url: str = Field(min_length=1, max_length=8192, description="The receiver's URL.", json_schema_extra=URI)


class WebhookTestReport(ResponseShape):
    """What became of a test message."""

    message_id: str = Field(description="The `webhook-id` header.")
    result: str = Field(description="What became of it.")
    status: int | None = Field(description="The answer's HTTP status; null where there was none.")
    duration_ms: int = Field(description="Until the answer, in milliseconds.")
    signed: bool = Field(description="Whether the cluster has a secret to sign with.")
    disabled_since: Timestamp | None = Field(
        description="When the URL answered 410 to a message of the caller's, where none was sent to it since; null "
        "where they were."
    )
    enabled_again: bool = Field(description="Whether messages are sent to it again, for this one was delivered.")
