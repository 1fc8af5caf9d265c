"""What a dashboard shows, without saying for which program: rows of panels, each with unit, meaning and queries.

`dashboards/boards/` has the dashboards, `dashboards/grafana.py` makes Grafana's JSON of them.
"""

from dataclasses import dataclass
from enum import StrEnum

from rayhaul.metrics import Kind, Metric

#: What Grafana puts in the place of its variables: the Prometheus job that is looked at, and a window for rates.
JOB, WINDOW = "$job", "$__rate_interval"


class Look(StrEnum):
    #: Lines over time.
    LINES = "lines"
    #: Areas on top of each other: parts of a whole.
    STACK = "stack"
    #: One number, and how it came there.
    NUMBER = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """PromQL. It has an answer also when nothing is wrong: a panel that may mean «fine» or «broken» is no use."""

    expr: str
    #: Legend, with {{label}} in it; empty: the panel's title.
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    #: What is seen, and what to think of it.
    description: str
    #: Grafana's id of the unit.
    unit: str
    queries: tuple[Query, ...]
    look: Look = Look.LINES
    #: (from this value on, colour), ascending; below the first it is green.
    thresholds: tuple[tuple[float, str], ...] = ()
    #: Of 24 columns.
    width: int = 8
    #: Values may be below 0; others are shown from 0 on.
    is_signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    #: Part of its address: for good.
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]


def of(metric: Metric, *matchers: str) -> str:
    """Return the selector of a counter or gauge.

    >>> from rayhaul.metrics import QUEUE_DEPTH
    >>> of(QUEUE_DEPTH, 'priority="low"')
    'rayhaul_queue_depth{job=~"$job",priority="low"}'
    """
    assert metric.kind is not Kind.HISTOGRAM
    return _selector(metric.name, matchers)


def rate(metric: Metric, *matchers: str, by: str = "") -> str:
    """Return the sum of a counter's rates a second, by a label where one is named; 0 before there is anything."""
    assert metric.kind is Kind.COUNTER
    grouping = f" by ({by})" if by else ""
    return or_zero(f"sum{grouping} (rate({of(metric, *matchers)}[{WINDOW}]))", by)


def per_minute(metric: Metric, *matchers: str, by: str = "") -> str:
    return f"60 * ({rate(metric, *matchers, by=by)})"


def per_hour(metric: Metric, *matchers: str, by: str = "") -> str:
    return f"3600 * ({rate(metric, *matchers, by=by)})"


def total(metric: Metric, *matchers: str, by: str = "") -> str:
    """Return the sum of a gauge, by a label where one is named."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} ({of(metric, *matchers)})"


def peak(metric: Metric, *, by: str = "") -> str:
    """Return the highest value of a gauge that is told once, by a label where one is named."""
    grouping = f" by ({by})" if by else ""
    return f"max{grouping} ({of(metric)})"


def or_zero(expr: str, label: str = "") -> str:
    """Return the expression, with 0 in its place where there is nothing to show; named `none` where it has a label."""
    zero = f'label_replace(vector(0), "{label}", "none", "", "")' if label else "vector(0)"
    return f"({expr}) or on () {zero}"


def share(part: str, whole: str) -> str:
    """Return part / whole, between 0 and 1; 0 where there is no whole: nothing happened, nothing failed."""
    return or_zero(f"({part}) / (({whole}) > 0)")


def quantile(q: float, metric: Metric, by: str = "") -> str:
    """Return a quantile of a histogram over the window; NaN where nothing was observed in it."""
    grouping = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({grouping}) (rate({bucket(metric)}[{WINDOW}])))"


def quantiles(metric: Metric) -> tuple[Query, ...]:
    return tuple(Query(expr=quantile(q, metric), legend=f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


def share_within(metric: Metric, bound: float) -> str:
    """Return the share of what was observed that was at most `bound`, one of the histogram's bounds."""
    assert bound in metric.buckets
    within, all_ = bucket(metric, f'le="{bound}"'), _selector(f"{metric.name}_count", ())
    return f"sum (rate({within}[{WINDOW}])) / (sum (rate({all_}[{WINDOW}])) > 0) or on () vector(1)"


def bucket(metric: Metric, *matchers: str) -> str:
    assert metric.kind is Kind.HISTOGRAM
    return _selector(f"{metric.name}_bucket", matchers)


def _selector(name: str, matchers: tuple[str, ...]) -> str:
    inner = ",".join((f'job=~"{JOB}"', *matchers))
    return f"{name}{{{inner}}}"
