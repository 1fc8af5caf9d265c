"""What callers meet: the API that they ask, and the webhooks that tell them."""

import base64

from pydantic import Field, SecretStr, field_validator

from rayhaul.settings.base import MIB, Group, split_commas


class ApiSettings(Group):
    rate_per_minute: int = Field(
        6000, gt=0, description="Requests of one key per minute; each replica grants its equal share."
    )
    body_bytes_max: int = Field(32 * MIB, gt=0, description="Largest request body.")
    batch_jobs_max: int = Field(10_000, gt=0, description="Jobs in one batch.")
    sse_heartbeat_s: float = Field(
        15, gt=0, description="Silence on an event stream after which a comment is sent, seconds."
    )
    sse_streams_max: int = Field(2000, gt=0, description="Open event streams of one replica.")
    sse_streams_per_user_max: int = Field(1000, gt=0, description="Of these, open ones of one user.")
    sse_age_s_max: float = Field(
        900, gt=0, description="An event stream is ended after about this long, and its client resumes, seconds."
    )
    key_cache_s: float = Field(5, ge=0, description="How long a checked API key is remembered, seconds.")
    idempotency_keep_s: float = Field(86_400, gt=0, description="How long an Idempotency-Key is remembered, seconds.")
    replicas: int = Field(
        1, gt=0, description="Replicas of the API. One stays on the head; several are spread, and keep their nodes."
    )


class WebhookSettings(Group):
    """How users are told of their jobs' ends."""

    secret: SecretStr | None = Field(
        None,
        description="Signs webhooks: `whsec_` and 24 to 64 bytes in base64; old and new, separated by a comma, while "
        "receivers change over. Empty: webhooks are not signed.",
    )
    timeout_s: float = Field(20, gt=0, le=60, description="Longest wait for a receiver's answer, seconds.")
    attempts_max: int = Field(10, gt=0, le=100, description="Deliveries tried of one message; ten take three days.")
    concurrency_max: int = Field(64, gt=0, description="Deliveries under way at once; one receiver gets an eighth.")

    @field_validator("secret")
    @classmethod
    def _check(cls, secret: SecretStr | None) -> SecretStr | None:
        return secret if _signing_keys(secret) else None

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What messages are signed with; empty: they are not."""
        return _signing_keys(self.secret)


def _signing_keys(secret: SecretStr | None) -> tuple[bytes, ...]:
    """Raises: ValueError, which does not tell the secret. Source: Standard Webhooks, "Signature scheme"."""
    keys = []
    for text in split_commas(secret.get_secret_value() if secret else ""):
        prefix, _, encoded = text.rpartition("_")
        try:
            keys.append(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
        except ValueError:
            raise ValueError("is not base64 after `whsec_`") from None
        if prefix != "whsec" or not 24 <= len(keys[-1]) <= 64:
            raise ValueError("must be `whsec_` and 24 to 64 bytes in base64")
    return tuple(keys)
