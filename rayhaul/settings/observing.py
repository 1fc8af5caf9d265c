"""What operators see: alerts and traces."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from rayhaul.settings.base import Group, split_commas


class AlertsSettings(Group):
    disabled: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names of alerts that are not evaluated, and not built for Prometheus, separated by commas."
    )

    _split = field_validator("disabled", mode="before")(split_commas)


class OtlpSettings(Group):
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
    pairs = [entry.partition("=") for entry in split_commas(text.get_secret_value() if text else "")]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError("is not `name=value`, separated by commas")
    return {name.strip(): value.strip() for name, _, value in pairs}
