"""Draws the overview dashboard from a real Prometheus: `python -m bench.overview_picture [--out PNG]`.

The service runs in this process (scheduler, two agents, courier, API, ledger, SeaweedFS; all but Ray) and is given work
in waves for a few minutes, some of which fails; Prometheus (Debian's package) scrapes it. Then every panel of the
overview is drawn from what Prometheus answers to its queries, in the places that the dashboard gives them.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from dashboards.board import Look, Panel
from dashboards.boards.overview import BOARD
from rayhaul import Client
from rayhaul.settings import AgentSettings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from inprocess import Service, quick_settings, service_thread
from origin import Origin, OriginThread
from prometheus import Prometheus, running_prometheus
from store import running_store

KIB, MIB = 1024, 1024 * 1024
_STEP_S = 2.0
_COLUMNS = 24

#: Grafana's classic palette and its dark theme.
_COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2")
_NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
_PAGE, _CARD, _TEXT, _DIM = "#111217", "#181b1f", "#ccccdc", "#8e8e9c"


def submit_waves(service: Service, origin: Origin, duration_s: float) -> None:
    """Give work for so long: a wave of small files, of large ones, and a few that are not there."""
    rng, end_s, count = Random(5), time.monotonic() + duration_s, 0
    with Client(service.url, service.alice) as client:
        threading.Thread(target=listen, args=(service, end_s), daemon=True).start()
        while time.monotonic() < end_s:
            for _ in range(rng.choice([4, 8, 12, 40])):
                count += 1
                size = int(KIB * 2 ** rng.uniform(4, 12))
                gone = {"status": 404} if count % 40 == 0 else {}
                url = origin.add(f"wave-{count}.bin", size=size, seed=count, **gone)
                client.submit(url, priority=rng.choice(["low", "normal", "high"]))
            for _ in range(3):
                count += 1
                client.submit(origin.add(f"large-{count}.bin", size=16 * MIB, seed=count, rate_bytes_per_s=2 * MIB))
            client.list(limit=20)
            time.sleep(rng.uniform(1, 8))


def listen(service: Service, end_s: float) -> None:
    """Keep an event stream open, as a page does."""
    headers = {"Authorization": f"Bearer {service.alice}"}
    with httpx.stream("GET", f"{service.url}/events", headers=headers, timeout=60) as response:
        for _ in response.iter_lines():
            if time.monotonic() > end_s:
                return


def draw(prometheus: Prometheus, start_s: float, end_s: float, out: Path) -> None:
    mpl.rcParams.update(
        {
            "font.size": 8,
            "text.color": _TEXT,
            "axes.labelcolor": _DIM,
            "xtick.color": _DIM,
            "ytick.color": _DIM,
            "axes.facecolor": _CARD,
            "figure.facecolor": _PAGE,
            "axes.edgecolor": _CARD,
            "grid.color": "#2c2f36",
        }
    )
    heights = [1 if row.panels[0].look is Look.NUMBER else 2 for row in BOARD.rows]
    figure = plt.figure(figsize=(16, 1.9 * sum(heights)), dpi=100)
    grid = GridSpec(len(heights), _COLUMNS, figure, height_ratios=heights, hspace=0.42, wspace=2.2)
    grid.update(left=0.035, right=0.985, top=0.94, bottom=0.035)
    figure.suptitle(BOARD.title, x=0.035, y=0.985, ha="left", fontsize=15, fontweight="bold")
    for line, row in enumerate(BOARD.rows):
        x = 0
        for panel in row.panels:
            axes = figure.add_subplot(grid[line, x : x + panel.width])
            series = [
                (query.legend, found)
                for query in panel.queries
                for found in prometheus.range(query.expr, start_s=start_s, end_s=end_s, step_s=_STEP_S)
            ]
            (_number if panel.look is Look.NUMBER else _lines)(axes, panel, series)
            x += panel.width
    figure.savefig(out, facecolor=_PAGE)


Series = Sequence[tuple[str, Any]]


def _points(found: Any) -> tuple[list[float], list[float]]:
    points = [(float(at), float(value)) for at, value in found["values"]]
    known = [(at, value) for at, value in points if value == value]  # noqa: PLR0124 - NaN
    return [at for at, _ in known], [value for _, value in known]


def _number(axes: Axes, panel: Panel, series: Series) -> None:
    axes.set_axis_off()
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, color=_CARD, zorder=-1))
    at, values = _points(series[0][1])
    spark = axes.inset_axes((0, 0, 1, 0.3))
    spark.set_axis_off()
    spark.set_ylim(0, max([*values, 1e-9]) * 1.1)
    last = values[-1] if values else 0.0
    colour = _NAMED["green"]
    for bound, name in panel.thresholds:
        colour = _NAMED[name] if last >= bound else colour
    axes.text(0.05, 0.82, panel.title, transform=axes.transAxes, va="center", color=_TEXT, fontsize=9)
    spark.fill_between(at, values, color=colour, alpha=0.25, linewidth=0)
    text = shown(last, panel.unit)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=colour, fontsize=24)


def _lines(axes: Axes, panel: Panel, series: Series) -> None:
    drawn = [(name_of(legend, found) or panel.title, *_points(found)) for legend, found in series]
    # What stands for nothing while there is nothing need not be named.
    drawn = [line for line in drawn if line[1] and (line[0] != "none" or len(drawn) == 1)]
    if panel.look is Look.STACK and drawn:
        _stack(axes, drawn)
    else:
        for (name, at, values), colour in zip(drawn, _COLOURS * 3, strict=False):
            axes.plot(at, values, color=colour, linewidth=1.2, label=f"{name}  {shown(values[-1], panel.unit)}")
            axes.fill_between(at, values, color=colour, alpha=0.1, linewidth=0)
    top = max([value for _, _, values in drawn for value in values], default=1.0)
    for bound, name in panel.thresholds:
        if bound <= top * 1.5:
            axes.axhline(bound, color=_NAMED[name], linewidth=0.8, linestyle="--")
    axes.set_title(panel.title, loc="left", fontsize=9, color=_TEXT)
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] if top > 0 else 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel.unit)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"))
    axes.xaxis.set_major_locator(MultipleLocator(30))
    axes.grid(visible=True, linewidth=0.5)
    axes.tick_params(length=0)
    if drawn:
        columns = min(4, len(drawn))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=columns, frameon=False, fontsize=7)


def _stack(axes: Axes, drawn: Sequence[tuple[str, list[float], list[float]]]) -> None:
    # All on the times of the longest: what is not there yet is 0.
    at = max((line[1] for line in drawn), key=len)
    rows = []
    for _, mine, values in drawn:
        known = dict(zip(mine, values, strict=True))
        rows.append([known.get(moment, 0.0) for moment in at])
    names = [f"{name}  {values[-1]:g}" for name, _, values in drawn]
    axes.stackplot(at, rows, labels=names, colors=_COLOURS[: len(rows)], alpha=0.55, linewidth=0.8)


def name_of(legend: str, found: Any) -> str:
    """Return the legend with its labels filled in, as Grafana does."""
    for label, value in found["metric"].items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, as Grafana writes it.

    >>> shown(0.25, "percentunit"), shown(2_500_000, "Bps"), shown(0.02, "s")
    ('25 %', '2.5 MB/s', '20 ms')
    """
    match unit:
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "percent":
            return f"{value:.3g} %"
        case "Bps":
            return next(f"{value / scale:.3g} {name}" for scale, name in _RATES if value >= scale or scale == 1)
        case "cpm":
            return f"{value:.3g}/min"
        case "s":
            return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
        case _:
            return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


_RATES = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the overview from a real run.")
    parser.add_argument("--out", type=Path, default=Path("docs/overview.png"))
    parser.add_argument("--seconds", type=float, default=240)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, running_store() as store:
        # Few slots: the queue is to be seen.
        settings = quick_settings(store.settings, agent=AgentSettings(slots=4))
        with service_thread(Path(place), settings) as service, OriginThread() as origin:
            target = service.url.removeprefix("http://")
            with running_prometheus(
                Path(place) / "prometheus", target=target, key=service.operator, window="30s"
            ) as prometheus:
                time.sleep(5)
                start_s = time.time()
                submit_waves(service, origin, asked.seconds)
                draw(prometheus, start_s, time.time(), asked.out)
    print(f"drawn: {asked.out}")


if __name__ == "__main__":
    main()
