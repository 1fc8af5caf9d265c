"""The API and its event streams."""

from dashboards.board import (
    Board,
    Look,
    Panel,
    Query,
    Row,
    or_zero,
    per_minute,
    quantile,
    quantiles,
    rate,
    share,
    share_within,
    total,
)
from rayhaul.metrics import (
    HTTP_DURATION,
    HTTP_REQUESTS,
    RATE_LIMIT_HITS,
    SSE_CONNECTIONS,
    SSE_DELIVERY_LAG,
    SSE_EVENT_LAG,
)

#: Asked for by machines, all the time.
_USERS = 'route!~"/livez|/readyz|/metrics"'

_REQUESTS = Row(
    title="Requests",
    panels=(
        Panel(
            title="Requests by route",
            description="Requests a second, but for health checks and scrapes.",
            unit="reqps",
            queries=(Query(expr=rate(HTTP_REQUESTS, _USERS, by="route"), legend="{{route}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Requests by status",
            description="Requests a second by status: 4xx are callers' mistakes, 5xx ours.",
            unit="reqps",
            queries=(Query(expr=rate(HTTP_REQUESTS, _USERS, by="status"), legend="{{status}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Server errors",
            description="Share of requests answered with 5xx (api.error_rate_5xx). Above 0.5 % it is an alert.",
            unit="percentunit",
            queries=(
                Query(
                    expr=share(rate(HTTP_REQUESTS, _USERS, 'status=~"5.."'), rate(HTTP_REQUESTS, _USERS)), legend="5xx"
                ),
            ),
            thresholds=((0.005, "red"),),
        ),
        Panel(
            title="Latency",
            description="Time until a response begins (api.p95_latency_ms is its p95). Above 0.5 s watch it, above 1 s "
            "it is an alert.",
            unit="s",
            queries=quantiles(HTTP_DURATION),
            thresholds=((0.5, "orange"), (1, "red")),
        ),
        Panel(
            title="Latency by route",
            description="p95 of each route.",
            unit="s",
            queries=(Query(expr=quantile(0.95, HTTP_DURATION, by="route"), legend="{{route}}"),),
        ),
        Panel(
            title="Rate limit",
            description="Requests a minute refused by a rate limit (api.rate_limit_hits). A spike is a caller gone "
            "wild.",
            unit="cpm",
            queries=(Query(expr=per_minute(RATE_LIMIT_HITS), legend="refused"),),
        ),
    ),
)

_STREAMS = Row(
    title="Event streams",
    panels=(
        Panel(
            title="Open streams",
            description="Open event streams over all replicas (do.connections).",
            unit="short",
            queries=(Query(expr=or_zero(total(SSE_CONNECTIONS)), legend="open"),),
        ),
        Panel(
            title="Lag",
            description="From an event's commit until it was sent.",
            unit="s",
            queries=quantiles(SSE_EVENT_LAG),
            thresholds=((5, "red"),),
        ),
        Panel(
            title="Lag at the client",
            description="From an event's commit until a client behind the ingress had it, as the prober measures.",
            unit="s",
            queries=quantiles(SSE_DELIVERY_LAG),
            thresholds=((5, "red"),),
        ),
        Panel(
            title="Within 5 s",
            description="Share of events that were sent within 5 s of their commit. All of them should be.",
            unit="percentunit",
            queries=(Query(expr=share_within(SSE_EVENT_LAG, 5.0), legend="within 5 s"),),
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-api",
    title="Rayhaul · API and event streams",
    description="The API and its event streams.",
    rows=(_REQUESTS, _STREAMS),
)
