"""What alerts and objectives are about: each name of the observability specification, defined once over our metrics.

The Prometheus rules are written from these definitions (dashboards/promql.py), and the scheduler's own readings are
computed from them (readings.py), so that both say the same of the same counts.

Laws of this file:
1. Units are the specification's: rates per minute, shares 0 to 1, percentages where the name says `pct`, milliseconds
   where it says `ms`; seconds otherwise.
2. An indicator that is told apart by a label stands, where one number is wanted, for its highest value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayhaul import metrics
from rayhaul.metrics import Metric
from rayhaul.policy.alert_rules import AlertRule, window_text

#: The window of a rate, where nothing else is said: 20 scrapes at the usual 15 s.
RATE_WINDOW_S = 300
#: The window of what is rare: jobs that end, and what is usual to compare with.
LONG_WINDOW_S = 3600


@dataclass(frozen=True, slots=True)
class Match:
    """A condition on a label: a regular expression that the whole value must match, or must not."""

    label: str
    pattern: str
    is_not: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The sum of a metric over those of its label values that match, told apart by one label at most."""

    metric: Metric
    matches: tuple[Match, ...] = ()
    #: The label to tell apart by; empty: the sum over all.
    by: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """A gauge as it stands."""

    of: Selection


@dataclass(frozen=True, slots=True)
class Rate:
    """Increase per minute over the window."""

    of: Selection
    window_s: int = RATE_WINDOW_S


@dataclass(frozen=True, slots=True)
class Share:
    """What part of the increase over the window, 0 to 1. Nothing of nothing is no share at all."""

    part: Selection
    whole: Selection
    window_s: int = RATE_WINDOW_S


