"""How the service-level objectives stand: read from the ledger, so that it is right without Prometheus."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.ledger.base import Ledger
from rayhaul.policy.alert_rules import window_text
from rayhaul.policy.objectives import DAY_S, EVENTS, Objective, Slower
from rayhaul.policy.standings import STRETCH_S, Count, Standing, standing, stretch_of, windows_of
from rayhaul.wire import SloList, SloView
from serve_app.auth import Caller
from serve_app.openapi import problems_of
from serve_app.replica import replica_of
from serve_app.views import reply

routes = APIRouter(tags=["operations"])


@routes.get("/slo", response_model=SloList, responses=problems_of(401, 503))
async def slo(request: Request, caller: Caller) -> Response:  # noqa: ARG001 - any key may read them
    """Show each service-level objective: its ratio over its window, what is left of its budget, how fast it burns."""
    replica = replica_of(request)
    found = await standings(replica.objectives, replica.ledger, replica.now)
    return reply(SloList(slos=[_view(one) for one in found]))


async def standings(objectives: Sequence[Objective], ledger: Ledger, now: datetime) -> Sequence[Standing]:
    """Return how each objective stands.

    Jobs that wait for their metadata for longer than allowed count as bad now, not only once it has come.
    """
    stretch = stretch_of(now)
    windows: dict[int, Mapping[str, Count]] = {}
    for window_s in windows_of(objectives):
        # Whole stretches, the one under way as the last.
        windows[window_s] = await ledger.slo_totals(stretch - timedelta(seconds=window_s - STRETCH_S))
    waiting = {one.name: await _overdue(one, ledger, now) for one in objectives}
    return [
        standing(one, {window_s: _with(counts, one.name, waiting[one.name]) for window_s, counts in windows.items()})
        for one in objectives
    ]


async def _overdue(objective: Objective, ledger: Ledger, now: datetime) -> int:
    bad = EVENTS[objective.events].bad
    if objective.events != "metadata.ready" or not isinstance(bad, Slower):
        return 0
    return await ledger.metadata_overdue(now - timedelta(seconds=bad.bound_s))


def _with(counts: Mapping[str, Count], name: str, waiting: int) -> Count:
    total, bad = counts.get(name, (0, 0))
    return total + waiting, bad + waiting


def _view(found: Standing) -> SloView:
    objective = found.objective
    return SloView(
        name=objective.name,
        summary=objective.summary,
        target=round(objective.target_pct / 100, 9),
        window=f"{objective.window_days}d",
        events=found.total,
        bad=found.bad,
        ratio=found.ratio,
        budget_left=found.budget_left,
        burn_rate=found.burn_rate,
        burn_rates={_text(window_s): rate for window_s, rate in found.burn_rates.items()},
        burning=None if found.burning is None else found.burning.severity.value,
    )


def _text(window_s: int) -> str:
    return f"{window_s // DAY_S}d" if window_s % DAY_S == 0 else window_text(window_s)
