"""The one Settings value: read once at a composition root, handed down by value.

Environment variables have the prefix `RAYHAUL_` and `__` between group and field (`RAYHAUL_S3__BUCKET`); a `.env` file
in the working directory and a YAML file named by `RAYHAUL_CONFIG` come after them. Actors get their groups in their
constructors and never read the environment: it would be the wrong machine's.
"""

from rayhaul.settings.agents import AgentSettings, TransferSettings
from rayhaul.settings.base import MIB
from rayhaul.settings.callers import ApiSettings, WebhookSettings
from rayhaul.settings.observing import AlertsSettings, OtlpSettings
from rayhaul.settings.root import Settings
from rayhaul.settings.scheduling import LivenessSettings, QueueSettings, QuotaSettings, ScalingSettings, SweepSettings
from rayhaul.settings.sources import EgressSettings, HostsSettings, SourceSettings, SourcesSettings
from rayhaul.settings.stores import LedgerSettings, S3Settings

__all__ = [
    "MIB",
    "AgentSettings",
    "AlertsSettings",
    "ApiSettings",
    "EgressSettings",
    "HostsSettings",
    "LedgerSettings",
    "LivenessSettings",
    "OtlpSettings",
    "QueueSettings",
    "QuotaSettings",
    "S3Settings",
    "ScalingSettings",
    "Settings",
    "SourceSettings",
    "SourcesSettings",
    "SweepSettings",
    "TransferSettings",
    "WebhookSettings",
]
