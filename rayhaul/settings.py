"""The one Settings value: read once at a composition root, handed down by value.

Environment variables have the prefix `RAYHAUL_` and `__` between group and field (`RAYHAUL_S3__BUCKET`); a `.env` file
in the working directory and a YAML file named by `RAYHAUL_CONFIG` come after them. Actors get their groups in their
constructors and never read the environment: it would be the wrong machine's.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

MIB = 1024 * 1024
_SEALING_KEY_BYTES = 32


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(entry.strip() for entry in value.split(",") if entry.strip())
    if isinstance(value, int):
        return (value,)
    return value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class S3Settings(_Group):
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


class LedgerSettings(_Group):
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
    for text in _split_commas(secret.get_secret_value() if secret else ""):
        try:
            keys.append(base64.b64decode(text, validate=True))
        except ValueError:
            raise ValueError("is not base64") from None
        if len(keys[-1]) != _SEALING_KEY_BYTES:
            raise ValueError(f"must be {_SEALING_KEY_BYTES} bytes in base64")
    return tuple(keys)


class EgressSettings(_Group):
    """Where the cluster may connect to on behalf of users."""

    allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="CIDRs or `host:port` that would be refused otherwise, separated by commas."
    )
    ports: Annotated[tuple[int, ...], NoDecode] = Field((80, 443), description="Ports that may be fetched from.")
    redirects_max: int = Field(5, ge=0, description="Redirects followed for one request.")
    dns_timeout_s: float = Field(5, gt=0, description="Longest wait for a name, seconds.")

    _split = field_validator("allow", "ports", mode="before")(_split_commas)


class SourceSettings(_Group):
    connect_timeout_s: float = Field(10, gt=0, description="Longest wait for a connection, TLS included, seconds.")
    first_byte_timeout_s: float = Field(30, gt=0, description="Longest wait for a response's headers, seconds.")
    stall_timeout_s: float = Field(30, gt=0, description="Longest silence in a body, seconds.")
    speed_bytes_per_s_min: int = Field(
        1024, ge=0, description="A connection that brings less than this over `speed_window_s` is given up; 0: none is."
    )
    speed_window_s: float = Field(60, gt=0, description="Time over which that speed is measured, seconds.")
    probe_timeout_s: float = Field(20, gt=0, description="Longest metadata probe, redirects included, seconds.")
    peek_bytes: int = Field(
        64 * 1024,
        ge=0,
        le=MIB,
        description="So many of a file's first bytes are asked for by its probe: where they are the whole file, it "
        "waits in the agent's memory for its lease, and is not asked for again; 0: a single byte, and nothing waits.",
    )
    peek_keep_s: float = Field(30, gt=0, description="Longest wait of such a file for its lease, seconds.")
    peeks_bytes_max: int = Field(16 * MIB, ge=0, description="Memory for all such files, per agent.")
    read_buffer_bytes: int = Field(
        256 * 1024,
        gt=0,
        description="Read buffer of one connection; the rest of a long body goes past it, at most 1 MiB ahead.",
    )
    user_agent: str = Field("rayhaul", description="User-Agent sent to sources.")


class SourcesSettings(_Group):
    """Which kinds of source there are besides HTTP(S)."""

    s3_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Buckets, or `bucket/prefix`, of the cluster's own store that every user may read from as "
        "`s3://bucket/key`, separated by commas; empty: none. What lies under the cluster's own prefix is never read.",
    )

    sftp_known_hosts: str | None = Field(
        None,
        min_length=1,
        description="Host keys that are trusted for `sftp://`: lines as in OpenSSH's known_hosts, or the name of such "
        "a file on every machine; empty: there is no such source.",
    )

    torrent_scratch: str | None = Field(
        None,
        min_length=1,
        description="Directory on every machine for the pieces of torrents that are being read; empty: there are no "
        "sources of the kind `magnet:`, and a .torrent is a file like any other.",
    )
    torrent_scratch_bytes_max: int = Field(
        20 * 1024 * MIB, gt=0, description="The most that one agent keeps there; no larger file is read from a torrent."
    )

    _split = field_validator("s3_buckets", mode="before")(_split_commas)

    @field_validator("s3_buckets")
    @classmethod
    def _check(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        if any(entry.startswith("/") or "://" in entry for entry in entries):
            raise ValueError("is not `bucket` or `bucket/prefix`, separated by commas")
        return entries


class TransferSettings(_Group):
    part_bytes_min: int = Field(16 * MIB, ge=5 * MIB, description="Size of a part, unless the file needs larger ones.")
    single_put_bytes_max: int = Field(16 * MIB, gt=0, description="Files up to this size go up in one PUT.")
    stripe_parts_min: int = Field(
        4, gt=0, description="Parts that are worth another agent's help; fewer are taken from a slow one only."
    )
    part_attempts_max: int = Field(5, gt=0, description="Tries of one part within a lease.")
    retry_base_s: float = Field(1, gt=0, description="First backoff, seconds.")
    retry_factor: float = Field(4, gt=1, description="Growth of the backoff.")
    retry_cap_s: float = Field(60, gt=0, description="Longest backoff, seconds.")
    put_idle_s_max: float = Field(
        10,
        gt=0,
        description="Longest pause of an upload that waits for its source, seconds; S3 bears 20. After one, a lease "
        "reads its parts into memory before it sends them.",
    )
    retries_at_once_max: int = Field(
        64, gt=0, description="Second tries that one process makes at one endpoint without waiting for their turn."
    )
    retries_per_s: float = Field(8, gt=0, description="Further second tries at one endpoint, per second and process.")
    attempts_max: int = Field(5, gt=0, description="Attempts of a job whose failures can be retried.")
    bandwidth_bytes_per_s_max: int | None = Field(
        None, gt=0, description="Bandwidth of the whole cluster, from all sources together; empty: no limit."
    )
    size_bytes_max: int = Field(5 * 1024**4, gt=0, description="Largest file accepted.")
    digest_bytes_max: int = Field(
        1024 * MIB,
        ge=0,
        description="Up to this size a file is compared with the digest that its source tells (Repr-Digest, Digest, "
        "Content-MD5, x-goog-hash): its ranges are then hashed in order, by one agent. A CRC-32C (x-goog-hash) is "
        "compared whatever the size, and so is a checksum in the job.",
    )

    def size_bytes_of(self, asked: int | None) -> int:
        """Return the largest file that a job takes, which may ask for a lower limit but for no higher one."""
        return self.size_bytes_max if asked is None else min(asked, self.size_bytes_max)


class ScalingSettings(_Group):
    agents_min: int = Field(1, ge=0, description="Agents never fall below this.")
    agents_max: int = Field(8, gt=0, description="Agents never rise above this.")
    cooldown_s: float = Field(180, ge=0, description="Quiet time after a change, seconds.")
    scale_in_window_s: float = Field(
        300, ge=0, description="How long load must have been low before an agent is drained, seconds."
    )
    scale_in_margin_pct: float = Field(
        15, gt=0, lt=85, description="Low load: with one agent fewer it would stay this far under 85 %."
    )
    scale_in_share_pct: int = Field(10, gt=0, le=50, description="Most agents drained at once, of all; at least one.")
    smoothing_s: float = Field(15, ge=0, description="Load is averaged over about this long, seconds; 0: not at all.")
    drain_s: float = Field(
        600, ge=0, description="A draining agent gets this long to finish; then its jobs go on elsewhere, seconds."
    )
    rules_path: Path | None = Field(
        None, description="Alert file whose auto-scale rule is used; empty: the one that is installed."
    )


class AgentSettings(_Group):
    slots: int = Field(32, gt=0, description="Leases one agent runs at once.")
    probe_slots: int = Field(32, gt=0, description="Metadata probes one agent runs at once.")
    connections_max: int = Field(64, gt=0, description="Connections one agent opens to sources at once.")
    memory_bytes_max: int = Field(256 * MIB, gt=0, description="Memory for buffered parts, per agent.")
    bandwidth_bytes_per_s_max: int | None = Field(
        None, gt=0, description="Bandwidth of one agent, shared fairly by its jobs; empty: no limit."
    )
    disk_free_bytes_min: int = Field(
        256 * MIB, ge=0, description="With less free disk an agent says that it is unfit, and gets no leases."
    )
    memory_free_bytes_min: int = Field(
        128 * MIB, ge=0, description="With less free memory an agent says that it is unfit, and gets no leases."
    )


class QueueSettings(_Group):
    """How free slots are divided between waiting jobs. Shares are relative to each other, and count while both wait."""

    share_high: int = Field(16, gt=0, le=1000, description="Starts of high jobs, against the other two shares.")
    share_normal: int = Field(4, gt=0, le=1000, description="Starts of normal jobs, against the other two shares.")
    share_low: int = Field(1, gt=0, le=1000, description="Starts of low jobs, against the other two shares.")
    running_per_user_max: int | None = Field(
        None, gt=0, description="Jobs of one user that run at once; empty: no limit."
    )


class QuotaSettings(_Group):
    bytes_per_day_max: int | None = Field(
        None, gt=0, description="Bytes one user may have moved in a day of UTC; empty: no limit."
    )


class LivenessSettings(_Group):
    heartbeat_s: float = Field(1, gt=0, description="Time between two reports of an agent, seconds.")
    offline_s: float = Field(60, gt=0, description="Silence after which an agent counts as lost, seconds.")
    self_fence_s: float = Field(
        45, gt=0, description="An agent without an answer for this long stops by itself, seconds."
    )
    stalled_s: float = Field(
        120, gt=0, description="Silence of a job's progress after which it is handed back, seconds."
    )
    overdue_floor_s: float = Field(
        300, gt=0, description="A job is overdue after twice its estimated time, but not before this, seconds."
    )
    commit_stalled_s: float = Field(
        600, gt=0, description="Longest wait for the bucket to complete an upload, seconds; S3 may take minutes."
    )
    requeues_max: int = Field(3, ge=0, description="Times a job is handed back before it fails.")
    park_s: float = Field(
        30, gt=0, description="Pause of all starts after the bucket refused us, doubled each time, seconds."
    )
    park_s_max: float = Field(300, gt=0, description="Longest such pause, seconds.")


class SweepSettings(_Group):
    """How the bucket is kept free of multipart uploads that no job needs: they cost money and are not seen."""

    interval_s: float = Field(600, gt=0, description="Time between two looks for such uploads, seconds.")
    age_s_min: float = Field(3600, gt=0, description="Younger uploads are left alone, seconds.")
    rule_days: int | None = Field(
        7,
        gt=0,
        description="Where the bucket has no lifecycle rules, one is set that aborts uploads after so many days; "
        "empty: its rules are left alone.",
    )
    owns_prefix: bool = Field(
        default=False,
        description="Nobody but this cluster uploads under `s3.prefix`: what its ledger does not know there is "
        "aborted, under keys that callers named as well. Else such uploads are left to the rule.",
    )


class HostsSettings(_Group):
    """How gently the cluster treats the hosts that files come from."""

    connections_max: int = Field(32, gt=0, description="Connections to one origin host, cluster-wide.")
    bandwidth_bytes_per_s_max: int | None = Field(
        None, gt=0, description="Bandwidth from one origin host, cluster-wide; empty: no limit."
    )
    pause_s_max: float = Field(
        300, ge=0, description="Longest Retry-After that is heeded by all jobs of a host, seconds."
    )
    regrow_s: float = Field(
        10, gt=0, description="A host that refused connections gets one back after so long without a refusal, seconds."
    )


class ApiSettings(_Group):
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


class AlertsSettings(_Group):
    disabled: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names of alerts that are not evaluated, and not built for Prometheus, separated by commas."
    )

    _split = field_validator("disabled", mode="before")(_split_commas)


class WebhookSettings(_Group):
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
    for text in _split_commas(secret.get_secret_value() if secret else ""):
        prefix, _, encoded = text.rpartition("_")
        try:
            keys.append(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
        except ValueError:
            raise ValueError("is not base64 after `whsec_`") from None
        if prefix != "whsec" or not 24 <= len(keys[-1]) <= 64:
            raise ValueError("must be `whsec_` and 24 to 64 bytes in base64")
    return tuple(keys)


class OtlpSettings(_Group):
    """Where traces go; needs the `otlp` extra on every machine."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="OTLP/HTTP endpoint of a collector, as in `http://tempo:4318`; empty: no traces.",
    )
    headers: SecretStr | None = Field(
        None, description="Sent with every trace request: `name=value`, separated by commas."
    )
    sample_ratio: float = Field(1.0, ge=0, le=1, description="Share of the traces that begin here which is recorded.")
    queue_spans_max: int = Field(
        4096, gt=0, description="Spans that wait to be sent, per process; what comes beyond is dropped and counted."
    )

    @field_validator("headers")
    @classmethod
    def _check(cls, headers: SecretStr | None) -> SecretStr | None:
        return headers if _name_values(headers) else None

    @property
    def sent(self) -> Mapping[str, str]:
        """The headers, by name."""
        return _name_values(self.headers)


