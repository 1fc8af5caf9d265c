"""Prometheus rules from the alert files, the objectives and the indicators: mappings, as they stand in a rules file.

Laws of this file:
1. Every alert has a severity, a summary, and a runbook page that there is.
2. Alerts read recording rules only, so that a panel and an alert never differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards import promql
from rayhaul.policy import runbooks
from rayhaul.policy.alert_rules import AlertRule, Severity, window_text
from rayhaul.policy.indicators import INDICATORS, RATE_WINDOW_S, Selection, check_known
from rayhaul.policy.objectives import (
    BURN_EVENTS_MIN,
    BURNS,
    DAY_S,
    EVENTS,
    Burn,
    Objective,
)

Rule = Mapping[str, Any]
Group = Mapping[str, Any]

#: Two scrapes may fail before anybody is woken.
_DOWN_FOR = "1m"
_ABSENT_FOR = "5m"


@dataclass(frozen=True, slots=True)
class Runbooks:
    """Where the pages are."""

    base: str = "docs/runbooks/"

    def url(self, page: str) -> str:
        return f"{self.base}{page}.md"


def recording_groups() -> Sequence[Group]:
    """Return a rule for each indicator."""
    rules = [{"record": indicator.record, "expr": promql.expression(indicator)} for indicator in INDICATORS.values()]
    return [{"name": "rayhaul-indicators", "rules": rules}]


def alert_groups(seven: Sequence[AlertRule], more: Sequence[AlertRule], pages: Runbooks) -> Sequence[Group]:
    """Return the alerts of both files, and those that watch over the watching.

    Raises: ValueError, one sentence, for a rule about what is not known.
    """
    check_known((*seven, *more))
    return [
        {"name": "rayhaul-alerts", "rules": [_alert(rule, pages) for rule in seven]},
        {"name": "rayhaul-alerts-more", "rules": [_alert(rule, pages) for rule in more]},
        {"name": "rayhaul-meta", "rules": [_watchdog(pages), _down(pages), *_absent(pages)]},
    ]


def objective_groups(objectives: Sequence[Objective], pages: Runbooks) -> Sequence[Group]:
    """Return the indicators of each objective, and its multi-window, multi-burn-rate alerts."""
    return [
        {"name": f"rayhaul-slo-{objective.name}", "rules": [*_sli(objective), *_burn_alerts(objective, pages)]}
        for objective in objectives
    ]


def metrics_watched() -> Sequence[str]:
    """Return the exported names that indicators and objectives are made of, each once."""
    selections: Iterable[Selection] = (
        *(selection for indicator in INDICATORS.values() for selection in indicator.selections),
        *(events.total for events in EVENTS.values()),
    )
    names = {f"{s.metric.name}_count" if s.metric.buckets else s.metric.name: None for s in selections}
    return list(names)


def _alert(rule: AlertRule, pages: Runbooks) -> Rule:
    indicator = INDICATORS[rule.condition.metric]
    where = f" on {{{{ $labels.{by} }}}}" if (by := indicator.selections[0].by) else ""
    return {
        "alert": rule.name,
        "expr": promql.condition(rule),
        "for": window_text(rule.window_s),
        "labels": {"severity": str(rule.severity)} | ({"action": str(rule.action)} if rule.action else {}),
        "annotations": {
            "summary": f"{rule.condition} for {window_text(rule.window_s)}{where}; it is {{{{ $value | humanize }}}}.",
            "description": indicator.help,
            "runbook_url": pages.url(runbooks.page_of(rule)),
        },
    }


def _watchdog(pages: Runbooks) -> Rule:
    return {
        "alert": "Watchdog",
        "expr": "vector(1)",
        "labels": {"severity": "none"},
        "annotations": {
            "summary": "Alerting works. It always fires: be told where it stops.",
            "runbook_url": pages.url(runbooks.OBJECTIVES_PAGE),
        },
    }


def _down(pages: Runbooks) -> Rule:
    return {
        "alert": "RayhaulDown",
        "expr": 'up{job="rayhaul"} == 0',
        "for": _DOWN_FOR,
        "labels": {"severity": str(Severity.P1)},
        "annotations": {
            "summary": "/metrics of {{ $labels.instance }} does not answer.",
            "runbook_url": pages.url(runbooks.OBJECTIVES_PAGE),
        },
    }


def _absent(pages: Runbooks) -> Sequence[Rule]:
    return [
        {
            "alert": "IndicatorAbsent",
            "expr": f"absent({name})",
            "for": _ABSENT_FOR,
            "labels": {"severity": str(Severity.P2), "metric": name},
            "annotations": {
                "summary": f"{name} is not there: alerts that rest on it are blind.",
                "runbook_url": pages.url(runbooks.OBJECTIVES_PAGE),
            },
        }
        for name in metrics_watched()
    ]


def _sli(objective: Objective) -> Sequence[Rule]:
    """Return what the alerts and panels read, under Sloth's names.

    Windows longer than five minutes are sums over the recorded rates: each event weighs the same, and Prometheus need
    not go through 30 days of raw samples.
    """
    events, labels = EVENTS[objective.events], {"slo": objective.name}
    chosen = f'{{slo="{objective.name}"}}'
    windows_s = sorted({*(burn.long_s for burn in BURNS), *(burn.short_s for burn in BURNS)} - {RATE_WINDOW_S})
    period = f"{objective.window_days}d"
    current = f"slo:sli_error:ratio_rate{_text(RATE_WINDOW_S)}{chosen}"
    recorded: Mapping[str, str] = {
        "slo:events:rate5m": promql.total_rate(events.total, RATE_WINDOW_S),
        "slo:bad_events:rate5m": promql.bad_rate(events.bad, events.total, RATE_WINDOW_S),
        "slo:sli_error:ratio_rate5m": f"slo:bad_events:rate5m{chosen} / slo:events:rate5m{chosen}",
        **{f"slo:sli_error:ratio_rate{window}": _over(window, chosen) for window in map(_text, windows_s)},
        f"slo:sli_error:ratio_rate{period}": _over(period, chosen),
        "slo:objective:ratio": f"vector({round(objective.target_pct / 100, 9):g})",
        "slo:error_budget:ratio": f"vector({objective.budget:g})",
        "slo:time_period:days": f"vector({objective.window_days})",
        "slo:current_burn_rate:ratio": f"{current} / {objective.budget:g}",
        "slo:period_burn_rate:ratio": f"slo:sli_error:ratio_rate{period}{chosen} / {objective.budget:g}",
        "slo:period_error_budget_remaining:ratio": f"1 - slo:period_burn_rate:ratio{chosen}",
    }
    return [{"record": name, "expr": text, "labels": labels} for name, text in recorded.items()]


def _over(window: str, chosen: str) -> str:
    return (
        f"sum_over_time(slo:bad_events:rate5m{chosen}[{window}]) / sum_over_time(slo:events:rate5m{chosen}[{window}])"
    )


def _burn_alerts(objective: Objective, pages: Runbooks) -> Sequence[Rule]:
    return [_burn_alert(objective, burn, pages) for burn in BURNS]


def _burn_alert(objective: Objective, burn: Burn, pages: Runbooks) -> Rule:
    chosen, factor = f'{{slo="{objective.name}"}}', round(burn.factor(objective), 9)
    long, short = _text(burn.long_s), _text(burn.short_s)
    limit = f"{factor:g} * {objective.budget:g}"
    events = f"avg_over_time(slo:events:rate5m{chosen}[{long}]) * {burn.long_s} >= {BURN_EVENTS_MIN}"
    return {
        "alert": burn_alert_name(objective, burn),
        "expr": (
            f"slo:sli_error:ratio_rate{long}{chosen} > ({limit})"
            f" and slo:sli_error:ratio_rate{short}{chosen} > ({limit})"
            f" and {events}"
        ),
        "for": window_text(burn.for_s),
        "labels": {"severity": str(burn.severity), "long": long, "short": short},
        "annotations": {
            "summary": (
                f"{objective.name}: the budget of {objective.window_days} days burns more than {factor:g} times too "
                f"fast; {{{{ $value | humanizePercentage }}}} of the events of the last {long} were bad."
            ),
            "description": objective.summary,
            "runbook_url": pages.url(runbooks.OBJECTIVES_PAGE),
        },
    }


def burn_alert_name(objective: Objective, burn: Burn) -> str:
    return f"{objective.name}BudgetBurn{_text(burn.long_s)}"


def _text(window_s: int) -> str:
    """Return a window as Prometheus writes it, days included."""
    return f"{window_s // DAY_S}d" if window_s % DAY_S == 0 else window_text(window_s)
