"""Whether this process records spans, and the library that sends them: imported only where it does."""

import logging
from importlib.util import find_spec

from rayhaul.errors import ServiceError
from rayhaul.metrics import Meter
from rayhaul.settings import OtlpSettings
from rayhaul.tracing import OFF, Recorder, Tracer

log = logging.getLogger(__name__)

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def check_exporter(settings: OtlpSettings) -> None:
    """Raises: ServiceError where traces are wanted and the library that sends them is not installed."""
    if settings.endpoint is not None and not _is_installed():
        raise ServiceError(
            "RAYHAUL_OTLP__ENDPOINT is set, but what sends traces is missing: pip install 'rayhaul[otlp]'"
        )


def open_tracer(settings: OtlpSettings, service: str, meter: Meter, *, instance: str) -> Tracer:
    """Return the tracer of a process, OFF without an endpoint; `service` and `instance` name it to the collector.

    A machine without the library works on without traces, and says so in its log.
    """
    if settings.endpoint is None:
        return OFF
    try:
        check_exporter(settings)
    except ServiceError as error:
        log.error("no traces: %s", error.message, extra={"code": error.code})  # noqa: TRY400 - the sentence says it
        return OFF
    from rayhaul.otlp import OtlpQueue  # noqa: PLC0415 - the library is large, and only wanted here

    queue = OtlpQueue(settings, service, instance, meter)
    return Recorder(queue.record, sample_ratio=settings.sample_ratio, close=queue.close)


def _is_installed() -> bool:
    try:
        return find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        # Not even the packages around it.
        return False