def _name_values(text: SecretStr | None) -> Mapping[str, str]:
    """Raises: ValueError, which does not tell the text."""
    pairs = [entry.partition("=") for entry in _split_commas(text.get_secret_value() if text else "")]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError("is not `name=value`, separated by commas")
    return {name.strip(): value.strip() for name, _, value in pairs}


class _YamlFromEnvironment(YamlConfigSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, yaml_file=os.environ.get("RAYHAUL_CONFIG"))


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="RAYHAUL_",
        env_nested_delimiter="__",
        env_file=".env",
        frozen=True,
        extra="ignore",
        # A refused secret must not stand in the error that tells of it.
        hide_input_in_errors=True,
    )

    log_level: Literal["debug", "info", "warn", "error"] = Field(
        "info", description="debug, info, warn or error: of our own lines; libraries speak from warn up."
    )
    data_dir: Path = Field(Path("~/.rayhaul"), description="Where the embedded cluster keeps its data.")
    s3: S3Settings = S3Settings()
    ledger: LedgerSettings = LedgerSettings()
    egress: EgressSettings = EgressSettings()
    source: SourceSettings = SourceSettings()
    sources: SourcesSettings = SourcesSettings()
    transfer: TransferSettings = TransferSettings()
    scaling: ScalingSettings = ScalingSettings()
    agent: AgentSettings = AgentSettings()
    queue: QueueSettings = QueueSettings()
    quota: QuotaSettings = QuotaSettings()
    liveness: LivenessSettings = LivenessSettings()
    sweep: SweepSettings = SweepSettings()
    hosts: HostsSettings = HostsSettings()
    api: ApiSettings = ApiSettings()
    alerts: AlertsSettings = AlertsSettings()
    webhook: WebhookSettings = WebhookSettings()
    otlp: OtlpSettings = OtlpSettings()

    @field_validator("log_level", mode="before")
    @classmethod
    def _spell(cls, level: object) -> object:
        """Take Python's word, and capitals, too."""
        level = level.lower() if isinstance(level, str) else level
        return "warn" if level == "warning" else level

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must stand in no log line."""
        found = [self.s3.secret_access_key, self.webhook.secret]
        texts = [secret.get_secret_value() for secret in found if secret is not None]
        return tuple(part for text in texts for part in _split_commas(text))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources: Sequence[PydanticBaseSettingsSource] = (init_settings, env_settings, dotenv_settings)
        if os.environ.get("RAYHAUL_CONFIG"):
            sources = (*sources, _YamlFromEnvironment(settings_cls))
        return tuple(sources)