@dataclass(frozen=True, slots=True)
class LevelShare:
    """One gauge in percent of another."""

    part: Selection
    whole: Selection


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of what a histogram took in over the window, interpolated within its bucket as Prometheus does."""

    of: Selection
    quantile: float
    window_s: int = RATE_WINDOW_S
    #: What the histogram's seconds are multiplied by.
    factor: float = 1.0


Formula = Level | Rate | Share | LevelShare | Quantile


@dataclass(frozen=True, slots=True)
class Indicator:
    #: As in the specification, or made like those there.
    name: str
    help: str
    formula: Formula

    @property
    def selections(self) -> tuple[Selection, ...]:
        match self.formula:
            case Share(part=part, whole=whole) | LevelShare(part=part, whole=whole):
                return (part, whole)
            case Level(of=of) | Rate(of=of) | Quantile(of=of):
                return (of,)

    @property
    def record(self) -> str:
        """The name of its Prometheus recording rule: level, metric, operations (prometheus.io/docs/practices/rules)."""
        level = self.selections[0].by or "job"
        stem = self.name.replace(".", "_").removesuffix("_rate").removesuffix("_rate_1h")
        return f"{level}:rayhaul_{stem}:{_operation(self.formula)}"


def _operation(formula: Formula) -> str:
    match formula:
        case Level():
            return "sum"
        case LevelShare():
            return "ratio"
        case Rate(window_s=window_s):
            return f"per_minute{window_text(window_s)}"
        case Share(window_s=window_s):
            return f"ratio_rate{window_text(window_s)}"
        case Quantile(window_s=window_s):
            return f"rate{window_text(window_s)}"


#: Requests whose answer says whether the service works. Health checks answer 503 on purpose.
_REQUESTS = (Match("route", "/livez|/readyz|/metrics", is_not=True),)
REQUESTS = Selection(metrics.HTTP_REQUESTS, _REQUESTS)
REQUESTS_FAILED = Selection(metrics.HTTP_REQUESTS, (*_REQUESTS, Match("status", "5..")))
JOBS_FAILED = Selection(metrics.JOBS_FINISHED, (Match("outcome", "failed"),))
#: Those that neither the caller nor the source brought about.
JOBS_FAILED_BY_SERVICE = Selection(metrics.JOBS_FINISHED, (Match("outcome", "failed"), Match("fault", "sink|us")))
#: Cancelled jobs neither succeeded nor failed.
JOBS_ENDED = Selection(metrics.JOBS_FINISHED, (Match("outcome", "completed|failed"),))
_SINK_FAILED = Selection(
    # An answer "there is no such object" is one, and a body cut short or a lease cancelled is not the bucket's doing.
    metrics.SINK_REQUESTS,
    (Match("result", "ok|absent|body|cancelled", is_not=True),),
)
_CREATED = Selection(metrics.JOBS_CREATED)
_DURATION = Selection(metrics.JOB_DURATION)
_METADATA = Selection(metrics.METADATA_FETCH)
_READY = Selection(metrics.METADATA_READY)
_LATENCY = Selection(metrics.HTTP_DURATION)


def _by_route(selection: Selection) -> Selection:
    return Selection(selection.metric, selection.matches, by="route")


_ALL = (
    Indicator("jobs.created.rate", "New jobs per minute.", Rate(_CREATED)),
    Indicator(
        "jobs.created.rate_1h", "New jobs per minute over an hour: what is usual.", Rate(_CREATED, LONG_WINDOW_S)
    ),
    Indicator(
        "jobs.completed.rate",
        "Completions per minute.",
        Rate(Selection(metrics.JOBS_FINISHED, (Match("outcome", "completed"),))),
    ),
    Indicator("jobs.failed.rate", "Failures per minute, whoever is to blame.", Rate(JOBS_FAILED)),
    Indicator(
        "jobs.failed_by_service.rate",
        "Failures per minute that are the bucket's fault or ours.",
        Rate(JOBS_FAILED_BY_SERVICE),
    ),
    Indicator("jobs.ended.rate", "Jobs completed or failed per minute.", Rate(JOBS_ENDED)),
    *(
        Indicator(
            f"jobs.duration_p{percent}",
            f"Seconds from creation to completion, {percent}th percentile over an hour.",
            Quantile(_DURATION, percent / 100, LONG_WINDOW_S),
        )
        for percent in (50, 95, 99)
    ),
    *(
        Indicator(
            f"metadata.fetch_duration_p{percent}",
            f"Seconds a metadata probe took, {percent}th percentile.",
            Quantile(_METADATA, percent / 100),
        )
        for percent in (50, 95, 99)
    ),
    *(
        Indicator(
            f"metadata.ready_p{percent}",
            f"Seconds from a job's creation until its metadata stood, {percent}th percentile.",
            Quantile(_READY, percent / 100),
        )
        for percent in (50, 95, 99)
    ),
    Indicator("queue.depth", "Jobs waiting for an agent.", Level(Selection(metrics.QUEUE_DEPTH))),
    Indicator("queue.dlq.depth", "Jobs in the dead-letter queue.", Level(Selection(metrics.QUEUE_DLQ_DEPTH))),
    Indicator(
        "queue.oldest_age_s", "Seconds the longest-waiting job has waited.", Level(Selection(metrics.QUEUE_OLDEST_AGE))
    ),
    Indicator(
        "worker.capacity_pct", "Average share of the agents in use.", Level(Selection(metrics.WORKER_CAPACITY_AVG))
    ),
    Indicator("worker.offline_count", "Agents that stopped reporting.", Level(Selection(metrics.WORKER_OFFLINE))),
    Indicator(
        "worker.offline_pct",
        "Agents that stopped reporting, in percent of all.",
        LevelShare(Selection(metrics.WORKER_OFFLINE), Selection(metrics.WORKERS)),
    ),
    Indicator(
        "r2.upload.error_rate",
        "Share of requests to the bucket that it failed or refused, before they were tried again.",
        Share(_SINK_FAILED, Selection(metrics.SINK_REQUESTS)),
    ),
    Indicator(
        "r2.upload.exhausted_rate",
        "Bucket operations per minute that were given up after their last retry.",
        Rate(Selection(metrics.SINK_RETRIES_EXHAUSTED)),
    ),
    Indicator(
        "sink.parked", "1 while the bucket refuses us and no job is started.", Level(Selection(metrics.SINK_PARKED))
    ),
    Indicator("do.connections", "Open event streams.", Level(Selection(metrics.SSE_CONNECTIONS))),
    *(
        Indicator(
            f"sse.delivery_lag_p{percent}",
            f"Seconds from an event's commit until a client had it, {percent}th percentile.",
            Quantile(Selection(metrics.SSE_DELIVERY_LAG), percent / 100),
        )
        for percent in (50, 95, 99)
    ),
    Indicator(
        "api.error_rate_5xx",
        "Share of an endpoint's answers that are 5xx.",
        Share(_by_route(REQUESTS_FAILED), _by_route(REQUESTS)),
    ),
    *(
        Indicator(
            f"api.p{percent}_latency_ms",
            f"Milliseconds until a response began, {percent}th percentile.",
            Quantile(_LATENCY, percent / 100, factor=1000),
        )
        for percent in (50, 95, 99)
    ),
    Indicator(
        "api.rate_limit_hits", "Requests per minute refused by a rate limit.", Rate(Selection(metrics.RATE_LIMIT_HITS))
    ),
    Indicator("scheduler.tick_errors", "Turns per minute that failed.", Rate(Selection(metrics.TICK_ERRORS))),
)

INDICATORS: Mapping[str, Indicator] = {indicator.name: indicator for indicator in _ALL}


def check_known(rules: Iterable[AlertRule]) -> None:
    """See that each rule is about indicators that there are, told apart alike.

    Raises: ValueError, one sentence: a rule about a name that nobody reads would be an alert that never fires.
    """
    for rule in rules:
        names = [name for name in (rule.condition.metric, rule.condition.divisor) if name is not None]
        for name in names:
            if name not in INDICATORS:
                raise ValueError(f"Alert {rule.name}: there is no indicator {name!r}.")
        if len({INDICATORS[name].selections[0].by for name in names}) > 1:
            raise ValueError(f"Alert {rule.name}: {' and '.join(names)} are told apart by different labels.")
