"""The service-level objectives, by Prometheus's count; `GET /slo` has the ledger's, which needs no Prometheus.

Built on what dashboards/generated/slos.rules.yaml records.
"""

from dashboards.board import JOB, Board, Look, Panel, Query, Row


def _slo(name: str) -> str:
    return f'slo:{name}{{job=~"{JOB}"}}'


_NOW = Row(
    title="Now",
    panels=(
        Panel(
            title="Error budget left",
            description="Of each objective's window. At 0 the objective is missed; then mend before you build.",
            unit="percentunit",
            queries=(Query(expr=_slo("period_error_budget_remaining:ratio"), legend="{{slo}}"),),
            look=Look.NUMBER,
            width=24,
            is_signed=True,
        ),
    ),
)

_TIME = Row(
    title="Over time",
    panels=(
        Panel(
            title="Error budget left",
            description="How the budget was spent: a cliff is an incident, a slope is a habit.",
            unit="percentunit",
            queries=(Query(expr=_slo("period_error_budget_remaining:ratio"), legend="{{slo}}"),),
            width=12,
            is_signed=True,
        ),
        Panel(
            title="Burn rate",
            description="How many times too fast the budget is being spent. At 1 it lasts for exactly the window; 14.4 "
            "pages.",
            unit="none",
            queries=(Query(expr=_slo("current_burn_rate:ratio"), legend="{{slo}}"),),
            thresholds=((1, "orange"), (14.4, "red")),
            width=12,
        ),
        Panel(
            title="Bad events, last 5 minutes",
            description="Share of what happened in the last five minutes that was not good enough.",
            unit="percentunit",
            queries=(Query(expr=_slo("sli_error:ratio_rate5m"), legend="{{slo}}"),),
            width=12,
        ),
        Panel(
            title="Events",
            description="What each objective counts, a second: requests, jobs, probes, events. None: nothing can be "
            "said.",
            unit="cps",
            queries=(Query(expr=_slo("events:rate5m"), legend="{{slo}}"),),
            width=12,
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-slo",
    title="Rayhaul · Objectives",
    description="The service-level objectives: what is left of their error budgets.",
    rows=(_NOW, _TIME),
)
