"""The root of all settings: one value of all groups, and where it is read from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from rayhaul.settings.agents import AgentSettings, TransferSettings
from rayhaul.settings.base import split_commas
from rayhaul.settings.callers import ApiSettings, WebhookSettings
from rayhaul.settings.observing import AlertsSettings, OtlpSettings
from rayhaul.settings.scheduling import LivenessSettings, QueueSettings, QuotaSettings, ScalingSettings, SweepSettings
from rayhaul.settings.sources import EgressSettings, HostsSettings, SourceSettings, SourcesSettings
from rayhaul.settings.stores import LedgerSettings, S3Settings


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

    @model_validator(mode="after")
    def _own_no_others(self) -> Self:
        """Refuse to own what keys only begin with: that of `in` is that of another cluster's `inner/` as well."""
        if self.sweep.owns_prefix and not f"/{self.s3.prefix}".endswith("/"):
            raise ValueError("sweep.owns_prefix: s3.prefix has to end in /")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must stand in no log line."""
        found = [self.s3.secret_access_key, self.webhook.secret]
        texts = [secret.get_secret_value() for secret in found if secret is not None]
        return tuple(part for text in texts for part in split_commas(text))

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


class _YamlFromEnvironment(YamlConfigSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, yaml_file=os.environ.get("RAYHAUL_CONFIG"))
