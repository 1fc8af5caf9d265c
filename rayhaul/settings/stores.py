"""Where things are kept: objects in the bucket, the record of jobs in the ledger."""

import base64

from pydantic import Field, SecretStr, field_validator

from rayhaul.settings.base import Group, split_commas

_SEALING_KEY_BYTES = 32


class S3Settings(Group):
    """The bucket. With none of these set, the embedded cluster starts one of its own."""

    endpoint_url: str | None = Field(None, description="S3 endpoint; empty means AWS.")
    bucket: str | None = Field(None, description="Name of the bucket.")
    region: str = Field("auto", description="Region; `auto` for Cloudflare R2.")
    access_key_id: str | None = Field(None, description="Access key; empty means boto3's own credential chain.")
    secret_access_key: SecretStr | None = Field(None, description="Secret key.")
    prefix: str = Field("", description="Put before every object key.")
    presign_expires_s: int = Field(900, gt=0, le=604_800, description="Life of a download link, seconds.")
    threads_max: int = Field(16, gt=0, description="Threads for the store's control calls, per process.")

    @property
    def is_set(self) -> bool:
        return self.bucket is not None


class LedgerSettings(Group):
    url: str | None = Field(
        None,
        description="`sqlite:///path` or `postgresql://…`; empty means SQLite in the data directory. PostgreSQL is to "
        "be reached directly or through a pooler in session mode: LISTEN needs a session of its own.",
    )
    pool_max: int = Field(
        4, gt=0, description="Connections for reading, per process; one for writing and one that listens come on top."
    )
    busy_timeout_s: float = Field(10, gt=0, description="Wait for a locked database, seconds.")
    secret_key: SecretStr | None = Field(
        None,
        description="Seals sources' URLs, headers and webhooks in the ledger: base64 of 32 bytes (`openssl rand "
        "-base64 32`); new and old, separated by a comma, while keys change. `rayhaul up` and `rayhaul deploy` make "
        "one in the data directory (`ledger-key`) where it is empty.",
    )
    event_poll_s: float = Field(
        0.05, gt=0, description="Time between two looks for new events where the database does not tell, seconds."
    )

    @field_validator("secret_key")
    @classmethod
    def _check(cls, secret: SecretStr | None) -> SecretStr | None:
        return secret if _sealing_keys(secret) else None

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What secrets are sealed with, the newest first; empty: they are not."""
        return _sealing_keys(self.secret_key)


def _sealing_keys(secret: SecretStr | None) -> tuple[bytes, ...]:
    """Raises: ValueError, which does not tell the secret."""
    keys = []
    for text in split_commas(secret.get_secret_value() if secret else ""):
        try:
            keys.append(base64.b64decode(text, validate=True))
        except ValueError:
            raise ValueError("is not base64") from None
        if len(keys[-1]) != _SEALING_KEY_BYTES:
            raise ValueError(f"must be {_SEALING_KEY_BYTES} bytes in base64")
    return tuple(keys)
